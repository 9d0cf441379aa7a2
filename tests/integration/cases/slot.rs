//! A slot that is dropped or invalidated: made anew, and what happened meanwhile reaches Redis by a load.

use std::time::Instant;

use crate::harness::workload::Workload;
use crate::harness::{On, Setup, World, eventually, seconds_asked_for};

on_both!(a_slot_that_was_dropped_while_running_is_made_anew, a_slot_that_was_dropped_while_away_is_made_anew);

const USERS: u32 = 50;

async fn world_with_users(on: On) -> World {
    world_with_users_as(Setup::on(on)).await
}

async fn world_with_users_as(setup: Setup) -> World {
    let world = World::running_as(setup).await;
    let users = format!("SELECT n, 'live', 1000 FROM generate_series(1, {USERS}) n");
    world.sql(&format!("INSERT INTO users (id, user_type, wallet_balance) {users}")).await;
    world.caught_up().await;
    world
}

/// Makes the server drop WAL that the slot still needs.
async fn invalidate_the_slot(world: &World) {
    world.sql("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'").await;
    world.sql("SELECT pg_reload_conf()").await;
    world.postgres.eventually_value("SHOW max_slot_wal_keep_size", "1MB").await;
    for _ in 0..4 {
        world.sql("SELECT pg_logical_emit_message(false, 'lockstep-test', ''), pg_switch_wal()").await;
    }
    world.sql("CHECKPOINT").await;
    let status = "SELECT wal_status FROM pg_replication_slots";
    world.postgres.eventually_value(status, "lost").await;
    world.sql("ALTER SYSTEM RESET max_slot_wal_keep_size").await;
    world.sql("SELECT pg_reload_conf()").await;
}

async fn is_whole_again(world: &World) {
    eventually("the loss is noticed", async || world.lockstep.log().contains("made anew").then_some(()))
        .await;
    world.lockstep.wait_ready().await;
    world.caught_up().await;
    world.eventually_equal().await;
}

async fn a_slot_that_was_dropped_while_running_is_made_anew(on: On) {
    let world = world_with_users(on).await;
    let workload = Workload::start(&world.postgres, 2, 1, USERS).await;
    workload.progress(50).await;
    world.drop_the_slot().await;
    workload.progress(50).await;
    // Two readings of a world in motion never agree for sure: equality is asked for at rest.
    workload.stop().await;
    is_whole_again(&world).await;
}

async fn a_slot_that_was_dropped_while_away_is_made_anew(on: On) {
    let world = world_with_users(on).await;
    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    world.drop_the_slot().await;
    world.sql("UPDATE users SET wallet_balance = wallet_balance + 1 WHERE id <= 3").await;
    world.sql("DELETE FROM users WHERE id IN (4, 5)").await;
    let subscriber = world.subscriber().await;
    world.lockstep.run().await;
    assert!(!world.store.exists("user_balance:live:4").await, "nobody has it any more");
    is_whole_again(&world).await;
    assert_eq!(world.lockstep.metric("lockstep_unpublished_total").await, 5.0);
    assert_eq!(subscriber.heard().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_never_was_is_not_made_by_run() {
    let world = World::running(On::Single).await;
    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    let toml = world.lockstep.configuration().replace("[redis]", "slot = \"lokcstep\"\n[redis]");
    world.lockstep.configure(&toml);
    let ended = world.lockstep.finish(&["run"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(format!("{ended:?}").contains("lockstep init"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_was_invalidated_while_away_is_made_anew() {
    let world = world_with_users(On::Single).await;
    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    world.sql("UPDATE users SET wallet_balance = wallet_balance + 1 WHERE id <= 3").await;
    invalidate_the_slot(&world).await;
    world.lockstep.run().await;
    is_whole_again(&world).await;
    assert_eq!(world.lockstep.metric("lockstep_unpublished_total").await, 3.0);
    let kept = "SELECT wal_status, plugin FROM pg_replication_slots";
    assert_eq!(world.postgres.rows(kept).await, [[Some("reserved".to_owned()), Some("pgoutput".to_owned())]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_was_invalidated_while_redis_hung_is_made_anew() {
    let world = world_with_users(On::Single).await;
    world.store.single().pause();
    world.sql("UPDATE users SET wallet_balance = wallet_balance + 1 WHERE id <= 3").await;
    invalidate_the_slot(&world).await;
    world.store.single().resume();
    is_whole_again(&world).await;
}

/// For ten minutes, where `LOCKSTEP_TEST_OPEN_SECONDS=600` asks for it.
#[tokio::test(flavor = "multi_thread")]
async fn the_transaction_that_a_new_slot_waits_for_is_named() {
    let world = world_with_users(On::Single).await;
    let open = world.postgres.client().await;
    let pid: i32 = open.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    open.batch_execute("BEGIN; UPDATE users SET wallet_balance = 7 WHERE id = 7").await.unwrap();
    world.drop_the_slot().await;
    let waits = format!("the new slot waits for pid {pid}");
    let (since, asked) = (Instant::now(), seconds_asked_for("LOCKSTEP_TEST_OPEN_SECONDS"));
    while {
        world.lockstep.is_not_ready_because(&waits).await;
        since.elapsed() < asked
    } {
        // Others go on meanwhile.
        world.credit(8, "1").await;
    }
    println!("it was open for {:?}", since.elapsed());
    open.batch_execute("COMMIT").await.unwrap();
    is_whole_again(&world).await;
}

/// It is in no later stream, and what is loaded before it is visible would lack it. The snapshot of another slot's stream
/// does not make the server wait for less.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_slot_waits_for_a_commit_that_is_not_visible_yet() {
    let config = "[audit]\nusers_per_second = 0\n".to_owned();
    let world = world_with_users_as(Setup { config, ..Setup::on(On::Single) }).await;
    world.sql("SELECT pg_create_logical_replication_slot('another', 'pgoutput')").await;
    let held = world.held_commit("UPDATE users SET wallet_balance = 7 WHERE id = 7").await;
    world.drop_the_slot().await;
    world.lockstep.is_not_ready_because("the new slot waits for pid").await;
    world.release_commits().await;
    held.await.expect("the writer");
    is_whole_again(&world).await;
    world.sql("SELECT pg_drop_replication_slot('another')").await;
}
