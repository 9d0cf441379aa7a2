//! The first load, beside the stream.

use crate::harness::postgres::rows;
use crate::harness::{On, Setup, World, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn the_first_load_writes_every_user_and_publishes_nothing() {
    let world = World::set_up(Setup::on(On::Single)).await;
    world.sql("INSERT INTO users (id, user_type, wallet_balance) SELECT n, 'live', n FROM generate_series(1, 3000) n").await;
    world.lockstep.init().await;
    let subscriber = world.subscriber().await;
    world.lockstep.run().await;
    world.assert_equal().await;
    assert!(subscriber.heard().is_empty());
}

/// A commit that waits for a synchronous standby is in WAL and in the stream, and no snapshot sees it yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_streamed_but_not_yet_visible_survives_the_load() {
    let world = World::set_up(Setup::on(On::Single)).await;
    world.user("live", 7, "100").await;
    world.user("live", 8, "100").await;
    world.lockstep.init().await;
    world.sql("ALTER SYSTEM SET synchronous_standby_names = 'a_standby_that_never_comes'").await;
    world.sql("SELECT pg_reload_conf()").await;
    world.postgres.eventually_value("SHOW synchronous_standby_names", "a_standby_that_never_comes").await;
    let writer = world.postgres.client().await;
    let held = tokio::spawn(async move {
        writer.batch_execute("UPDATE users SET wallet_balance = 250 WHERE id = 7").await.expect("the commit");
    });
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    world.postgres.eventually_value(waiting, "1").await;
    let visible = rows(&world.postgres.client().await, "SELECT wallet_balance FROM users WHERE id = 7").await;
    assert_eq!(visible[0][0].as_deref(), Some("100.000000"), "the commit is still held");

    world.lockstep.run().await;
    world.caught_up().await;
    assert_eq!(world.store.get("user_balance:live:7").await.as_deref(), Some("250"), "the load took it back");
    assert_eq!(world.store.get("user_balance:live:8").await.as_deref(), Some("100"));

    world.sql("ALTER SYSTEM RESET synchronous_standby_names").await;
    world.sql("SELECT pg_reload_conf()").await;
    held.await.expect("the writer");
    world.eventually_equal().await;
    assert_eq!(world.store.get("user_balance:live:7").await.as_deref(), Some("250"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_was_killed_is_finished_by_the_next_run() {
    let world = World::set_up(Setup::on(On::Single)).await;
    world.sql("INSERT INTO users (id, user_type, wallet_balance) SELECT n, 'live', n FROM generate_series(1, 30000) n").await;
    world.lockstep.init().await;
    world.lockstep.spawn(&["run"]);
    eventually("the load has begun", async || world.store.exists("user_balance:live:1").await.then_some(()))
        .await;
    world.lockstep.kill9();
    world.sql("UPDATE users SET wallet_balance = wallet_balance + 0.5 WHERE id % 7 = 0").await;
    world.lockstep.run().await;
    world.eventually_equal().await;
}
