//! The program dies and comes back.

use std::collections::{BTreeMap, BTreeSet};

use crate::harness::subscriber::{BALANCE_UPDATES, USER_UPDATES, lsn};
use crate::harness::workload::{Dice, Growing, Workload};
use crate::harness::{On, Setup, Subscriber, World, eventually};

on_both!(kill_9_at_ten_random_moments_under_load, a_subscriber_hears_each_event_once_and_in_order_per_user);

pub(super) const USERS: u32 = 60;
/// Their balance only grows; the workload leaves them alone.
pub(super) const GROWING: u32 = 5;

pub(super) async fn world_with_users(on: On) -> World {
    let world = World::running(on).await;
    let users = format!("SELECT n, 'live', 1000 FROM generate_series(1, {}) n", USERS + GROWING);
    world.sql(&format!("INSERT INTO users (id, user_type, wallet_balance) {users}")).await;
    world.caught_up().await;
    world
}

/// What must hold once everything is quiet: every key equal, every completed row told once on both channels.
pub(super) async fn nothing_is_missing_and_nothing_doubled(world: &World, subscriber: &Subscriber) {
    world.heard_all(subscriber).await;
    world.eventually_equal().await;
    everything_was_told_once(world, subscriber).await;
}

async fn everything_was_told_once(world: &World, subscriber: &Subscriber) {
    subscriber.assert_each_once();
    subscriber.assert_commit_order();
    let once: BTreeMap<String, usize> = world.completed().await.into_iter().map(|id| (id, 1)).collect();
    for channel in [USER_UPDATES, BALANCE_UPDATES] {
        let told = subscriber.transactions_told(channel);
        let missing: BTreeSet<_> = once.keys().filter(|id| !told.contains_key(*id)).collect();
        assert!(missing.is_empty(), "never told on {channel}: {missing:?}");
        assert_eq!(told, once, "on {channel}");
    }
}

async fn kill_9_at_ten_random_moments_under_load(on: On) {
    let world = world_with_users(on).await;
    let subscriber = world.subscriber().await;
    let growing = Growing::start(&world, USERS + 1, GROWING).await;
    let workload = Workload::start(&world.postgres, 3, 1, USERS).await;
    let mut dice = Dice(20_260_115);
    for round in 0..10 {
        workload.progress(dice.below(150) + 1).await;
        world.lockstep.kill9();
        workload.progress(dice.below(50)).await;
        world.lockstep.spawn(&["run"]);
        // Every other time it is killed again while it still starts.
        if round % 2 == 0 {
            world.lockstep.wait_ready().await;
        }
    }
    workload.stop().await;
    world.lockstep.wait_ready().await;
    growing.stop().await;
    nothing_is_missing_and_nothing_doubled(&world, &subscriber).await;
}

async fn a_subscriber_hears_each_event_once_and_in_order_per_user(on: On) {
    let world = world_with_users(on).await;
    let subscriber = world.subscriber().await;
    let workload = Workload::start(&world.postgres, 4, 1, USERS).await;
    workload.progress(1_000).await;
    workload.stop().await;
    nothing_is_missing_and_nothing_doubled(&world, &subscriber).await;
}

/// What Redis did not take yet is brought there before the end: no next start has to make it good.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains() {
    let world = world_with_users(On::Single).await;
    let subscriber = world.subscriber().await;
    let redis = world.store.single();
    redis.pause();
    for n in 0..100 {
        world.credit(n % 7 + 1, "1").await;
    }
    let written = world.postgres.value("SELECT pg_current_wal_lsn()").await.as_deref().and_then(lsn);
    let written = written.expect("a position") as f64;
    eventually("all was received", async || {
        (world.lockstep.metric("lockstep_received_lsn").await >= written).then_some(())
    })
    .await;
    assert!(world.lockstep.metric("lockstep_applied_lsn").await < written, "redis did not take it yet");
    let stopping = async || {
        let said = "stopping: what was received";
        eventually("it stops", async || world.lockstep.log().contains(said).then_some(())).await;
        redis.resume();
    };
    let status = world.lockstep.sigterm_while(stopping).await;
    assert_eq!(status.code(), Some(0), "{status}");
    let active = world.postgres.value("SELECT bool_or(active) FROM pg_replication_slots").await;
    assert_eq!(active.as_deref(), Some("f"), "the slot is let go");
    world.assert_equal().await;
    subscriber.heard_until_now(&[redis]).await;
    everything_was_told_once(&world, &subscriber).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_acknowledged_that_redis_does_not_hold() {
    let mut setup = Setup::on(On::Single);
    setup.config = "[stream]\nstatus_interval = \"100ms\"".into();
    let world = World::running_as(setup).await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    let subscriber = world.subscriber().await;
    world.store.single().pause();
    world.credit(7, "1").await;
    let (mut replies, mut confirmed) = (BTreeSet::new(), 0);
    eventually("three more status updates", async || {
        replies.extend(world.postgres.value("SELECT reply_time FROM pg_stat_replication").await);
        // The first may have been sent before the commit.
        confirmed = confirmed_flush(&world).await;
        (replies.len() > 3).then_some(())
    })
    .await;
    world.store.single().resume();
    let commit = subscriber.wait_for(BALANCE_UPDATES, "live:7", 1).await[0].commit_lsn();
    assert!(confirmed <= commit, "{confirmed} was acknowledged, past the commit at {commit}");
    let acknowledged = async || (confirmed_flush(&world).await > commit).then_some(());
    eventually("the commit is acknowledged once redis holds it", acknowledged).await;
}

async fn confirmed_flush(world: &World) -> u64 {
    let confirmed = world.postgres.value("SELECT confirmed_flush_lsn FROM pg_replication_slots").await;
    confirmed.as_deref().and_then(lsn).expect("a position")
}
