//! How an application tells a fresh Redis from a frozen one, and reads what it wrote.

use std::time::Duration;

use serde_json::Value;

use crate::harness::subscriber::lsn;
use crate::harness::{Line, Lockstep, On, Setup, World, eventually};

on_both!(
    a_lease_says_how_far_redis_is,
    what_was_waited_for_is_there_at_once,
    a_lease_is_gone_with_a_clean_stop,
);

const LEASE: &str = "lockstep:lease";

async fn lease(world: &World) -> Option<Value> {
    let text = world.store.get(LEASE).await?;
    Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

/// A lease that says this.
async fn lease_where(world: &World, what: &str, says: impl Fn(&Value) -> bool) -> Value {
    eventually(&format!("a lease says {what}"), async || lease(world).await.filter(&says)).await
}

async fn lease_ends(world: &World) {
    eventually("the lease ends", async || (!world.store.exists(LEASE).await).then_some(())).await;
}

/// The end of what is committed.
async fn written(world: &World) -> String {
    world.postgres.value("SELECT pg_current_wal_lsn()").await.expect("an LSN")
}

/// Status and envelope.
async fn wait(lockstep: &Lockstep, arguments: &str) -> (u16, Value) {
    let (status, body) = lockstep.http("GET", &format!("/api/redis-health/wait?{arguments}")).await.unwrap();
    let envelope: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
    assert_eq!(envelope["success"], Value::Bool(status == 200), "{envelope}");
    assert!(envelope["message"].is_string() && envelope["data"].is_object(), "{envelope}");
    (status, envelope)
}

async fn a_lease_says_how_far_redis_is(on: On) {
    let world = World::running(on).await;
    let subscriber = world.subscriber().await;
    world.user("live", 7, "100").await;
    let heard = world.heard_all(&subscriber).await.pop().expect("an event");
    let committed = lsn(heard.text("commit_lsn")).unwrap();
    let past = |lease: &Value| lsn(lease["position"].as_str().unwrap()).unwrap() > committed;
    let first = lease_where(&world, "the commit is there", past).await;
    assert_eq!(first["committed_at"], heard.json["timestamp"], "{first}");
    assert_eq!((&first["slot"], &first["term"], &first["epoch"]), (&"lockstep".into(), &1.into(), &1.into()));
    let ttl = world.store.ttl(LEASE).await;
    assert!((0..=3).contains(&ttl), "{ttl} s");
    // Nothing is committed: it is renewed all the same.
    let as_of = first["as_of"].as_str().unwrap().to_owned();
    let later = lease_where(&world, "a later time", |lease| *lease["as_of"].as_str().unwrap() > *as_of).await;
    assert!(later["as_of"].as_str() > later["committed_at"].as_str(), "{later}");
    assert!(world.lockstep.metric("lockstep_lease_renewals_total").await >= 2.0);
}

async fn a_lease_is_gone_with_a_clean_stop(on: On) {
    let world = World::running(on).await;
    lease_where(&world, "anything", |_| true).await;
    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    assert!(!world.store.exists(LEASE).await);
    world.lockstep.run().await;
    lease_where(&world, "the next term", |lease| lease["term"] == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_with_the_line_to_the_database() {
    let mut world = World::set_up(Setup::on(On::Single)).await;
    let proxy = world.through_a_proxy().await;
    world.lockstep.init().await;
    world.lockstep.run().await;
    for line in [Line::Silent, Line::Cut] {
        lease_where(&world, "anything", |_| true).await;
        proxy.set(line);
        lease_ends(&world).await;
        proxy.set(Line::Open);
    }
    lease_where(&world, "it streams again", |_| true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_when_another_shard_is_away() {
    let mut setup = Setup::on(On::Cluster);
    setup.redis.config = vec!["cluster-require-full-coverage no".into()];
    let world = World::running_as(setup).await;
    let cluster = world.store.cluster();
    lease_where(&world, "anything", |_| true).await;
    let own = cluster.master_of(LEASE).await;
    let other = cluster.masters().await.into_iter().find(|node| *node != own).expect("another master");
    let both = [other, cluster.replica_of(other).await];
    both.iter().for_each(|node| cluster.node(*node).pause());
    // Asked of its own node: a question to the cluster may be one to a frozen node.
    let gone = async || (!cluster.node(own).exists(LEASE).await).then_some(());
    eventually("the lease ends", gone).await;
    both.iter().for_each(|node| cluster.node(*node).resume());
    lease_where(&world, "all are back", |_| true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_when_redis_takes_no_checkpoint() {
    let world = World::running(On::Single).await;
    lease_where(&world, "anything", |_| true).await;
    world.store.call("", &["CONFIG", "SET", "maxmemory", "1"]).await;
    lease_ends(&world).await;
    world.store.call("", &["CONFIG", "SET", "maxmemory", "0"]).await;
    lease_where(&world, "there is room", |_| true).await;
}

/// What answers next may be a replica that lagged behind.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_that_redis_holds_anything_while_it_is_away() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    let lsn = written(&world).await;
    assert_eq!(wait(&world.lockstep, &format!("lsn={lsn}")).await.0, 200);
    world.store.single().pause();
    let (status, told) = eventually("it is noticed", async || {
        let told = wait(&world.lockstep, &format!("lsn={lsn}&timeout_ms=0")).await;
        (told.0 != 200).then_some(told)
    })
    .await;
    assert_eq!((status, &told["data"]["applied_lsn"]), (504, &Value::Null), "{told}");
    world.store.single().resume();
    assert_eq!(wait(&world.lockstep, &format!("lsn={lsn}&timeout_ms=30000")).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_lease_before_all_users_are_loaded() {
    let mut setup = Setup::on(On::Single);
    setup.config = "[load]\nusers_per_second = 200\nchunk_rows = 100".into();
    let world = World::loading_as(setup, 600).await;
    let lsn = written(&world).await;
    world.lockstep.is_not_ready_because("still being loaded").await;
    assert_eq!(wait(&world.lockstep, &format!("lsn={lsn}&timeout_ms=100")).await.0, 504);
    assert!(!world.store.exists(LEASE).await);
    assert!(!world.store.exists("lockstep:loaded:lockstep").await, "the load was running all the time");
    world.lockstep.wait_ready().await;
    lease_where(&world, "all are loaded", |_| true).await;
    assert_eq!(wait(&world.lockstep, &format!("lsn={lsn}")).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_instance_that_wakes_up_never_renews_the_lease() {
    let world = World::running(On::Single).await;
    lease_where(&world, "the first term", |lease| lease["term"] == 1).await;
    let second = world.standby().await;
    world.lockstep.signal("STOP");
    second.wait_ready().await;
    let taken = lease_where(&world, "the second term", |lease| lease["term"] == 2).await;
    world.lockstep.signal("CONT");
    let only_the_second = async |until: &str, is_over: &dyn Fn(&Value) -> bool| {
        eventually(until, async || {
            let lease = lease(&world).await?;
            assert_eq!(lease["term"], 2, "{lease}");
            is_over(&lease).then_some(())
        })
        .await;
    };
    let ended = |_: &Value| world.lockstep.log().contains("the stream ended");
    only_the_second("the frozen one sees that its stream is gone", &ended).await;
    let renewed = |lease: &Value| lease["as_of"].as_str() > taken["as_of"].as_str();
    only_the_second("the second renews", &renewed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_slot_has_a_lease_of_its_own() {
    let world = World::set_up(Setup::on(On::Single)).await;
    let other = Lockstep::new(&world.postgres.url(), &world.store.urls(), "")
        .with_environment("LOCKSTEP_SLOT", "other");
    other.init().await;
    other.run().await;
    eventually("its lease is there", async || world.store.exists("lockstep:lease:other").await.then_some(()))
        .await;
    assert!(!world.store.exists(LEASE).await);
    assert_eq!(other.sigterm().await.code(), Some(0));
    assert!(!world.store.exists("lockstep:lease:other").await);
}

async fn what_was_waited_for_is_there_at_once(on: On) {
    let world = World::running(on).await;
    world.user("live", 7, "0").await;
    for balance in 1..=100 {
        world.sql(&format!("UPDATE users SET wallet_balance = {balance} WHERE id = 7")).await;
        let lsn = written(&world).await;
        let (status, told) = wait(&world.lockstep, &format!("lsn={lsn}&timeout_ms=30000")).await;
        assert_eq!(status, 200, "{told}");
        let balance = balance.to_string();
        assert_eq!(world.store.get("user_balance:live:7").await, Some(balance.clone()), "{told}");
        assert_eq!(world.store.hash(&super::config_of("live:7")).await["balance"], balance);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_touches_no_user_is_reached_on_an_idle_server() {
    let world = World::running(On::Single).await;
    world.sql("CREATE TABLE unrelated (n int)").await;
    for n in 1..=20 {
        world.sql(&format!("INSERT INTO unrelated VALUES ({n})")).await;
        for end in ["pg_current_wal_lsn()", "pg_current_wal_insert_lsn()", "pg_switch_wal()"] {
            let lsn = world.postgres.value(&format!("SELECT {end}")).await.expect("an LSN");
            let (status, told) = wait(&world.lockstep, &format!("lsn={lsn}&timeout_ms=30000")).await;
            assert_eq!(status, 200, "{told}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_does_not_come_in_time_is_said_to_be_late() {
    let world = World::running(On::Single).await;
    let (status, told) = wait(&world.lockstep, "lsn=FF/0&timeout_ms=50").await;
    assert_eq!(status, 504, "{told}");
    assert_eq!(told["data"]["lsn"], "FF/0");
    assert!(lsn(told["data"]["applied_lsn"].as_str().unwrap()).is_some(), "{told}");
    // Redis away, and the commit with it.
    world.user("live", 7, "100").await;
    world.caught_up().await;
    world.store.single().pause();
    world.credit(7, "1").await;
    let lsn = written(&world).await;
    assert_eq!(wait(&world.lockstep, &format!("lsn={lsn}&timeout_ms=200")).await.0, 504);
    world.store.single().resume();
    assert_eq!(wait(&world.lockstep, &format!("lsn={lsn}&timeout_ms=30000")).await.0, 200);
    assert_eq!(world.store.get("user_balance:live:7").await.as_deref(), Some("101"));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_arguments_of_a_wait_are_told() {
    let world = World::running(On::Single).await;
    for (arguments, word) in [
        ("", "lsn"),
        ("lsn=", "WAL position"),
        ("lsn=hello", "WAL position"),
        ("lsn=0/1&timeout_ms=soon", "timeout_ms"),
        ("lsn=0/1&timeout_ms=30001", "30000"),
        ("lsn=0/1&lsn=0/2", "lsn"),
    ] {
        let (status, told) = wait(&world.lockstep, arguments).await;
        assert_eq!(status, 400, "{arguments}: {told}");
        assert!(told["message"].as_str().unwrap().contains(word), "{arguments}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_says_that_it_is_none_to_wait_at_until_it_leads() {
    let world = World::running(On::Single).await;
    let second = world.standby().await;
    let lsn = written(&world).await;
    let (status, told) = wait(&second, &format!("lsn={lsn}&timeout_ms=30000")).await;
    assert_eq!(status, 503, "{told}");
    assert!(told["message"].as_str().unwrap().contains("another instance"), "{told}");
    world.lockstep.kill9();
    second.wait_ready().await;
    assert_eq!(wait(&second, &format!("lsn={lsn}&timeout_ms=30000")).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_outlives_a_stream_that_is_cut() {
    let mut world = World::set_up(Setup::on(On::Single)).await;
    let proxy = world.through_a_proxy().await;
    world.lockstep.init().await;
    world.lockstep.run().await;
    proxy.set(Line::Cut);
    world.lockstep.is_not_ready_because("postgres").await;
    world.user("live", 7, "100").await;
    let lsn = written(&world).await;
    let arguments = format!("lsn={lsn}&timeout_ms={}", Duration::from_secs(30).as_millis());
    let (waited, ()) = tokio::join!(wait(&world.lockstep, &arguments), async { proxy.set(Line::Open) });
    assert_eq!(waited.0, 200, "{waited:?}");
    assert_eq!(world.store.get("user_balance:live:7").await.as_deref(), Some("100"));
}
