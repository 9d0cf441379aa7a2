//! The database goes away, or the line to it, in every way: each time the stream goes on and loses nothing.

use super::crash::nothing_is_missing_and_nothing_doubled;
use crate::harness::workload::Workload;
use crate::harness::{Line, Mode, On, Proxy, Setup, Subscriber, World, eventually};

const USERS: u32 = 30;

async fn world_behind_a_proxy() -> (World, Proxy, Subscriber) {
    let mut world = World::set_up(Setup::on(On::Single)).await;
    let proxy = world.through_a_proxy().await;
    world.lockstep.init().await;
    let users = format!("SELECT n, 'live', 1000 FROM generate_series(1, {USERS}) n");
    world.sql(&format!("INSERT INTO users (id, user_type, wallet_balance) {users}")).await;
    world.lockstep.run().await;
    let subscriber = world.subscriber().await;
    (world, proxy, subscriber)
}

async fn reconnects(world: &World) -> f64 {
    world.lockstep.metric("lockstep_postgres_reconnects_total").await
}

/// Waits until the stream was given up at least once since `before`.
async fn is_noticed(world: &World, before: f64) {
    eventually("the fault is noticed", async || (reconnects(world).await > before).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_goes_on_after_the_server_restarts_in_any_way() {
    let (world, _proxy, subscriber) = world_behind_a_proxy().await;
    for mode in [Some(Mode::Fast), Some(Mode::Immediate), None] {
        let workload = Workload::start(&world.postgres, 2, 1, USERS).await;
        workload.progress(30).await;
        let before = reconnects(&world).await;
        match mode {
            Some(mode) => drop(world.postgres.stop(mode).await),
            None => world.postgres.kill9(),
        }
        workload.stop().await;
        is_noticed(&world, before).await;
        world.postgres.start_again().await;
        world.lockstep.wait_ready().await;
        world.credit(7, "1").await;
        nothing_is_missing_and_nothing_doubled(&world, &subscriber).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_goes_on_after_its_walsender_was_terminated_under_load() {
    let (world, _proxy, subscriber) = world_behind_a_proxy().await;
    let workload = Workload::start(&world.postgres, 2, 1, USERS).await;
    for _ in 0..3 {
        workload.progress(30).await;
        let before = reconnects(&world).await;
        world.sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots").await;
        is_noticed(&world, before).await;
        world.lockstep.wait_ready().await;
    }
    workload.stop().await;
    nothing_is_missing_and_nothing_doubled(&world, &subscriber).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_goes_on_after_the_network_was_cut_under_load() {
    let (world, proxy, subscriber) = world_behind_a_proxy().await;
    let workload = Workload::start(&world.postgres, 2, 1, USERS).await;
    for _ in 0..3 {
        workload.progress(30).await;
        let before = reconnects(&world).await;
        proxy.set(Line::Cut);
        is_noticed(&world, before).await;
        workload.progress(30).await;
        proxy.set(Line::Open);
        world.lockstep.wait_ready().await;
    }
    workload.stop().await;
    nothing_is_missing_and_nothing_doubled(&world, &subscriber).await;
}

/// Nothing is refused and nothing ends: only the silence tells, and on either side.
#[tokio::test(flavor = "multi_thread")]
async fn the_stream_goes_on_after_the_network_fell_silent_under_load() {
    let (world, proxy, subscriber) = world_behind_a_proxy().await;
    let workload = Workload::start(&world.postgres, 2, 1, USERS).await;
    workload.progress(30).await;
    let before = reconnects(&world).await;
    proxy.set(Line::Silent);
    is_noticed(&world, before).await;
    world.lockstep.is_not_ready_because("postgres").await;
    world.postgres.eventually_value("SELECT active::text FROM pg_replication_slots", "false").await;
    workload.progress(30).await;
    proxy.set(Line::Open);
    world.lockstep.wait_ready().await;
    workload.stop().await;
    nothing_is_missing_and_nothing_doubled(&world, &subscriber).await;
}
