//! Keys that are deleted by pattern.

use super::*;
use crate::harness::redis::readme_user;
use crate::harness::resp::slot_of;
use crate::harness::{Cluster, Proxy, Redis, RedisOptions, eventually};

#[tokio::test]
async fn keys_from_before_the_start_and_from_now_are_deleted_and_neighbours_spared() {
    let redis = Redis::start(RedisOptions::default()).await;
    for key in ["12:a", "12:b", "123:a", "1:a", "*:a", "[1]2:a"] {
        redis.call(&["SET", &format!("financial_summary:live:{key}"), "1"]).await;
    }
    let mut sink = connect(&[redis.url()]).await;
    sink.apply(&stream(vec![change("12", 1, "1")])).await.unwrap();
    assert!(!redis.exists("financial_summary:live:12:a").await);
    assert!(!redis.exists("financial_summary:live:12:b").await);
    for spared in ["123:a", "1:a", "*:a", "[1]2:a"] {
        assert!(redis.exists(&format!("financial_summary:live:{spared}")).await, "{spared}");
    }
    sink.apply(&stream(vec![change("*", 2, "1")])).await.unwrap();
    assert!(!redis.exists("financial_summary:live:*:a").await);
    assert!(redis.exists("financial_summary:live:123:a").await);
}

#[tokio::test]
async fn a_key_written_while_running_is_deleted_by_the_next_change() {
    let redis = Redis::start(RedisOptions::default()).await;
    let mut sink = connect(&[redis.url()]).await;
    let mut at = 0;
    for round in 0..3 {
        redis.call(&["SET", &format!("financial_summary:live:7:{round}"), "1"]).await;
        eventually("the key is gone", async || {
            at += 1;
            sink.apply(&stream(vec![change("7", at, "1")])).await.unwrap();
            (!redis.exists(&format!("financial_summary:live:7:{round}")).await).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn keys_written_while_the_connection_was_cut_are_found_again() {
    let redis = Redis::start(RedisOptions { append_only: true, ..RedisOptions::default() }).await;
    let mut sink = connect(&[redis.url()]).await;
    sink.apply(&stream(vec![change("7", 1, "1")])).await.unwrap();
    redis.call(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    redis.call(&["SET", "financial_summary:live:7:x", "1"]).await;
    sink.apply(&stream(vec![change("7", 2, "1")])).await.unwrap();
    assert!(!redis.exists("financial_summary:live:7:x").await);
}

#[tokio::test]
async fn a_key_that_a_replay_was_not_to_delete_is_deleted_by_the_next_change() {
    let redis = Redis::start(RedisOptions::default()).await;
    connect(&[redis.url()]).await.apply(&stream(vec![change("7", 10, "1")])).await.unwrap();
    redis.call(&["SET", "financial_summary:live:7:day", "of the change at 10"]).await;
    let mut sink = connect(&[redis.url()]).await;
    assert_eq!(sink.apply(&stream(vec![change("7", 10, "1")])).await.unwrap(), [Outcome::Skipped]);
    assert_eq!(sink.apply(&stream(vec![change("7", 11, "2")])).await.unwrap(), [APPLIED]);
    assert!(!redis.exists("financial_summary:live:7:day").await);
}

/// A change that deletes the keys of the pattern only where the second watched column changed.
fn change_of_group(at: u64, group: &'static str) -> KeyPlan {
    let mut plan = change("7", at, &at.to_string());
    plan.watched.push(Some(group.into()));
    for step in &mut plan.steps {
        if let Step::DeletePattern { guard, .. } = step {
            *guard = Guard { any_changed: 2, ..Guard::ALWAYS };
        }
    }
    plan
}

#[tokio::test]
async fn a_key_outlives_the_changes_that_are_not_its_own_and_no_other() {
    let redis = Redis::start(RedisOptions::default()).await;
    let key = "financial_summary:live:7:day";
    connect(&[redis.url()]).await.apply(&stream(vec![change_of_group(1, "gold")])).await.unwrap();
    redis.call(&["SET", key, "of gold"]).await;
    let mut sink = connect(&[redis.url()]).await;
    for at in 2..5 {
        sink.apply(&stream(vec![change_of_group(at, "gold")])).await.unwrap();
        assert!(redis.exists(key).await, "the group did not change at {at}");
    }
    // A replay does not know whether the group changed.
    sink.apply(&stream(vec![change_of_group(4, "gold")])).await.unwrap();
    sink.apply(&stream(vec![change_of_group(5, "silver")])).await.unwrap();
    assert!(!redis.exists(key).await, "the group changed");
}

/// The end of the process may have come between a plan and the keys that were announced meanwhile.
#[tokio::test]
async fn a_replay_deletes_what_the_first_time_may_have_left_as_soon_as_it_can() {
    let redis = Redis::start(RedisOptions { acl: vec![readme_user()], ..RedisOptions::default() }).await;
    let url = format!("redis://lockstep:PASSWORD@127.0.0.1:{}", redis.port());
    connect(&[&url]).await.apply(&stream(vec![change("7", 10, "1")])).await.unwrap();
    redis.call(&["SET", "financial_summary:live:7:day", "of before"]).await;
    let mut sink = connect(&[&url]).await;
    let mut state = sink.state();
    redis.call(&["ACL", "SETUSER", "lockstep", "-unlink"]).await;
    let applied = tokio::spawn(async move { sink.apply(&stream(vec![change("7", 10, "1")])).await });
    assert!(eventually_retrying(&mut state).await.contains("NOPERM"));
    redis.call(&["ACL", "SETUSER", "lockstep", "+unlink"]).await;
    assert_eq!(applied.await.unwrap().unwrap(), [Outcome::Skipped]);
    assert!(!redis.exists("financial_summary:live:7:day").await);
}

#[tokio::test]
async fn patterns_whose_texts_overlap_are_followed_together() {
    let redis = Redis::start(RedisOptions::default()).await;
    let settings = config::Redis::parse(&[redis.url()]).unwrap();
    let heads = ["financial_summary:daily:", "financial_summary:", "financial_summary:", "fin", "other:"];
    let mut sink = connect_following(&settings, &heads).await.unwrap();
    redis.call(&["SET", "financial_summary:live:7:day", "1"]).await;
    let mut state = sink.state();
    tokio::select! {
        outcomes = async { sink.apply(&stream(vec![change("7", 1, "1")])).await } => {
            assert_eq!(outcomes.unwrap(), [APPLIED]);
        }
        fault = eventually_retrying(&mut state) => panic!("{fault}"),
    }
    assert!(!redis.exists("financial_summary:live:7:day").await);
}

/// A sink that knows all keys that there are, of `room` at most, and what it counts.
async fn stands_by(urls: &[String], room: usize) -> (Sink, SinkMetrics) {
    let metrics = Metrics::new().unwrap().sink;
    let options = Options {
        derived_prefixes: vec!["financial_summary:".into()],
        derived_keys_max: room,
        ..Options::new("lockstep", metrics.clone())
    };
    let redis = config::Redis::parse(urls).unwrap();
    (Sink::connect(&redis, options).await.unwrap(), metrics)
}

async fn knows(sink: &mut Sink, metrics: &SinkMetrics, keys: i64) {
    eventually(&format!("{keys} keys are known"), async || {
        sink.stand_by().await;
        (metrics.derived_keys.get() == keys).then_some(())
    })
    .await;
}

/// It was announced in time to whoever led before, so nobody else will delete it.
#[tokio::test]
async fn what_was_announced_late_to_who_stands_by_is_deleted_by_its_first_flight() {
    let redis = Redis::start(RedisOptions::default()).await;
    let proxy = Proxy::start(redis.port()).await;
    redis.call(&["SET", "financial_summary:live:8:day", "1"]).await;
    let (mut sink, metrics) = stands_by(&[format!("redis://127.0.0.1:{}", proxy.port())], 10).await;
    knows(&mut sink, &metrics, 1).await;
    proxy.hold_announcements(true);
    redis.call(&["SET", "financial_summary:live:7:day", "1"]).await;
    let (asked, scans) = (redis.calls("ping").await, redis.calls("scan").await);
    let flight = stream(vec![change("7", 1, "1")]);
    let applied = sink.apply(&flight);
    let asks = eventually("what was announced is asked for", async || {
        (redis.calls("ping").await > asked).then_some(())
    });
    tokio::pin!(applied);
    tokio::select! {
        biased;
        _ = &mut applied => panic!("it did not wait for what was announced"),
        () = asks => proxy.hold_announcements(false),
    }
    assert_eq!(applied.await.unwrap(), [APPLIED]);
    assert!(!redis.exists("financial_summary:live:7:day").await);
    assert_eq!(redis.calls("scan").await, scans);
}

/// Of its two connections to a server the one over which it is written stays.
#[tokio::test]
async fn the_end_of_the_tracking_connection_is_noticed_at_once() {
    const NEXT_SIGN_OF_LIFE: Duration = Duration::from_secs(5);
    let redis = Redis::start(RedisOptions::default()).await;
    redis.call(&["SET", "financial_summary:live:8:day", "1"]).await;
    let (mut sink, metrics) = stands_by(&[redis.url().to_owned()], 10).await;
    knows(&mut sink, &metrics, 1).await;
    let clients = redis.call(&["CLIENT", "LIST"]).await.text().unwrap();
    let tracks =
        |line: &&str| line.contains(" flags=") && line.split(" flags=").nth(1).unwrap().starts_with("tB");
    let tracker = clients.lines().find(tracks).expect("a client that tracks in broadcast mode");
    let id = tracker.split([' ', '=']).nth(1).unwrap();
    let (since, scans) = (std::time::Instant::now(), redis.calls("scan").await);
    redis.call(&["CLIENT", "KILL", "ID", id]).await;
    redis.call(&["SET", "financial_summary:live:7:day", "1"]).await;
    eventually("all keys are looked through again", async || {
        sink.stand_by().await;
        (redis.calls("scan").await > scans).then_some(())
    })
    .await;
    assert!(since.elapsed() < NEXT_SIGN_OF_LIFE, "{:?}", since.elapsed());
    sink.apply(&stream(vec![change("7", 1, "1")])).await.unwrap();
    assert!(!redis.exists("financial_summary:live:7:day").await);
    assert_eq!(metrics.reconnects.get(), 0);
}

/// A server with a `timeout`, or a proxy, closes what nothing is sent over.
#[tokio::test]
async fn who_stands_by_and_loses_its_connections_is_ready_again() {
    let redis = Redis::start(RedisOptions::default()).await;
    redis.call(&["SET", "financial_summary:live:8:day", "1"]).await;
    let (mut sink, metrics) = stands_by(&[redis.url().to_owned()], 10).await;
    knows(&mut sink, &metrics, 1).await;
    redis.call(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    redis.call(&["SET", "financial_summary:live:7:day", "1"]).await;
    knows(&mut sink, &metrics, 2).await;
    assert!(metrics.reconnects.get() >= 1);
    let scans = redis.calls("scan").await;
    assert_eq!(sink.apply(&stream(vec![change("7", 1, "1")])).await.unwrap(), [APPLIED]);
    assert!(!redis.exists("financial_summary:live:7:day").await);
    assert_eq!(redis.calls("scan").await, scans);
}

async fn scans(cluster: &Cluster) -> Vec<u64> {
    let masters = cluster.masters().await;
    futures_util::future::join_all(masters.iter().map(|node| cluster.node(*node).calls("scan"))).await
}

#[tokio::test]
async fn who_stands_by_learns_that_a_slot_has_moved() {
    let cluster = Cluster::start().await;
    let (day, fence) = ("financial_summary:live:7:day", "lockstep:fence:{live:7}");
    cluster.call(day, &["SET", day, "1"]).await;
    let (mut sink, metrics) = stands_by(&cluster.urls(), 10).await;
    knows(&mut sink, &metrics, 1).await;
    let (masters, before) = (cluster.masters().await, scans(&cluster).await);
    let owner = cluster.master_of(fence).await;
    cluster.move_slot(slot_of(fence), *masters.iter().find(|node| **node != owner).unwrap()).await;
    eventually("all keys are looked through with the new map", async || {
        sink.stand_by().await;
        scans(&cluster).await.iter().zip(&before).all(|(now, before)| now > before).then_some(())
    })
    .await;
    knows(&mut sink, &metrics, 1).await;
    let before = scans(&cluster).await;
    assert_eq!(sink.apply(&stream(vec![change("7", 1, "1")])).await.unwrap(), [APPLIED]);
    assert!(cluster.get(day).await.is_none());
    assert_eq!(scans(&cluster).await, before);
    assert_eq!(metrics.redirects.with_label_values(&["moved"]).get(), 0);
}

#[tokio::test]
async fn who_stands_by_follows_the_master() {
    let (old, new) =
        tokio::join!(Redis::start(RedisOptions::default()), Redis::start(RedisOptions::default()));
    new.follow(&old).await;
    let urls = [old.url().to_owned(), new.url().to_owned()];
    let (mut sink, metrics) = stands_by(&urls, 10).await;
    new.call(&["REPLICAOF", "NO", "ONE"]).await;
    new.call(&["SET", "financial_summary:live:7:day", "1"]).await;
    old.follow(&new).await;
    knows(&mut sink, &metrics, 1).await;
    let scans = new.calls("scan").await;
    assert_eq!(sink.apply(&stream(vec![change("7", 1, "1")])).await.unwrap(), [APPLIED]);
    assert!(!new.exists("financial_summary:live:7:day").await);
    assert_eq!(new.calls("scan").await, scans);
}

#[tokio::test]
async fn an_index_that_was_outgrown_by_keys_long_gone_is_built_again() {
    let redis = Redis::start(RedisOptions::default()).await;
    redis.call(&["SET", "financial_summary:live:8:day", "1"]).await;
    let (mut sink, metrics) = stands_by(&[redis.url().to_owned()], 10).await;
    knows(&mut sink, &metrics, 1).await;
    let scans = redis.calls("scan").await;
    for round in 0..30 {
        let key = format!("financial_summary:live:9:{round}");
        redis.call(&["SET", &key, "1"]).await;
        redis.call(&["DEL", &key]).await;
    }
    redis.call(&["SET", "financial_summary:live:7:day", "1"]).await;
    eventually("all keys are looked through again", async || {
        sink.stand_by().await;
        (redis.calls("scan").await > scans).then_some(())
    })
    .await;
    knows(&mut sink, &metrics, 2).await;
    assert_eq!(sink.apply(&stream(vec![change("7", 1, "1")])).await.unwrap(), [APPLIED]);
    assert!(!redis.exists("financial_summary:live:7:day").await);
    assert_eq!(metrics.derived_sweeps.get(), 0);
}

#[tokio::test]
async fn with_more_keys_than_can_be_remembered_each_change_looks_for_them_until_there_is_room_again() {
    let redis = Redis::start(RedisOptions::default()).await;
    for key in 0..30 {
        redis.call(&["SET", &format!("financial_summary:live:9:{key}"), "1"]).await;
    }
    let (mut sink, metrics) = stands_by(&[redis.url().to_owned()], 10).await;
    for (at, sweeps) in [(1, 1), (2, 2)] {
        redis.call(&["SET", "financial_summary:live:7:day", "1"]).await;
        sink.apply(&stream(vec![change("7", at, "1")])).await.unwrap();
        assert!(!redis.exists("financial_summary:live:7:day").await);
        assert_eq!(metrics.derived_sweeps.get(), sweeps);
    }
    sink.apply(&stream(vec![change("9", 3, "1")])).await.unwrap();
    // This one finds that there is room, and the next looks through all keys.
    sink.apply(&stream(vec![change("9", 4, "1")])).await.unwrap();
    let sweeps = metrics.derived_sweeps.get();
    redis.call(&["SET", "financial_summary:live:7:day", "1"]).await;
    sink.apply(&stream(vec![change("7", 5, "1")])).await.unwrap();
    assert!(!redis.exists("financial_summary:live:7:day").await);
    assert_eq!(metrics.derived_sweeps.get(), sweeps);
}
