//! Foreign writes while nothing was announced.

use super::{NO_AUDIT, derived, is_watched, watched};
use crate::cases::config_of;
use crate::cases::redis_forgets::{confirmed_flush, with_a_margin};
use crate::harness::subscriber::lsn;
use crate::harness::{On, Setup, World, eventually};

on_both!(
    what_is_written_while_the_tracking_connection_is_gone_is_found,
    what_is_written_while_lockstep_catches_up_is_found,
    what_is_derived_while_lockstep_catches_up_is_deleted,
    what_is_written_right_before_a_crash_is_found_after_it,
    what_is_derived_right_before_a_rolling_restart_is_deleted_after_it,
    what_is_derived_unwatched_before_a_crash_that_nothing_sends_again_is_deleted
);

async fn what_is_written_while_the_tracking_connection_is_gone_is_found(on: On) {
    let world = watched(on, 6, NO_AUDIT).await;
    for id in 1..=6 {
        kill_tracking(&world).await;
        world.credit(id, "1").await;
        let balance = format!("user_balance:live:{id}");
        let applied = async || (world.store.get(&balance).await? == "101").then_some(());
        eventually("the credit is in redis", applied).await;
        world.store.hset(&config_of(&format!("live:{id}")), "balance", "66").await;
    }
    world.eventually_equal().await;
    is_watched(&world).await;
}

async fn kill_tracking(world: &World) {
    for master in world.store.masters().await {
        let clients = master.cli(&["CLIENT", "LIST"]);
        for client in clients.lines().filter(|line| line.contains("flags=t")) {
            let id = client.split_whitespace().find_map(|word| word.strip_prefix("id="));
            // It may be gone by itself.
            master.cli(&["CLIENT", "KILL", "ID", id.expect("an id")]);
        }
    }
}

/// Until it is over.
async fn catches_up(world: &World) {
    let many = "INSERT INTO users (id, user_type, wallet_balance) SELECT n, 'demo', n FROM generate_series(20001, 40000) n";
    world.sql(many).await;
    let suspended =
        async || (world.lockstep.metric("lockstep_foreign_writes_watched").await == 0.0).then_some(());
    eventually("watching is suspended", suspended).await;
}

/// The credit is in Redis.
async fn credited(world: &World) {
    world.credit(1, "1").await;
    let applied = async || (world.store.get("user_balance:live:1").await? == "101").then_some(());
    eventually("the credit is in redis", applied).await;
}

async fn what_is_written_while_lockstep_catches_up_is_found(on: On) {
    let world = watched(on, 3, NO_AUDIT).await;
    catches_up(&world).await;
    credited(&world).await;
    world.store.hset(&config_of("live:1"), "balance", "66").await;
    is_watched(&world).await;
    world.eventually_equal().await;
}

async fn what_is_derived_while_lockstep_catches_up_is_deleted(on: On) {
    let world = watched(on, 1, NO_AUDIT).await;
    catches_up(&world).await;
    credited(&world).await;
    derived::refill(&world, "computed from 100").await;
    derived::is_gone(&world).await;
}

async fn what_is_written_right_before_a_crash_is_found_after_it(on: On) {
    let world = watched(on, 1, NO_AUDIT).await;
    credited(&world).await;
    // A start finds it in Redis, and is not sent it because it is missing.
    let end = world.postgres.value("SELECT pg_current_wal_lsn()").await.and_then(|end| lsn(&end));
    let recorded = async || {
        let lease: serde_json::Value =
            serde_json::from_str(&world.store.get("lockstep:lease").await?).ok()?;
        (lsn(lease["position"].as_str()?) >= end).then_some(())
    };
    eventually("every node has a checkpoint behind it", recorded).await;
    world.lockstep.kill9();
    derived::refill(&world, "computed from 100").await;
    world.store.hset(&config_of("live:1"), "balance", "66").await;
    world.lockstep.run().await;
    derived::is_gone(&world).await;
    world.eventually_equal().await;
}

async fn what_is_derived_right_before_a_rolling_restart_is_deleted_after_it(on: On) {
    let mut world = watched(on, 1, NO_AUDIT).await;
    let second = world.standby().await;
    credited(&world).await;
    world.lockstep.sigterm().await;
    derived::refill(&world, "computed from 100").await;
    world.lockstep = second;
    world.lockstep.wait_ready().await;
    derived::is_gone(&world).await;
}

/// The connections on which Redis announces are half-open: flights go on, and nothing is heard.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_derived_while_announcements_are_lost_without_a_word_is_deleted() {
    let mut world = World::set_up(Setup { config: NO_AUDIT.to_owned(), ..Setup::on(On::Single) }).await;
    let line = world.redis_through_a_proxy().await;
    world.lockstep.init().await;
    world.lockstep.run().await;
    world.user("live", 1, "100").await;
    world.caught_up().await;
    is_watched(&world).await;
    line.hold_announcements(true);
    // Before the change, where nobody is told of it; and behind it.
    world.store.set(derived::DERIVED[2], "computed from 100").await;
    credited(&world).await;
    derived::refill(&world, "computed from 100").await;
    let noticed =
        async || (world.lockstep.metric("lockstep_foreign_writes_watched").await == 0.0).then_some(());
    eventually("the silence is noticed", noticed).await;
    line.hold_announcements(false);
    derived::is_gone(&world).await;
}

/// While users are loaded nothing is watched, and who was changed is known to the one that dies: the slot stands past it.
async fn what_is_derived_unwatched_before_a_crash_that_nothing_sends_again_is_deleted(on: On) {
    const SLOWLY: &str = "chunk_rows = 5\nusers_per_second = 5\n";
    const TOLD: &str = "derived keys of all users were deleted once more";
    let config = format!("{NO_AUDIT}[load]\nworkers = 1\n{SLOWLY}");
    let world = World::set_up(Setup { config, ..Setup::on(on) }).await;
    with_a_margin(&world, "0s");
    let users = "SELECT n, 'live', 100 FROM generate_series(1, 2000) n";
    world.sql(&format!("INSERT INTO users (id, user_type, wallet_balance) {users}")).await;
    world.lockstep.init().await;
    world.lockstep.spawn(&["run"]);
    let loaded = async || {
        let mark = world.store.get("lockstep:load:lockstep").await?;
        mark.contains("\"up_to\":\"").then_some(())
    };
    eventually("the first users are loaded", loaded).await;
    world.sql("DELETE FROM users WHERE id = 2").await;
    credited(&world).await;
    derived::refill(&world, "computed from 100").await;
    world.store.set(OF_ONE_WHO_IS_GONE, "computed from 100").await;
    let end = world.postgres.value("SELECT pg_current_wal_lsn()").await.and_then(|end| lsn(&end));
    let forgets = async || (Some(confirmed_flush(&world).await) >= end).then_some(());
    eventually("the slot stands past the change", forgets).await;
    world.lockstep.kill9();
    assert!(world.store.exists(derived::DERIVED[0]).await && world.store.exists(OF_ONE_WHO_IS_GONE).await);
    assert_ne!(unwatched_by_checkpoints(&world).await, [] as [String; 0]);

    world.lockstep.configure(&world.lockstep.configuration().replace(SLOWLY, ""));
    world.lockstep.run().await;
    derived::is_gone(&world).await;
    let is_over = async || world.lockstep.log().contains(TOLD).then_some(());
    eventually("all users are cleared", is_over).await;
    assert!(!world.store.exists(OF_ONE_WHO_IS_GONE).await);
    derived::refill(&world, "computed from 101").await;
    let settled = async || unwatched_by_checkpoints(&world).await.is_empty().then_some(());
    eventually("checkpoints tell of nobody", settled).await;
    for _ in 0..3 {
        is_seen_to(&world).await;
    }
    assert_eq!(world.lockstep.log().matches(TOLD).count(), 1);
    for key in derived::DERIVED {
        assert!(world.store.exists(key).await, "{key} was fresh");
    }
}

/// Of no user of the table.
const OF_ONE_WHO_IS_GONE: &str = "user_stats:live:2";

/// Since when the nodes' checkpoints tell of changes that nobody has seen to.
async fn unwatched_by_checkpoints(world: &World) -> Vec<String> {
    let mut since = Vec::new();
    for key in world.store.keys("lockstep:checkpoint:*").await {
        let text = world.store.get(&key).await.expect("a checkpoint");
        let checkpoint: serde_json::Value = serde_json::from_str(&text).expect("a checkpoint");
        since.extend(checkpoint["unwatched"].as_str().map(str::to_owned));
    }
    since
}

/// A user who is changed now has what was derived of him deleted a grace later: so has everybody who was changed before.
async fn is_seen_to(world: &World) {
    let (key, before) = ("user_stats:live:3", world.store.get("user_balance:live:3").await);
    world.credit(3, "1").await;
    let applied = async || (world.store.get("user_balance:live:3").await? != before.clone()?).then_some(());
    eventually("the credit is in redis", applied).await;
    world.store.set(key, "computed from 100").await;
    let gone = async || (!world.store.exists(key).await).then_some(());
    eventually("what was derived from an older balance is gone", gone).await;
}
