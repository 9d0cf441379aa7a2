//! What Redis may answer instead of doing it.

use super::*;
use crate::harness::redis::readme_user;
use crate::harness::{Redis, RedisOptions, eventually};

const EVENTS: [&str; 1] = ["user_updates"];

fn options(config: &[&str]) -> RedisOptions {
    let config = config.iter().map(|line| (*line).to_owned()).collect();
    RedisOptions { config, ..RedisOptions::default() }
}

#[tokio::test]
async fn a_forgotten_script_is_loaded_again() {
    let redis = Redis::start(RedisOptions::default()).await;
    let mut sink = connect(&[redis.url()]).await;
    sink.apply(&stream(vec![change("7", 1, "1")])).await.unwrap();
    redis.call(&["SCRIPT", "FLUSH"]).await;
    assert_eq!(sink.apply(&stream(vec![change("7", 2, "2")])).await.unwrap(), [APPLIED]);
    assert_eq!(redis.get("user_balance:live:7").await.as_deref(), Some("2"));
}

#[tokio::test]
async fn out_of_memory_deletes_the_stale_keys_and_ends_with_the_new_value() {
    let redis = Redis::start(RedisOptions::default()).await;
    let mut sink = connect(&[redis.url()]).await;
    let mut state = sink.state();
    sink.apply(&stream(vec![change("7", 1, "1")])).await.unwrap();
    redis.call(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let mut subscriber = subscribe(redis.client().await, &EVENTS).await;
    let flight = stream(vec![change("7", 2, "2"), change("7", 3, "3")]);
    let applied = tokio::spawn(async move { sink.apply(&flight).await });
    assert!(eventually_retrying(&mut state).await.contains("out of memory"));
    eventually("the stale keys are gone", async || {
        let stale = redis.exists("user_balance:live:7").await || redis.exists("user:{live:7}:config").await;
        (!stale).then_some(())
    })
    .await;
    redis.call(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(applied.await.unwrap().unwrap(), [APPLIED, APPLIED]);
    assert_eq!(redis.get("user_balance:live:7").await.as_deref(), Some("3"));
    let received = messages(&mut subscriber, 2).await;
    assert!(received[0].contains("\"at\":2,") && received[1].contains("\"at\":3,"), "{received:?}");
}

#[tokio::test]
async fn a_replica_is_retried_until_it_is_master_again() {
    let master = Redis::start(RedisOptions::default()).await;
    let redis = Redis::start(RedisOptions::default()).await;
    let metrics = Metrics::new().unwrap().sink;
    let settings = config::Redis::parse(&[redis.url()]).unwrap();
    let options = Options::new("lockstep", metrics.clone());
    let mut sink = Sink::connect(&settings, options).await.unwrap();
    let mut state = sink.state();
    redis.follow(&master).await;
    let applied = tokio::spawn(async move { sink.apply(&stream(vec![change("7", 1, "1")])).await });
    let fault = eventually_retrying(&mut state).await;
    assert!(fault.contains("replica"), "{fault}");
    assert!(metrics.operations.with_label_values(&["readonly"]).get() >= 1);
    redis.call(&["REPLICAOF", "NO", "ONE"]).await;
    assert_eq!(applied.await.unwrap().unwrap(), [APPLIED]);
    assert!(matches!(*state.borrow(), SinkState::Connected { .. }));
}

#[tokio::test]
async fn a_server_that_is_loading_is_waited_for() {
    let redis = Redis::start(RedisOptions {
        append_only: true,
        ..options(&["key-load-delay 2000", "loading-process-events-interval-bytes 1024"])
    })
    .await;
    let mut sink = connect(&[redis.url()]).await;
    let mut state = sink.state();
    sink.apply(&stream(vec![change("7", 1, "1")])).await.unwrap();
    redis.call(&["DEBUG", "POPULATE", "2000"]).await;
    redis.call(&["BGREWRITEAOF"]).await;
    let says = async |line: &'static str| {
        eventually(line, async || redis.call(&["INFO"]).await.text()?.contains(line).then_some(())).await;
    };
    says("aof_rewrite_in_progress:0").await;
    let mut loader = redis.client().await;
    let loaded = tokio::spawn(async move { loader.call(&["DEBUG", "LOADAOF"]).await });
    says("\nloading:1").await;
    let applied = tokio::spawn(async move { sink.apply(&stream(vec![change("7", 2, "2")])).await });
    assert!(eventually_retrying(&mut state).await.contains("loading"));
    loaded.await.unwrap().unwrap();
    assert_eq!(applied.await.unwrap().unwrap(), [APPLIED]);
    assert_eq!(redis.get("user_balance:live:7").await.as_deref(), Some("2"));
}

#[tokio::test]
async fn a_server_killed_under_way_is_reconnected_and_nothing_is_published_twice() {
    let redis = Redis::start(RedisOptions { append_only: true, ..options(&["appendfsync always"]) }).await;
    let mut sink = connect(&[redis.url()]).await;
    let mut state = sink.state();
    sink.apply(&stream(vec![change("7", 1, "1")])).await.unwrap();
    redis.kill9();
    let plans = (2..=200).map(|at| change("7", at, &at.to_string())).collect();
    let applied = tokio::spawn(async move { sink.apply(&stream(plans)).await });
    eventually_retrying(&mut state).await;
    redis.start_again().await;
    let outcomes = applied.await.unwrap().unwrap();
    assert!(outcomes.iter().all(|outcome| *outcome == APPLIED), "{outcomes:?}");
    assert_eq!(redis.get("user_balance:live:7").await.as_deref(), Some("200"));
}

#[tokio::test]
async fn a_server_that_came_back_empty_gets_no_checkpoint_before_it_was_compared() {
    let redis = Redis::start(RedisOptions::default()).await;
    let mut sink = connect(&[redis.url()]).await;
    let at = |at: u64| Flight { checkpoint: Some(checkpoint(at)), ..stream(vec![change("7", at, "1")]) };
    sink.apply(&at(1)).await.unwrap();
    redis.kill9();
    redis.start_again().await;
    let refused = sink.apply(&at(2)).await.unwrap_err();
    assert!(refused.is_transient() && !sink.has_stored(), "{refused}");
    assert_eq!(redis.get("user_balance:live:7").await, None, "nothing is written over what may be older");
    assert_eq!(sink.read_records().await.unwrap().nodes[0].checkpoint, None, "it forgot everything");
    sink.apply(&at(3)).await.unwrap();
    assert_eq!(sink.read_records().await.unwrap().nodes[0].checkpoint, Some(checkpoint(3)));
}

/// The process is the same, and so is all that it holds.
#[tokio::test]
async fn a_connection_that_is_cut_is_made_again_and_the_flight_goes_on() {
    let redis = Redis::start(RedisOptions::default()).await;
    let mut sink = connect(&[redis.url()]).await;
    let state = sink.state();
    let at = |at: u64| Flight {
        checkpoint: Some(checkpoint(at)),
        ..stream(vec![change("7", at, &at.to_string())])
    };
    sink.apply(&at(1)).await.unwrap();
    let before = state.borrow().clone();
    for round in 2..=4 {
        redis.call(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
        assert_eq!(sink.apply(&at(round)).await.unwrap(), [APPLIED]);
        assert!(sink.has_stored());
    }
    assert_eq!(*state.borrow(), before, "there is nothing to compare");
    redis.call(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    redis.call(&["FLUSHALL"]).await;
    assert!(sink.apply(&at(5)).await.unwrap_err().is_transient());
}

#[tokio::test]
async fn a_checkpoint_that_vanished_or_changed_is_noticed_by_the_next() {
    let redis = Redis::start(RedisOptions::default()).await;
    let mut sink = connect(&[redis.url()]).await;
    let state = sink.state();
    let at = |at: u64| Flight { checkpoint: Some(checkpoint(at)), ..stream(vec![]) };
    let older = "{\"slot\":\"lockstep\",\"system_id\":\"7000000000000000000\",\"timeline\":1,\"applied\":\"0/1\",\"node\":\"\"}";
    let restored = ["SET", "lockstep:checkpoint:lockstep", older];
    for (loss, left) in [(&["FLUSHALL"][..], None), (&restored, Some(checkpoint(1)))] {
        sink.apply(&at(1)).await.unwrap();
        sink.apply(&at(2)).await.unwrap();
        assert!(sink.has_stored());
        let before = state.borrow().clone();
        redis.call(loss).await;
        sink.apply(&at(3)).await.unwrap();
        assert!(!sink.has_stored());
        assert_ne!(*state.borrow(), before, "whoever compares is told");
        assert_eq!(sink.read_records().await.unwrap().nodes[0].checkpoint, left);
        sink.apply(&at(4)).await.unwrap();
        assert_eq!(sink.read_records().await.unwrap().nodes[0].checkpoint, Some(checkpoint(4)));
    }
}

/// One of them was frozen while it was the leader, and wakes up.
#[tokio::test]
async fn of_two_instances_one_alone_keeps_its_checkpoint() {
    let redis = Redis::start(RedisOptions::default()).await;
    let (mut one, mut other) = (connect(&[redis.url()]).await, connect(&[redis.url()]).await);
    let at = |at: u64| Flight { checkpoint: Some(checkpoint(at)), ..stream(vec![]) };
    one.apply(&at(1)).await.unwrap();
    for round in 1..=100 {
        let known = one.read_records().await.unwrap();
        assert_eq!(other.read_records().await.unwrap(), known);
        let (ones, others) = (at(2 * round), at(2 * round + 1));
        let (first, second) = tokio::join!(one.apply(&ones), other.apply(&others));
        first.and(second).unwrap();
        assert_ne!(one.has_stored(), other.has_stored(), "round {round}");
        let kept = if one.has_stored() { ones.checkpoint } else { others.checkpoint };
        assert_eq!(one.read_records().await.unwrap().nodes[0].checkpoint, kept);
    }
}

#[tokio::test]
async fn connections_that_are_cut_again_and_again_lose_and_double_nothing() {
    let redis = Redis::start(RedisOptions::default()).await;
    let mut sink = connect(&[redis.url()]).await;
    let mut subscriber = subscribe(redis.client().await, &EVENTS).await;
    let mut killer = redis.client().await;
    for flight in 0..10 {
        let plans = (1..=200).map(|n| change("7", flight * 200 + n, &n.to_string())).collect();
        let kills = async {
            for _ in 0..3 {
                killer.call(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await.unwrap();
            }
        };
        let flight = stream(plans);
        let (applied, ()) = tokio::join!(sink.apply(&flight), kills);
        applied.unwrap();
    }
    for (index, message) in messages(&mut subscriber, 2000).await.iter().enumerate() {
        assert!(message.contains(&format!("\"at\":{},", index + 1)), "{message} at {index}");
    }
}

#[tokio::test]
async fn a_wrong_password_is_definite_and_names_the_cure() {
    let redis =
        Redis::start(RedisOptions { password: Some("right".to_owned()), ..RedisOptions::default() }).await;
    for url in [redis.url().replace("right", "hunter2"), format!("redis://127.0.0.1:{}", redis.port())] {
        let error = try_connect(&config::Redis::parse(&[url]).unwrap()).await.err().unwrap();
        assert!(!error.is_transient(), "{error}");
        let text = error.to_string();
        assert!(text.contains("redis.url") && !text.contains("hunter2"), "{text}");
    }
    let mut sink = connect(&[redis.url()]).await;
    assert_eq!(sink.apply(&stream(vec![change("7", 1, "1")])).await.unwrap(), [APPLIED]);
}

#[tokio::test]
async fn a_server_that_is_away_is_transient_and_says_where() {
    let port = crate::harness::process::free_port();
    let redis = config::Redis::parse(&[format!("redis://127.0.0.1:{port}")]).unwrap();
    let error = try_connect(&redis).await.err().unwrap();
    assert!(error.is_transient());
    assert_eq!(error.to_string(), format!("redis 127.0.0.1:{port}: connection refused"));
}

#[tokio::test]
async fn the_documented_permissions_are_enough_and_a_missing_one_is_named() {
    let redis = Redis::start(RedisOptions { acl: vec![readme_user()], ..RedisOptions::default() }).await;
    let mut sink = connect(&[format!("redis://lockstep:PASSWORD@127.0.0.1:{}", redis.port())]).await;
    let mut state = sink.state();
    let flight = Flight { checkpoint: Some(checkpoint(9)), ..stream(vec![change("7", 1, "1")]) };
    assert_eq!(sink.apply(&flight).await.unwrap(), [APPLIED]);
    redis.call(&["ACL", "SETUSER", "lockstep", "-publish"]).await;
    let mut subscriber = subscribe(redis.client().await, &EVENTS).await;
    let applied = tokio::spawn(async move { sink.apply(&stream(vec![change("7", 2, "2")])).await });
    assert!(eventually_retrying(&mut state).await.contains("NOPERM"));
    redis.call(&["ACL", "SETUSER", "lockstep", "+publish"]).await;
    assert_eq!(applied.await.unwrap().unwrap(), [APPLIED], "not skipped: it had not been published");
    assert!(messages(&mut subscriber, 1).await[0].contains("\"at\":2,"));
}

#[tokio::test]
async fn what_one_channel_took_is_not_sent_there_again_because_another_refuses_it() {
    let redis = Redis::start(RedisOptions { acl: vec![readme_user()], ..RedisOptions::default() }).await;
    let mut sink = connect(&[format!("redis://lockstep:PASSWORD@127.0.0.1:{}", redis.port())]).await;
    redis.call(&["ACL", "SETUSER", "lockstep", "resetchannels", "&user_updates"]).await;
    let mut subscriber = subscribe(redis.client().await, &EVENTS).await;
    let plans = ["7", "8"].map(|id| change(id, 1, "1")).to_vec();
    let applied = tokio::spawn(async move { sink.apply(&stream(plans)).await });
    let first = messages(&mut subscriber, 1).await;
    assert!(first[0].contains("\"user_id\":7"), "{first:?}");
    redis.call(&["ACL", "SETUSER", "lockstep", "&balance_updates"]).await;
    let outcomes = applied.await.unwrap().unwrap();
    let [Outcome::Refused { reason }, later] = outcomes.as_slice() else { panic!("{outcomes:?}") };
    assert!(reason.contains("NOPERM"), "{reason}");
    assert!(matches!(later, Outcome::Applied(_) | Outcome::Refused { .. }), "{later:?}");
    assert_eq!(redis.get("user_balance:live:7").await.as_deref(), Some("1"), "its keys are right");
    redis.call(&["PUBLISH", "user_updates", "the end"]).await;
    let mut heard = first;
    while heard.last().is_some_and(|last| last != "user_updates the end") {
        heard.extend(messages(&mut subscriber, 1).await);
    }
    let of = |id: &str| heard.iter().filter(|text| text.contains(&format!("\"user_id\":{id},"))).count();
    assert_eq!(of("7"), 1, "{heard:?}");
}

#[tokio::test]
async fn tls_is_checked_against_the_root_certificate() {
    let redis = Redis::start(RedisOptions { tls: true, ..RedisOptions::default() }).await;
    let mut settings = config::Redis::parse(&[redis.url()]).unwrap();
    settings.root_cert = Some(redis.certificates().authority.clone());
    let mut sink = try_connect(&settings).await.unwrap();
    assert_eq!(sink.apply(&stream(vec![change("7", 1, "1")])).await.unwrap(), [APPLIED]);
    let stranger = Redis::start(RedisOptions { tls: true, ..RedisOptions::default() }).await;
    settings.root_cert = Some(stranger.certificates().authority.clone());
    let error = try_connect(&settings).await.err().unwrap();
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn records_are_read_back() {
    use lockstep::sink::LoadMark;
    let redis = Redis::start(RedisOptions::default()).await;
    let mut sink = connect(&[redis.url()]).await;
    let records = sink.read_records().await.unwrap();
    assert_eq!((records.nodes[0].checkpoint.clone(), records.loaded, records.epoch), (None, None, None));
    sink.apply(&Flight { checkpoint: Some(checkpoint(0x77)), ..stream(vec![]) }).await.unwrap();
    sink.write_mark(LoadMark::Progress, Some("{\"after\":7}")).await.unwrap();
    sink.write_mark(LoadMark::Loaded, Some("{}")).await.unwrap();
    let records = connect(&[redis.url()]).await.read_records().await.unwrap();
    assert_eq!(records.nodes[0].checkpoint, Some(checkpoint(0x77)));
    assert!(records.nodes[0].proves);
    assert_eq!(records.load.as_deref(), Some("{\"after\":7}"));
    assert_eq!(records.loaded.as_deref(), Some("{}"));
}

/// A command that is written to a connection which ended must not wait for its timeout.
#[tokio::test]
async fn a_redis_that_was_restarted_is_written_at_once() {
    let redis = Redis::start(RedisOptions::default()).await;
    let metrics = Metrics::new().unwrap().sink;
    let settings = config::Redis::parse(&[redis.url()]).unwrap();
    let options = Options::new("lockstep", metrics.clone());
    let mut sink = Sink::connect(&settings, options).await.unwrap();
    for round in 1..=3 {
        sink.apply(&stream(vec![change("7", 10 * round, "1")])).await.unwrap();
        redis.restart().await;
        sink.apply(&stream(vec![change("7", 10 * round + 1, "2")])).await.unwrap();
    }
    assert_eq!(metrics.operations.with_label_values(&["timeout"]).get(), 0);
    assert!(metrics.operations.with_label_values(&["disconnected"]).get() >= 1);
}
