//! What cannot be applied as written is recorded, and can be read again once the cause is gone.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::config_of;
use crate::harness::proxy::Line;
use crate::harness::subscriber::lsn;
use crate::harness::world::quote;
use crate::harness::{On, Setup, World, eventually};

on_both!(
    a_balance_that_is_no_number_is_recorded_until_it_is_put_right,
    the_record_survives_a_kill_and_a_takeover,
    a_resync_of_the_quarantine_reads_who_is_in_it_and_empties_it,
    a_record_that_somebody_removed_holds_nothing_up,
);

const RECORD: &str = "lockstep:quarantine:lockstep";
const OPEN: &str = "lockstep_quarantine_open";

/// The record in Redis.
async fn entries(world: &World) -> Vec<Value> {
    let record = world.store.get(RECORD).await.unwrap_or_default();
    record.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn open(world: &World) -> Vec<Value> {
    entries(world).await.into_iter().filter(|entry| entry["state"] == "open").collect()
}

/// Waits until so many are open, in the record and in the metric.
async fn are_open(world: &World, count: usize) -> Vec<Value> {
    eventually(&format!("{count} entries are open"), async || {
        let open = open(world).await;
        let told = world.lockstep.metric(OPEN).await;
        (open.len() == count && told == count as f64).then_some(open)
    })
    .await
}

/// So many users were read again, and their rows were no better.
async fn are_read_again(world: &World, count: usize) {
    let said = async || world.lockstep.log().matches("keys stay deleted").count() >= count;
    eventually("they are read again", async || said().await.then_some(())).await;
}

async fn with_users(on: On) -> World {
    let world = World::running(on).await;
    for id in 7..=9 {
        world.user("live", id, "100").await;
    }
    world.caught_up().await;
    world
}

/// A table that is rewritten tells the stream nothing: rows are put right without an event. With a column list it could
/// not be rewritten.
async fn with_a_whole_publication(on: On) -> World {
    let mut setup = Setup::on(on);
    // What is left alone here would be healed a second later.
    setup.config = "[audit]\nforeign_writes = \"off\"".into();
    let world = World::set_up(setup).await;
    for id in 7..=9 {
        world.user("live", id, "100").await;
    }
    world.lockstep.init().await;
    world.sql("ALTER PUBLICATION lockstep SET TABLE users, user_transactions").await;
    world.lockstep.run().await;
    world
}

/// `case` is an SQL expression of the balance that is wanted.
async fn put_right_unseen(world: &World, case: &str) {
    world.sql(&format!("ALTER TABLE users ALTER wallet_balance TYPE numeric(18,6) USING {case}")).await;
}

async fn a_balance_that_is_no_number_is_recorded_until_it_is_put_right(on: On) {
    let world = with_users(on).await;
    let before = lsn(&world.postgres.value("SELECT pg_current_wal_lsn()").await.unwrap()).unwrap();
    world.sql("UPDATE users SET wallet_balance = 'NaN' WHERE id = 7").await;
    let xid = world.postgres.value("SELECT xmin FROM users WHERE id = 7").await.unwrap();
    let entry = are_open(&world, 1).await.remove(0);
    assert_eq!(entry["user"], serde_json::json!(["live", "7"]), "{entry}");
    assert_eq!(entry["table"], "public.users");
    assert_eq!(entry["reason"], "column wallet_balance holds a value that never reaches a key");
    assert_eq!(entry["xid"].to_string(), xid);
    assert!(lsn(entry["commit_lsn"].as_str().unwrap()).unwrap() >= before, "{entry}");
    assert!(entry["committed_at"].as_str().unwrap().ends_with('Z') && entry["row"] == 1, "{entry}");
    world.user("live", 10, "5").await;
    world.eventually_equal().await;
    let told = world.lockstep.succeed(&["status"]).await;
    assert!(told.contains("1 open") && told.contains("live:7: column wallet_balance"), "{told}");
    world.sql("UPDATE users SET wallet_balance = 5 WHERE id = 7").await;
    are_open(&world, 0).await;
    world.eventually_equal().await;
    assert_eq!(entries(&world).await[0]["state"], "healed");
    assert!(!world.lockstep.succeed(&["status"]).await.contains("quarantine"));
}

async fn the_record_survives_a_kill_and_a_takeover(on: On) {
    let world = with_users(on).await;
    world.sql("UPDATE users SET wallet_balance = 'NaN' WHERE id = 7").await;
    let recorded = are_open(&world, 1).await;
    world.lockstep.kill9();
    world.lockstep.run().await;
    assert_eq!(are_open(&world, 1).await, recorded);
    let second = world.standby().await;
    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    second.wait_ready().await;
    world.sql("UPDATE users SET wallet_balance = 'NaN' WHERE id = 8").await;
    eventually("both are open at the second", async || (second.metric(OPEN).await == 2.0).then_some(()))
        .await;
    let both = async || (open(&world).await.len() == 2).then_some(());
    eventually("both are recorded", both).await;
    assert_eq!(entries(&world).await[0], recorded[0]);
}

/// The next incident finds another record than was written there last, and no checkpoint may leave before it is kept.
async fn a_record_that_somebody_removed_holds_nothing_up(on: On) {
    let world = with_users(on).await;
    world.sql("UPDATE users SET wallet_balance = 'NaN' WHERE id = 7").await;
    are_open(&world, 1).await;
    world.store.call(RECORD, &["DEL", RECORD]).await;
    world.sql("UPDATE users SET wallet_balance = 'NaN' WHERE id = 8").await;
    let entry = eventually("the second is recorded", async || {
        open(&world).await.into_iter().find(|entry| entry["user"] == serde_json::json!(["live", "8"]))
    });
    entry.await;
    world.credit(9, "5").await;
    world.caught_up().await;
}

async fn a_resync_of_the_quarantine_reads_who_is_in_it_and_empties_it(on: On) {
    let world = with_a_whole_publication(on).await;
    world.sql("UPDATE users SET wallet_balance = 'NaN' WHERE id IN (7, 8)").await;
    are_open(&world, 2).await;
    are_read_again(&world, 2).await;
    world.store.hset(&config_of("live:9"), "balance", "66").await;
    put_right_unseen(&world, "CASE WHEN id = 7 THEN 5 ELSE wallet_balance END").await;
    world.caught_up().await;
    assert!(!world.store.exists("user_balance:live:7").await, "nothing told of it");
    let said = world.lockstep.succeed(&["resync", "--quarantined", "--wait"]).await;
    assert!(said.contains("1 entries stay in quarantine"), "{said}");
    assert_eq!(world.store.get("user_balance:live:7").await.as_deref(), Some("5"));
    assert_eq!(
        world.store.hash(&config_of("live:9")).await["balance"],
        "66",
        "who is not in it is left alone"
    );
    world.store.hset(&config_of("live:9"), "balance", "100").await;
    let left = are_open(&world, 1).await.remove(0);
    assert_eq!(left["user"], serde_json::json!(["live", "8"]), "its row is as it was: {left}");
    world.sql("DELETE FROM users WHERE id = 8").await;
    are_open(&world, 0).await;
    assert!(world.lockstep.succeed(&["resync", "--quarantined", "--wait"]).await.contains("done"));
    world.credit(7, "1").await;
    world.eventually_equal().await;
    assert!(!world.lockstep.log().contains("live:7"), "no row data in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resync_of_the_quarantine_says_what_stays() {
    let world = with_users(On::Single).await;
    world.sql("UPDATE users SET wallet_balance = 'NaN' WHERE id IN (7, 8)").await;
    are_open(&world, 2).await;
    let said = world.lockstep.succeed(&["resync", "--quarantined", "--wait"]).await;
    assert!(said.contains("2 entries stay in quarantine"), "{said}");
    assert_eq!(are_open(&world, 2).await[0]["count"], 1, "read again is no incident of its own");
    assert!(!world.store.exists("user_balance:live:7").await);
    world.sql("TRUNCATE users CASCADE").await;
    are_open(&world, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_many_mebibytes_is_in_doubt_and_the_stream_goes_on() {
    let world = with_users(On::Single).await;
    let subscriber = world.subscriber().await;
    world.sql("UPDATE users SET sending_orders = repeat('x', 6 << 20) WHERE id = 7").await;
    let entry = are_open(&world, 1).await.remove(0);
    assert!(entry["reason"].as_str().unwrap().starts_with("the row is larger than 4 MiB"), "{entry}");
    assert_eq!(entry["user"], serde_json::json!(["live", "7"]));
    for key in ["user_balance:live:7", &config_of("live:7")] {
        assert!(!world.store.exists(key).await, "{key}: readers fall back to the database");
    }
    // A change that does not send the large value makes no half of a cache.
    world.credit(7, "1").await;
    world.user("live", 10, "5").await;
    eventually("the keys are gone again", async || {
        let written = world.store.exists("user_balance:live:10").await;
        (written && !world.store.exists(&config_of("live:7")).await).then_some(())
    })
    .await;
    are_open(&world, 1).await;
    world.sql("UPDATE users SET sending_orders = 'rock' WHERE id = 7").await;
    are_open(&world, 0).await;
    world.eventually_equal().await;
    assert!(world.heard_all(&subscriber).await.iter().all(|heard| heard.payload.len() < 1 << 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_redis_refuses_is_recorded_and_healed_by_reading_the_user_again() {
    let mut setup = Setup::on(On::Single);
    setup.redis.acl = vec!["default on nopass ~* &* +@all".into()];
    let world = World::running_as(setup).await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    world.store.call("", &["ACL", "SETUSER", "default", "resetchannels", "&user_updates"]).await;
    world.credit(7, "1").await;
    let of_redis = async || {
        let entries = entries(&world).await;
        entries.into_iter().find(|entry| entry["reason"].as_str().unwrap().contains("redis answered NOPERM"))
    };
    let entry = eventually("it is recorded", of_redis).await;
    assert_eq!(
        (&entry["user"], &entry["table"]),
        (&serde_json::json!(["live", "7"]), &"public.users".into())
    );
    world.store.call("", &["ACL", "SETUSER", "default", "allchannels"]).await;
    are_open(&world, 0).await;
    world.eventually_equal().await;
}

/// A key of another type is replaced, and nothing has to be recorded.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_type_is_replaced_and_no_incident() {
    let world = with_users(On::Single).await;
    let config = config_of("live:7");
    world.store.call(&config, &["DEL", &config]).await;
    world.store.call(&config, &["SET", &config, "a text"]).await;
    // The record of the quarantine too.
    world.store.call(RECORD, &["LPUSH", RECORD, "a list"]).await;
    world.credit(7, "1").await;
    world.eventually_equal().await;
    assert_eq!(world.lockstep.metric("lockstep_retyped_keys_total").await, 1.0);
    assert_eq!(world.lockstep.metric(OPEN).await, 0.0);
    world.sql("UPDATE users SET wallet_balance = 'NaN' WHERE id = 7").await;
    eventually("it is recorded in spite of the list", async || {
        (world.store.call(RECORD, &["TYPE", RECORD]).await.text()? == "string").then_some(())
    })
    .await;
    are_open(&world, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_touch_no_key_are_recorded_by_table_and_reason() {
    let mut setup = Setup::on(On::Single);
    setup.schema = Some(
        "CREATE TABLE users (id text PRIMARY KEY, user_type text NOT NULL, wallet_balance numeric(18,6)); \
         CREATE TABLE user_transactions (id bigserial PRIMARY KEY, transaction_id text, user_id text, \
         user_type text, type text, amount numeric(18,6), status text); \
         INSERT INTO users VALUES ('loaded{', 'live', 1)"
            .into(),
    );
    let world = World::running_as(setup).await;
    let of_load = are_open(&world, 1).await.remove(0);
    assert_eq!((&of_load["user"], &of_load["table"]), (&Value::Null, &"public.users".into()));
    assert_eq!((&of_load["row"], &of_load["xid"]), (&0.into(), &Value::Null), "{of_load}");
    for id in ["a{b", "}"] {
        world.sql(&format!("INSERT INTO users VALUES ({}, 'live', 1)", quote(id))).await;
    }
    world.sql("INSERT INTO users VALUES ('1', 'a:b', 1), ('good', 'live', 1)").await;
    let row = "INSERT INTO user_transactions (transaction_id, user_id, user_type, type, amount, status)";
    world.sql(&format!("{row} VALUES ('T', '}}', 'live', 'profit', 1, 'completed')")).await;
    let open = are_open(&world, 3).await;
    let of = |table: &str, word: &str| {
        let meant =
            |entry: &&Value| entry["table"] == table && entry["reason"].as_str().unwrap().contains(word);
        open.iter().find(meant).unwrap_or_else(|| panic!("{table} {word}: {open:?}")).clone()
    };
    assert_eq!(of("public.users", "user id is empty")["count"], 3);
    assert!(of("public.users", "user type is empty")["xid"].is_number());
    assert_eq!(of("public.user_transactions", "user id")["count"], 1);
    let record = world.store.get(RECORD).await.unwrap();
    assert!(!record.contains("a{b") && !record.contains("a:b"), "no row data without a user: {record}");

    // The names are still there; the transaction has passed.
    let said = world.lockstep.succeed(&["resync", "--quarantined", "--wait"]).await;
    assert!(said.contains("2 entries stay"), "{said}");
    world.sql("DELETE FROM users WHERE id <> 'good'").await;
    world.caught_up().await;
    assert_eq!(world.lockstep.succeed(&["resync", "--quarantined", "--wait"]).await, "done\n");
    are_open(&world, 0).await;
    world.eventually_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_record_is_bounded_and_the_newest_are_kept() {
    let world = World::running(On::Single).await;
    let insert = "INSERT INTO users (id, user_type, wallet_balance) SELECT n, 'live', 'NaN'";
    world.sql(&format!("{insert} FROM generate_series(1, 1200) n")).await;
    are_read_again(&world, 1200).await;
    let kept = are_open(&world, 1000).await;
    let ids: Vec<u32> = kept.iter().map(|e| e["user"][1].as_str().unwrap().parse().unwrap()).collect();
    assert!(ids.iter().copied().eq(201..=1200), "{:?} to {:?}", ids.first(), ids.last());
    assert_eq!(world.lockstep.metric("lockstep_quarantine_forgotten_total").await, 200.0);
    let record = world.store.get(RECORD).await.unwrap();
    println!("{} bytes of {} entries", record.len(), kept.len());
    world.sql("UPDATE users SET wallet_balance = 1").await;
    are_open(&world, 0).await;
    world.eventually_equal().await;
}

/// Whoever was to read the user again died before.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_in_quarantine_is_read_again_at_the_next_start() {
    let world = with_a_whole_publication(On::Single).await;
    world.sql("UPDATE users SET wallet_balance = 'NaN' WHERE id = 7").await;
    are_open(&world, 1).await;
    are_read_again(&world, 1).await;
    world.lockstep.kill9();
    put_right_unseen(&world, "5").await;
    world.lockstep.run().await;
    are_open(&world, 0).await;
    assert_eq!(world.store.get("user_balance:live:7").await.as_deref(), Some("5"));
}

/// The other one died before it did.
#[tokio::test(flavor = "multi_thread")]
async fn whom_another_instance_left_in_quarantine_one_reads_that_has_led_before() {
    let world = with_a_whole_publication(On::Single).await;
    world.caught_up().await;
    let entry = json!({
        "state": "open", "user": ["live", "7"], "table": "public.users", "reason": "redis may have lost it",
        "commit_lsn": "0/1", "row": 1, "xid": 1, "committed_at": "2026-01-15T10:30:00.000Z", "count": 1,
    });
    world.store.set(RECORD, &entry.to_string()).await;
    world.store.call("", &["DEL", "user_balance:live:7"]).await;
    world.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_replication").await;
    are_open(&world, 0).await;
    assert_eq!(world.store.get("user_balance:live:7").await.as_deref(), Some("100"));
}

/// What could not be recorded must not be forgotten by the database either.
#[tokio::test(flavor = "multi_thread")]
async fn an_incident_that_could_not_be_recorded_is_told_again_after_a_crash() {
    let world = with_users(On::Single).await;
    world.caught_up().await;
    world.store.call("", &["CONFIG", "SET", "maxmemory", "1"]).await;
    world.sql("UPDATE users SET wallet_balance = 'NaN' WHERE id = 7").await;
    eventually("the incident is known", async || (world.lockstep.metric(OPEN).await == 1.0).then_some(()))
        .await;
    assert!(!world.store.exists(RECORD).await, "there is no room");
    world.lockstep.kill9();
    world.store.call("", &["CONFIG", "SET", "maxmemory", "0"]).await;
    world.lockstep.run().await;
    are_open(&world, 1).await;
    world.eventually_equal().await;
}

/// Tables whose ids are text, which need not fit into a key.
fn ids_of_text() -> Setup {
    let mut setup = Setup::on(On::Single);
    setup.schema = Some(
        "CREATE TABLE users (id text PRIMARY KEY, user_type text NOT NULL, wallet_balance numeric(18,6)); \
         CREATE TABLE user_transactions (id bigserial PRIMARY KEY, transaction_id text, user_id text, \
         user_type text, type text, amount numeric(18,6), status text)"
            .into(),
    );
    setup
}

async fn with_ids_of_text() -> World {
    let world = World::running_as(ids_of_text()).await;
    world.sql("INSERT INTO users VALUES ('good', 'live', 1)").await;
    world.caught_up().await;
    world
}

/// A session that ends before the list is written leaves it to the next one, which is sent the row again.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_could_not_be_recorded_before_the_stream_broke_is_recorded_afterwards() {
    let world = with_ids_of_text().await;
    world.store.call("", &["CONFIG", "SET", "maxmemory", "1"]).await;
    world.sql("INSERT INTO users VALUES ('a{b', 'live', 1)").await;
    eventually("the row is known", async || (world.lockstep.metric(OPEN).await == 1.0).then_some(())).await;
    assert!(!world.store.exists(RECORD).await, "there is no room");
    world.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_replication").await;
    let ended = async || world.lockstep.log().contains("connecting again").then_some(());
    eventually("the stream ended", ended).await;
    world.store.call("", &["CONFIG", "SET", "maxmemory", "0"]).await;
    are_open(&world, 1).await;
    assert_eq!(world.lockstep.metric("lockstep_quarantined_total").await, 1.0, "it is counted once");
}

/// A start is sent the margin again: what lies before a checkpoint was counted by whoever wrote that.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_touches_no_key_is_counted_once_however_often_it_is_sent() {
    let world = with_ids_of_text().await;
    world.sql("INSERT INTO users VALUES ('a{b', 'live', 1)").await;
    let recorded = are_open(&world, 1).await;
    world.caught_up().await;
    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    world.lockstep.run().await;
    world.sql("INSERT INTO users VALUES ('better', 'live', 1)").await;
    world.eventually_equal().await;
    assert_eq!(are_open(&world, 1).await, recorded);
    assert_eq!(world.lockstep.metric("lockstep_quarantined_total").await, 0.0);
}

/// Where the next row is there before the last one is written, the slot would never move.
#[tokio::test(flavor = "multi_thread")]
async fn a_steady_flow_of_rows_that_touch_no_key_holds_no_checkpoint_back() {
    let mut world = World::set_up(ids_of_text()).await;
    let redis = world.redis_through_a_proxy().await;
    world.lockstep.init().await;
    world.lockstep.run().await;
    // A long way, so that there is always a row that came while the list was written; and no more rows than any machine
    // keeps up with.
    redis.set(Line::Delayed(Duration::from_millis(20)));
    world
        .sql(
            "CREATE PROCEDURE flow() LANGUAGE plpgsql AS $$ BEGIN FOR n IN 1..10000000 LOOP \
             INSERT INTO users VALUES ('{' || n, 'live', 1); COMMIT; PERFORM pg_sleep(0.005); END LOOP; END $$",
        )
        .await;
    let flow = async {
        world.sql("CALL flow()").await;
        std::future::pending::<()>().await
    };
    let passed = async {
        for round in 0..5 {
            let end =
                world.postgres.value("SELECT pg_current_wal_lsn()").await.as_deref().and_then(lsn).unwrap();
            eventually(&format!("checkpoint {round}"), async || {
                let text = world.store.get("lockstep:checkpoint:lockstep").await?;
                let checkpoint: Value = serde_json::from_str(&text).ok()?;
                (lsn(checkpoint["applied"].as_str()?)? > end).then_some(())
            })
            .await;
        }
    };
    tokio::select! {
        () = flow => {}
        () = passed => {}
    }
    world.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL flow%'").await;
}

/// A commit that waits for a synchronous standby is in the stream, and no snapshot has the row that it brought.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_in_doubt_whom_no_snapshot_sees_yet_is_put_right_once_one_does() {
    let world = World::running(On::Single).await;
    world.sql("ALTER TABLE users ALTER sending_orders SET STORAGE EXTERNAL").await;
    // The second row comes without the long value, and under another key.
    let held = world
        .held_commit(
            "BEGIN; INSERT INTO users (id, user_type, wallet_balance, sending_orders) \
                     VALUES (7, 'live', 1, repeat('x', 6000)); \
                     UPDATE users SET user_type = 'demo', wallet_balance = 2 WHERE id = 7; COMMIT",
        )
        .await;
    are_open(&world, 1).await;
    let skipped = async || world.lockstep.metric("lockstep_skipped_by_fence_total").await;
    let reached = async |count: f64| (skipped().await > count).then_some(());
    eventually("it is looked for again", async || reached(2.0).await).await;
    let (since, before) = (Instant::now(), skipped().await);
    eventually("and again", async || reached(before + 8.0).await).await;
    assert!(since.elapsed() > Duration::from_millis(1_500), "the database has its peace between two looks");
    world.release_commits().await;
    held.await.expect("the writer");
    are_open(&world, 0).await;
    world.eventually_equal().await;
    assert_eq!(world.store.hash(&config_of("demo:7")).await["sending_orders"].len(), 6000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_in_doubt_that_a_later_change_has_healed_opens_nothing_again() {
    let world = with_users(On::Single).await;
    world.sql("UPDATE users SET sending_orders = repeat('x', 6 << 20) WHERE id = 7").await;
    are_open(&world, 1).await;
    let held = world.held_commit("UPDATE users SET sending_orders = 'rock' WHERE id = 7").await;
    are_open(&world, 0).await;
    // No snapshot has the change yet: what is read now is as large as before. The question is in the stream, too, and who
    // asks waits as the writer does.
    let asked = world.lockstep.succeed(&["resync", "--user", "live:7"]);
    let meanwhile = async {
        let skips = async || world.lockstep.metric("lockstep_skipped_by_fence_total").await;
        eventually("what was read is stopped by the fence", async || (skips().await > 2.0).then_some(()))
            .await;
        are_open(&world, 0).await;
        world.release_commits().await;
        held.await.expect("the writer");
    };
    tokio::join!(asked, meanwhile);
    world.eventually_equal().await;
}
