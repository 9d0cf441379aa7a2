//! `foreign_writes = "heal" | "observe" | "off"`, and the continuous audit.

use super::{NO_AUDIT, verdicts, watched};
use crate::cases::config_of;
use crate::harness::subscriber::BALANCE_UPDATES;
use crate::harness::{On, Setup, World, eventually};

on_both!(observing_counts_and_touches_nothing, the_audit_finds_what_nothing_announced);

async fn observing_counts_and_touches_nothing(on: On) {
    let world = watched(on, 1, &format!("{NO_AUDIT}foreign_writes = \"observe\"\n")).await;
    let subscriber = world.subscriber().await;
    world.store.hset(&config_of("live:1"), "balance", "66").await;
    let observed = async || (verdicts(&world, "observed").await == 1.0).then_some(());
    eventually("the write is counted", observed).await;
    assert_eq!(world.store.hash(&config_of("live:1")).await["balance"], "66");
    assert_eq!(verdicts(&world, "healed").await, 0.0);
    world.heard_all(&subscriber).await;
    assert!(subscriber.of(BALANCE_UPDATES, "live:1").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_watched_where_that_is_off() {
    let config = "[audit]\nforeign_writes = \"off\"\n".to_owned();
    let world = World::running_as(Setup { config, ..Setup::on(On::Single) }).await;
    world.user("live", 1, "100").await;
    world.caught_up().await;
    // The one that knows the derived keys.
    assert_eq!(tracking_connections(&world), 1);
    drop(world);
    let world = watched(On::Single, 1, NO_AUDIT).await;
    assert_eq!(tracking_connections(&world), 2);
}

/// Clients of one Redis that have keys announced.
fn tracking_connections(world: &World) -> usize {
    let clients = world.store.single().cli(&["CLIENT", "LIST"]);
    let flags = clients.split_whitespace().filter_map(|word| word.strip_prefix("flags="));
    flags.filter(|flags| flags.contains('t')).count()
}

async fn the_audit_finds_what_nothing_announced(on: On) {
    let world = World::running(on).await;
    for id in 1..=3 {
        world.user("live", id, "100").await;
    }
    world.caught_up().await;
    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    world.store.hset(&config_of("live:2"), "balance", "66").await;
    world.lockstep.run().await;
    world.eventually_equal().await;
    let counted =
        async || (world.lockstep.metric("lockstep_audit_mismatches_total").await == 1.0).then_some(());
    eventually("the mismatch is counted", counted).await;
    assert!(world.lockstep.metric("lockstep_audit_users_total").await >= 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_compares_as_many_users_as_it_is_told_to() {
    let config = "[audit]\nusers_per_second = 100000\n".to_owned();
    let world = World::running_as(Setup { config, ..Setup::on(On::Single) }).await;
    world.sql("INSERT INTO users (id, user_type, wallet_balance) SELECT n, 'live', n FROM generate_series(1, 2000) n").await;
    world.caught_up().await;
    let compared =
        async || (world.lockstep.metric("lockstep_audit_users_total").await >= 12_000.0).then_some(());
    eventually("all users are compared six times", compared).await;
}
