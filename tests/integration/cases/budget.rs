//! A slot that retains more WAL than it may is given up: the database keeps its disk, and Redis is loaded again.

use std::collections::BTreeSet;

use crate::harness::{Lockstep, On, Setup, World, eventually};

on_both!(a_position_that_retains_too_much_wal_is_given_up_while_redis_never_answers);

const USERS: u32 = 50;
/// The least that `postgres.retained_wal_max` may be: 4 segments.
const BUDGET: &str = "64MiB";
const BUDGET_BYTES: u64 = 64 << 20;

/// Initialised, with users, and a budget that is soon spent; `run` was not started.
async fn world_with_a_small_budget(on: On) -> World {
    let mut world = World::set_up(Setup::on(on)).await;
    world.lockstep = instance(&world);
    world.lockstep.init().await;
    let users = format!("SELECT n, 'live', 1000 FROM generate_series(1, {USERS}) n");
    world.sql(&format!("INSERT INTO users (id, user_type, wallet_balance) {users}")).await;
    world
}

fn instance(world: &World) -> Lockstep {
    let lockstep = Lockstep::new(&world.postgres.url(), &world.store.urls(), "");
    lockstep.with_environment("LOCKSTEP_RETAINED_WAL_MAX", BUDGET)
}

async fn running_world(on: On) -> World {
    let world = world_with_a_small_budget(on).await;
    world.lockstep.run().await;
    world.caught_up().await;
    world
}

/// As many segments of WAL.
async fn write_segments(world: &World, segments: u32) {
    for _ in 0..segments {
        world.sql("SELECT pg_logical_emit_message(false, 'lockstep-test', ''), pg_switch_wal()").await;
    }
}

async fn given_up(lockstep: &Lockstep) -> f64 {
    lockstep.metric("lockstep_position_given_up_total").await
}

/// Waits until the position was given up so often in all, and a slot that retains next to nothing is there again.
async fn is_given_up(world: &World, instances: &[&Lockstep], times: f64) {
    eventually("the position is given up", async || {
        let mut all = 0.0;
        for lockstep in instances {
            all += given_up(lockstep).await;
        }
        assert!(all <= times, "given up {all} times");
        (all == times).then_some(())
    })
    .await;
    let retained = format!(
        "SELECT (pg_current_wal_lsn() - restart_lsn < {BUDGET_BYTES})::text FROM pg_replication_slots WHERE NOT active"
    );
    world.postgres.eventually_value(&retained, "true").await;
}

async fn pause(world: &World) {
    world.store.masters().await.iter().for_each(|redis| redis.pause());
}

async fn a_position_that_retains_too_much_wal_is_given_up_while_redis_never_answers(on: On) {
    let world = running_world(on).await;
    let subscriber = world.subscriber().await;
    let masters = world.store.masters().await;
    masters.iter().for_each(|redis| redis.pause());
    world.sql("UPDATE users SET wallet_balance = wallet_balance + 1 WHERE id <= 3").await;
    write_segments(&world, 3).await;
    assert_eq!(given_up(&world.lockstep).await, 0.0);
    world.sql("DELETE FROM users WHERE id IN (4, 5)").await;
    write_segments(&world, 3).await;
    is_given_up(&world, &[&world.lockstep], 1.0).await;
    world.lockstep.is_not_ready_because("its position was given up").await;
    // Redis stays away: the new slot is given up when it too retains too much, and not before.
    write_segments(&world, 6).await;
    is_given_up(&world, &[&world.lockstep], 2.0).await;
    // The slot itself is the mark of the load to come.
    world.lockstep.kill9();
    world.lockstep.spawn(&["run"]);
    masters.iter().for_each(|redis| redis.resume());
    world.lockstep.wait_ready().await;
    world.eventually_equal().await;
    world.credit(7, "1").await;
    let heard = world.heard_all(&subscriber).await;
    subscriber.assert_each_once();
    // A frozen server still does what it was sent before: what it did not publish is counted.
    let told: BTreeSet<&str> = heard.iter().map(|heard| heard.text("event_id")).collect();
    let unpublished = world.lockstep.metric("lockstep_unpublished_total").await;
    assert_eq!(told.len() as f64 + unpublished, 6.0, "{told:?}");
    assert_eq!(given_up(&world.lockstep).await, 0.0);
}

/// No session ever was: nothing but the slot says that somebody will need WAL.
#[tokio::test(flavor = "multi_thread")]
async fn a_position_is_given_up_while_redis_is_away_from_the_start() {
    let world = world_with_a_small_budget(On::Single).await;
    world.store.single().kill9();
    world.lockstep.spawn(&["run"]);
    write_segments(&world, 6).await;
    is_given_up(&world, &[&world.lockstep], 1.0).await;
    world.lockstep.is_not_ready_because("its position was given up").await;
    world.store.single().start_again().await;
    world.lockstep.wait_ready().await;
    world.credit(7, "1").await;
    world.caught_up().await;
    world.eventually_equal().await;
}

/// It would retain WAL wherever the slot stood; so would the new one that waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_an_old_transaction_holds_is_dropped_and_made_when_that_ends() {
    let world = running_world(On::Single).await;
    let open = world.postgres.client().await;
    let pid: i32 = open.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    open.batch_execute("BEGIN; UPDATE users SET wallet_balance = 7 WHERE id = 7").await.unwrap();
    write_segments(&world, 6).await;
    world.lockstep.is_not_ready_because(&format!("the new slot waits for pid {pid}")).await;
    world.sql("UPDATE users SET wallet_balance = 8 WHERE id = 8").await;
    write_segments(&world, 6).await;
    eventually("the making is ended", async || {
        world.lockstep.log().contains("that was being made retained too much").then_some(())
    })
    .await;
    open.batch_execute("COMMIT").await.unwrap();
    world.lockstep.wait_ready().await;
    world.caught_up().await;
    world.eventually_equal().await;
    assert_eq!(given_up(&world.lockstep).await, 1.0);
    assert_eq!(world.lockstep.metric("lockstep_unpublished_total").await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_instances_gives_the_position_up() {
    let mut world = running_world(On::Single).await;
    let mut second = instance(&world);
    second.spawn(&["run"]);
    second.is_not_ready_because("another instance holds the slot").await;
    pause(&world).await;
    write_segments(&world, 6).await;
    is_given_up(&world, &[&world.lockstep, &second], 1.0).await;
    world.lockstep.kill9();
    std::mem::swap(&mut world.lockstep, &mut second);
    world.store.single().resume();
    world.lockstep.wait_ready().await;
    world.caught_up().await;
    world.eventually_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_keeps_up_gives_nothing_up_however_much_is_written() {
    let world = running_world(On::Single).await;
    let retains_little =
        "SELECT (pg_current_wal_lsn() - restart_lsn < 16 * 1024 * 1024)::text FROM pg_replication_slots";
    for _ in 0..6 {
        world.credit(7, "1").await;
        write_segments(&world, 2).await;
        world.sql("CHECKPOINT").await;
        world.caught_up().await;
        world.postgres.eventually_value(retains_little, "true").await;
    }
    assert_eq!(given_up(&world.lockstep).await, 0.0);
}
