//! `redis.durability`: what must hold of what was written before PostgreSQL may forget it.

use super::redis_forgets::{confirmed_flush, with_users};
use crate::harness::redis::readme_user;
use crate::harness::subscriber::lsn;
use crate::harness::{On, Redis, RedisOptions, Setup, Store, World, eventually};

/// A world that asks for more, and logs in as the user that the README lists with one more right.
async fn asking_for(durability: &str, right: &str, append_only: bool) -> World {
    let mut setup = Setup::on(On::Single);
    setup.redis.append_only = append_only;
    let rules = format!("{} {right}", readme_user());
    setup.redis.acl = vec!["default on nopass ~* &* +@all".into(), rules];
    let world = World::set_up(setup).await;
    let configuration = with_durability(&world, durability);
    world.lockstep.configure(&configuration.replace("://127", "://lockstep:PASSWORD@127"));
    world.lockstep.init().await;
    world
}

fn with_durability(world: &World, durability: &str) -> String {
    let asked = format!("[redis]\ndurability = \"{durability}\"\nreplay_margin = \"0s\"");
    world.lockstep.configuration().replace("[redis]", &asked)
}

async fn end_of_wal(world: &World) -> u64 {
    world.postgres.value("SELECT pg_current_wal_lsn()").await.as_deref().and_then(lsn).expect("a position")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slot_keeps_its_position_until_a_replica_holds_what_was_written() {
    let world = asking_for("replicated(1)", "+wait", false).await;
    let replica = Redis::start(RedisOptions::default()).await;
    replica.follow(world.store.single()).await;
    world.lockstep.run().await;
    with_users(&world).await;
    is_forgotten(&world, end_of_wal(&world).await).await;
    replica.pause();
    world.credit(7, "1").await;
    let end = end_of_wal(&world).await;
    world.lockstep.is_not_ready_because("0 replicas that hold what was written, not 1").await;
    world.caught_up().await;
    assert_eq!(
        world.store.get("user_balance:live:7").await.as_deref(),
        Some("1001"),
        "it is written all the same"
    );
    assert!(confirmed_flush(&world).await < end);
    // Nothing is to be waited for: the next start goes on from there, and the fences skip what is sent again.
    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    assert!(confirmed_flush(&world).await < end);
    let said = world.lockstep.log();
    assert!(said.contains("does not keep it as redis.durability asks"), "{said}");
    assert!(!said.contains("did not take everything"), "{said}");
    world.lockstep.spawn(&["run"]);
    replica.resume();
    world.lockstep.wait_ready().await;
    is_forgotten(&world, end).await;
    world.lockstep.sigterm().await;
    assert_eq!(world.store.call("", &["ACL", "LOG"]).await.items().len(), 0, "nothing was denied");
}

async fn is_forgotten(world: &World, end: u64) {
    eventually("it is forgotten", async || (confirmed_flush(world).await >= end).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slot_keeps_its_position_until_a_replica_of_each_master_holds_what_was_written() {
    let world = World::set_up(Setup::on(On::Cluster)).await;
    world.lockstep.configure(&with_durability(&world, "replicated(1)"));
    world.lockstep.init().await;
    world.lockstep.run().await;
    with_users(&world).await;
    is_forgotten(&world, end_of_wal(&world).await).await;
    let Store::Cluster(cluster) = &world.store else { panic!("no cluster") };
    // Also one that the change is not for: its checkpoint counts it.
    for key in ["user_balance:live:7", "user_balance:live:8"] {
        let replica = cluster.node(cluster.replica_of(cluster.master_of(key).await).await);
        replica.pause();
        let balance = world.store.get("user_balance:live:7").await;
        world.credit(7, "1").await;
        let end = end_of_wal(&world).await;
        world.lockstep.is_not_ready_because("0 replicas that hold what was written, not 1").await;
        world.caught_up().await;
        assert_ne!(world.store.get("user_balance:live:7").await, balance, "it is written all the same");
        assert!(confirmed_flush(&world).await < end);
        replica.resume();
        world.lockstep.wait_ready().await;
        is_forgotten(&world, end).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_replicas_that_are_asked_for_one_is_not_enough() {
    let world = asking_for("replicated(2)", "+wait", false).await;
    let replicas = [Redis::start(RedisOptions::default()).await, Redis::start(RedisOptions::default()).await];
    for replica in &replicas {
        replica.follow(world.store.single()).await;
    }
    world.lockstep.run().await;
    with_users(&world).await;
    is_forgotten(&world, end_of_wal(&world).await).await;
    for replica in &replicas {
        replica.pause();
        world.credit(7, "1").await;
        let end = end_of_wal(&world).await;
        world.lockstep.is_not_ready_because("1 replicas that hold what was written, not 2").await;
        assert!(confirmed_flush(&world).await < end);
        replica.resume();
        world.lockstep.wait_ready().await;
        is_forgotten(&world, end).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_durability_takes_is_asked_for() {
    let world = asking_for("replicated(1)", "", false).await;
    let ended = world.lockstep.finish(&["run"]).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("may not: WAIT"), "{ended:?}");
}

/// The distribution's Redis is older than 7.2; with a newer one the same test sees to it that the disk is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn fsynced_waits_for_the_disk_or_is_refused_with_the_cure() {
    let world = asking_for("fsynced", "", true).await;
    let info = world.store.call("", &["INFO", "server"]).await.text().expect("a text");
    let is_older = ["redis_version:6.", "redis_version:7.0."].iter().any(|version| info.contains(version));
    if is_older {
        return is_refused(&world, "does not know WAITAOF: run Redis 7.2 or newer, or set").await;
    }
    world.store.call("", &["CONFIG", "SET", "appendonly", "no"]).await;
    is_refused(&world, "appendonly is off: run CONFIG SET appendonly yes").await;
    world.store.call("", &["CONFIG", "SET", "appendonly", "yes"]).await;
    world.store.call("", &["ACL", "SETUSER", "lockstep", "+waitaof"]).await;
    world.lockstep.run().await;
    with_users(&world).await;
    is_forgotten(&world, end_of_wal(&world).await).await;
    // The system may keep it in memory for as long as it likes.
    world.store.call("", &["CONFIG", "SET", "appendfsync", "no"]).await;
    world.credit(7, "1").await;
    let end = end_of_wal(&world).await;
    world.lockstep.is_not_ready_because("has not written to its disk in time").await;
    world.caught_up().await;
    assert!(confirmed_flush(&world).await < end);
    world.store.call("", &["CONFIG", "SET", "appendfsync", "always"]).await;
    world.credit(7, "1").await;
    world.lockstep.wait_ready().await;
    is_forgotten(&world, end).await;
    world.lockstep.sigterm().await;
    assert_eq!(world.store.call("", &["ACL", "LOG"]).await.items().len(), 0, "nothing was denied");
}

async fn is_refused(world: &World, because: &str) {
    for (command, code) in [("check", 3), ("run", 1)] {
        let ended = world.lockstep.finish(&[command]).await;
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert_eq!(ended.code, Some(code), "{said}");
        assert!(said.contains(because), "{said}");
    }
}
