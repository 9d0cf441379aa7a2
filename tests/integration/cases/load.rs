//! The first load, beside the stream.

use std::time::Duration;

use lockstep::config::TableSpec;
use lockstep::resync::read::{self, Which};
use lockstep::resync::table;
use serde_json::{Value, json};

use crate::harness::postgres::rows;
use crate::harness::{Line, On, Setup, World, eventually};

/// The slot is lost, and with it the changes that nobody streamed.
#[tokio::test(flavor = "multi_thread")]
async fn balances_that_changed_inside_a_gap_reach_the_keys_and_are_counted_as_unpublished() {
    let world = World::running(On::Single).await;
    for id in 1..=5 {
        world.user("live", id, "100").await;
    }
    world.caught_up().await;
    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    world.sql("SELECT pg_drop_replication_slot('lockstep')").await;
    world.sql("UPDATE users SET wallet_balance = wallet_balance + 1 WHERE id <= 3").await;
    world.lockstep.init().await;
    let subscriber = world.subscriber().await;
    world.lockstep.run().await;
    world.eventually_equal().await;
    assert_eq!(world.lockstep.metric("lockstep_unpublished_total").await, 3.0);
    assert_eq!(world.heard_all(&subscriber).await.len(), 0);
}

/// The walsender waits while Redis is compared with it, and not for long.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_after_a_gap_begins_though_redis_has_more_keys_than_can_be_looked_through_at_once() {
    let mut world = World::set_up(Setup::on(On::Single)).await;
    let proxy = world.redis_through_a_proxy().await;
    world.lockstep.init().await;
    world.lockstep.run().await;
    world.user("live", 1, "100").await;
    world.caught_up().await;
    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    world.store.single().write_idle_keys().await;
    world.sql("SELECT pg_drop_replication_slot('lockstep')").await;
    world.credit(1, "5").await;
    world.lockstep.init().await;
    // A thousand keys a step: looking through all of them takes twelve seconds.
    proxy.set(Line::Delayed(Duration::from_millis(20)));
    world.lockstep.spawn(&["run"]);
    let leads = async || (world.lockstep.metrics().await.ok()?.get("lockstep_leader")? == &1.0).then_some(());
    eventually("it streams", leads).await;
    proxy.set(Line::Open);
    world.lockstep.wait_ready().await;
    world.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_load_writes_every_user_and_publishes_nothing() {
    let world = World::set_up(Setup::on(On::Single)).await;
    world.sql("INSERT INTO users (id, user_type, wallet_balance) SELECT n, 'live', n FROM generate_series(1, 3000) n").await;
    world.lockstep.init().await;
    let subscriber = world.subscriber().await;
    world.lockstep.run().await;
    world.assert_equal().await;
    assert!(world.heard_all(&subscriber).await.is_empty());
}

/// The walsender sends what is flushed, and here that is left to the WAL writer.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_does_not_wait_for_the_wal_writer() {
    let mut setup = Setup::on(On::Single);
    setup.postgres = setup.postgres.set("wal_writer_delay", "10s").set("synchronous_commit", "off");
    setup.config = "[load]\nworkers = 1\nchunk_rows = 100".into();
    let world = World::set_up(setup).await;
    world.sql("INSERT INTO users (id, user_type, wallet_balance) SELECT n, 'live', n FROM generate_series(1, 3000) n").await;
    world.sql("CREATE TABLE beside (n int)").await;
    world.lockstep.init().await;
    let writer = world.postgres.client().await;
    let writing = tokio::spawn(async move {
        while writer.batch_execute("INSERT INTO beside VALUES (1)").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    // 30 chunks would wait for minutes.
    world.lockstep.run().await;
    writing.abort();
    world.assert_equal().await;
}

/// A commit that waits for a synchronous standby is in WAL and in the stream, and no snapshot sees it yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_streamed_but_not_yet_visible_survives_the_load() {
    let world = World::set_up(Setup::on(On::Single)).await;
    world.user("live", 7, "100").await;
    world.user("live", 8, "100").await;
    world.lockstep.init().await;
    let held = world.held_commit("UPDATE users SET wallet_balance = 250 WHERE id = 7").await;
    let visible = rows(&world.postgres.client().await, "SELECT wallet_balance FROM users WHERE id = 7").await;
    assert_eq!(visible[0][0].as_deref(), Some("100.000000"), "the commit is still held");

    world.lockstep.run().await;
    world.caught_up().await;
    assert_eq!(world.store.get("user_balance:live:7").await.as_deref(), Some("250"), "the load took it back");
    assert_eq!(world.store.get("user_balance:live:8").await.as_deref(), Some("100"));

    world.release_commits().await;
    held.await.expect("the writer");
    world.eventually_equal().await;
    assert_eq!(world.store.get("user_balance:live:7").await.as_deref(), Some("250"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_was_killed_is_finished_by_the_next_run() {
    const USERS: u32 = 5_000;
    let mut setup = Setup::on(On::Single);
    // One small chunk after the other: it is under way for seconds.
    setup.config = "[load]\nworkers = 1\nchunk_rows = 5".into();
    let world = World::loading_as(setup, USERS).await;
    // Lines of progress are five seconds apart.
    let locker = world.postgres.client().await;
    locker.batch_execute("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let five_seconds = "SELECT clock_timestamp() > query_start + interval '5 s' FROM pg_stat_activity \
                        WHERE query LIKE 'BEGIN; LOCK TABLE%'";
    world.postgres.eventually_value(five_seconds, "t").await;
    locker.batch_execute("COMMIT").await.unwrap();
    let log = async |what: &str, line: &str| {
        eventually(what, async || world.lockstep.log().contains(line).then_some(())).await;
    };
    log("its length is told", &format!("loading users expected={USERS}")).await;
    eventually("its progress is kept", async || {
        let mark = world.store.get("lockstep:load:lockstep").await?;
        mark.contains("\"up_to\":\"").then_some(())
    })
    .await;
    log("its progress is told", "loading users users=").await;
    world.lockstep.kill9();
    world.sql("UPDATE users SET wallet_balance = wallet_balance + 0.5 WHERE id % 7 = 0").await;
    world.lockstep.run().await;
    world.eventually_equal().await;
    let said = world.lockstep.log();
    let (_, done) = said.split_once("loading users: done users=").expect("the end of the load");
    let loaded: u32 = done.split(' ').next().and_then(|users| users.parse().ok()).expect("a number");
    assert!((1..USERS).contains(&loaded), "the second run loaded {loaded} of {USERS} users");
    assert!(world.store.get("lockstep:load:lockstep").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_an_instance_wrote_late_ends_no_load_of_its_successor() {
    let mut setup = Setup::on(On::Single);
    setup.config = "[load]\nworkers = 1\nchunk_rows = 5".into();
    let world = World::loading_as(setup, 5_000).await;
    let progress = eventually("its progress is kept", async || {
        let mark = world.store.get("lockstep:load:lockstep").await?;
        mark.contains("\"up_to\":\"").then_some(mark)
    })
    .await;
    world.lockstep.kill9();
    // What whoever was frozen as it finished a load of the same tables writes once it wakes up.
    let published = &serde_json::from_str::<Value>(&progress).unwrap()["published"];
    world.store.set("lockstep:loaded:lockstep", &json!({ "published": published }).to_string()).await;
    world.lockstep.run().await;
    world.assert_equal().await;
    assert!(world.store.get("lockstep:load:lockstep").await.is_none());
}

/// A load of 20,000 users that has begun, and Redis paused, so that it stands still.
async fn load_under_way() -> World {
    let world = World::loading(20_000).await;
    world.store.single().pause();
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_come_and_go_during_the_load_do_not_end_it() {
    let world = load_under_way().await;
    let tables = world.postgres.published_without("mam_status").await;
    world.sql(&format!("ALTER PUBLICATION lockstep SET TABLE {tables}")).await;
    world.sql("ALTER TABLE users ADD COLUMN nickname text DEFAULT 'nobody'").await;
    world.sql("ALTER TABLE users DROP COLUMN mam_status").await;
    world.store.single().resume();
    world.lockstep.wait_ready().await;
    world.eventually_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_away_during_the_load_is_named_until_it_is_back() {
    let world = load_under_way().await;
    world.sql("ALTER TABLE users RENAME TO users_of_yesterday").await;
    world.store.single().resume();
    eventually("the table is named", async || {
        let (status, body) = world.lockstep.http("GET", "/readyz").await.ok()?;
        (status == 503 && body.contains("public.users")).then_some(())
    })
    .await;
    world.sql("ALTER TABLE users_of_yesterday RENAME TO users").await;
    world.lockstep.wait_ready().await;
    world.eventually_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balance_that_is_away_during_the_load_is_named_until_it_is_back() {
    let world = load_under_way().await;
    world.sql("ALTER TABLE users RENAME wallet_balance TO balance").await;
    world.store.single().resume();
    eventually("the column is named", async || {
        let (status, body) = world.lockstep.http("GET", "/readyz").await.ok()?;
        (status == 503 && body.contains("wallet_balance")).then_some(())
    })
    .await;
    world.sql("ALTER TABLE users RENAME balance TO wallet_balance").await;
    world.lockstep.wait_ready().await;
    world.eventually_equal().await;
}

/// To a snapshot that is older than the rewriting of a table the table is empty: whoever reads it so would take every user
/// for gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_reading_that_waited_for_a_table_to_be_rewritten_sees_its_rows() {
    let world = World::set_up(Setup::on(On::Single)).await;
    world.user("live", 7, "100").await;
    let reader = world.postgres.client().await;
    let spec = TableSpec::defaults().into_iter().find(TableSpec::is_users).expect("a table of users");
    let table = table::describe(&reader, &spec).await.expect("the table");
    let rewriter = world.postgres.client().await;
    let rewrites =
        "BEGIN; ALTER TABLE users ALTER wallet_balance TYPE numeric(20,6) USING wallet_balance + 0";
    rewriter.batch_execute(rewrites).await.expect("the rewriting");
    let reading = tokio::spawn(async move {
        let everybody = Which::Range { after: None, up_to: None };
        read::read(&reader, &table, &everybody).await.expect("the reading")
    });
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    world.postgres.eventually_value(waiting, "1").await;
    rewriter.batch_execute("COMMIT").await.expect("the commit");
    assert_eq!(reading.await.expect("the reader").rows.len(), 1);
}
