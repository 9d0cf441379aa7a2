//! Two instances: one holds the slot, the other waits for it and takes over.

use std::time::{Duration, Instant};

use super::crash::{GROWING, USERS, nothing_is_missing_and_nothing_doubled, world_with_users};
use crate::harness::workload::{Growing, Workload};
use crate::harness::{Line, Lockstep, Mode, On, Setup, World, eventually, seconds_asked_for};

on_both!(
    the_second_takes_over_after_a_kill_9,
    a_rolling_restart_loses_and_repeats_nothing,
    a_frozen_instance_that_wakes_up_moves_no_key_back_and_repeats_nothing,
);

/// Where the server has to find out first that the leader is gone; its own default would be a minute.
const WITHIN_OUR_TIMEOUT: Duration = Duration::from_secs(30);

async fn leads(lockstep: &Lockstep) -> bool {
    lockstep.metric("lockstep_leader").await == 1.0
}

/// Waits until the second is ready and leads; says how long that took.
async fn takes_over(second: &Lockstep) -> Duration {
    let since = Instant::now();
    second.wait_ready().await;
    assert!(leads(second).await);
    since.elapsed()
}

async fn the_second_takes_over_after_a_kill_9(on: On) {
    let mut world = world_with_users(on).await;
    let subscriber = world.subscriber().await;
    let mut second = world.standby().await;
    let growing = Growing::start(&world, USERS + 1, GROWING).await;
    let workload = Workload::start(&world.postgres, 2, 1, USERS).await;
    let mut slowest = Duration::ZERO;
    for _ in 0..3 {
        workload.progress(100).await;
        assert!(leads(&world.lockstep).await && !leads(&second).await);
        world.lockstep.kill9();
        slowest = slowest.max(takes_over(&second).await);
        std::mem::swap(&mut world.lockstep, &mut second);
        second = world.standby().await;
    }
    workload.stop().await;
    growing.stop().await;
    println!("slowest takeover: {slowest:?}");
    nothing_is_missing_and_nothing_doubled(&world, &subscriber).await;
}

async fn a_rolling_restart_loses_and_repeats_nothing(on: On) {
    let mut world = world_with_users(on).await;
    let subscriber = world.subscriber().await;
    let mut second = world.standby().await;
    let growing = Growing::start(&world, USERS + 1, GROWING).await;
    let workload = Workload::start(&world.postgres, 2, 1, USERS).await;
    for _ in 0..3 {
        workload.progress(100).await;
        assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
        takes_over(&second).await;
        std::mem::swap(&mut world.lockstep, &mut second);
        second = world.standby().await;
    }
    workload.stop().await;
    growing.stop().await;
    nothing_is_missing_and_nothing_doubled(&world, &subscriber).await;
}

/// After a minute, where `LOCKSTEP_TEST_FROZEN_SECONDS=60` asks for it.
async fn a_frozen_instance_that_wakes_up_moves_no_key_back_and_repeats_nothing(on: On) {
    let mut world = world_with_users(on).await;
    let subscriber = world.subscriber().await;
    let mut second = world.standby().await;
    let growing = Growing::start(&world, USERS + 1, GROWING).await;
    let workload = Workload::start(&world.postgres, 2, 1, USERS).await;
    workload.progress(100).await;
    let since = Instant::now();
    world.lockstep.signal("STOP");
    let took = takes_over(&second).await;
    println!("takeover from a frozen instance: {took:?}");
    assert!(took < WITHIN_OUR_TIMEOUT, "{took:?}");
    while {
        workload.progress(200).await;
        since.elapsed() < seconds_asked_for("LOCKSTEP_TEST_FROZEN_SECONDS")
    } {}
    println!("it wakes up after {:?}", since.elapsed());
    world.lockstep.signal("CONT");
    let ended = async || world.lockstep.log().contains("the stream ended").then_some(());
    eventually("the frozen one sees that its stream is gone", ended).await;
    workload.progress(100).await;
    // A checkpoint that it still had under way may have made the other compare and let go of the slot: whoever leads
    // by now, both have done their worst.
    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    takes_over(&second).await;
    workload.stop().await;
    growing.stop().await;
    std::mem::swap(&mut world.lockstep, &mut second);
    nothing_is_missing_and_nothing_doubled(&world, &subscriber).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_cut_off_from_the_database_is_replaced() {
    let mut world = World::set_up(Setup::on(On::Single)).await;
    let proxy = world.through_a_proxy().await;
    world.lockstep.init().await;
    world.user("live", 7, "100").await;
    world.lockstep.run().await;
    let subscriber = world.subscriber().await;
    let mut second = world.standby().await;
    proxy.set(Line::Silent);
    let took = takes_over(&second).await;
    println!("takeover from an instance that is cut off: {took:?}");
    assert!(took < WITHIN_OUR_TIMEOUT, "{took:?}");
    world.credit(7, "1").await;
    eventually("the first knows that it is cut off", async || (!leads(&world.lockstep).await).then_some(()))
        .await;
    world.lockstep.is_not_ready_because("postgres").await;
    proxy.set(Line::Open);
    world.lockstep.is_not_ready_because("another instance holds the slot").await;
    std::mem::swap(&mut world.lockstep, &mut second);
    nothing_is_missing_and_nothing_doubled(&world, &subscriber).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_the_slot_hides_no_later_fault() {
    let world = World::running(On::Single).await;
    let second = world.standby().await;
    world.postgres.stop(Mode::Fast).await;
    second.is_not_ready_because("unreachable").await;
    world.postgres.start_again().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_stood_by_waits_for_what_is_being_mended() {
    let world = World::running(On::Single).await;
    let second = world.standby().await;
    world.sql("DROP PUBLICATION lockstep").await;
    world.lockstep.kill9();
    second.is_not_ready_because("does not exist: run").await;
    world.lockstep.init().await;
    second.wait_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_the_slot_is_no_reconnect() {
    let world = World::running(On::Single).await;
    let second = world.standby().await;
    world.lockstep.kill9();
    second.wait_ready().await;
    assert_eq!(second.metric("lockstep_postgres_reconnects_total").await, 0.0);
    assert!(leads(&second).await);
}

/// Between kill and first event nothing stands that takes as long as there are keys.
#[tokio::test(flavor = "multi_thread")]
async fn who_stands_by_has_looked_through_all_keys_before_it_takes_over() {
    let world = World::running(On::Single).await;
    world.user("live", 1, "100").await;
    world.caught_up().await;
    let redis = world.store.single();
    redis.call(&["SET", "financial_summary:live:1:before", "1"]).await;
    let second = world.standby().await;
    eventually("the second knows all derived keys", async || {
        (second.metric("lockstep_derived_keys").await == 1.0).then_some(())
    })
    .await;
    redis.call(&["SET", "financial_summary:live:1:meanwhile", "1"]).await;
    let scans = redis.calls("scan").await;
    world.lockstep.kill9();
    takes_over(&second).await;
    world.credit(1, "5").await;
    for key in ["financial_summary:live:1:before", "financial_summary:live:1:meanwhile"] {
        eventually(key, async || (!redis.exists(key).await).then_some(())).await;
    }
    assert_eq!(redis.calls("scan").await, scans);
}

/// Nothing is sent there that would find out, and a takeover would wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn who_stands_by_misses_redis_too() {
    let world = World::running(On::Single).await;
    let (url, redis) = world.line_to_redis().await;
    let second = world.standby_by(&[url]).await;
    let connected = async || second.metric("lockstep_redis_connected").await;
    assert_eq!(connected().await, 1.0);
    redis.set(Line::Cut);
    eventually("redis is missed", async || (connected().await == 0.0).then_some(())).await;
    second.is_not_ready_because("redis").await;
    redis.set(Line::Open);
    eventually("redis is found again", async || (connected().await == 1.0).then_some(())).await;
    world.lockstep.kill9();
    takes_over(&second).await;
}
