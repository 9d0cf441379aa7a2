//! Rows of `user_transactions`: which count, and how many make one event.

use serde_json::json;

use super::config_of;
use crate::harness::subscriber::{BALANCE_UPDATES, USER_UPDATES};
use crate::harness::world::Movement;
use crate::harness::{On, Setup, World};

const DEPOSIT: Movement<'_> = Movement { kind: "deposit", amount: "10", admin: Some(9), reference: None };
const SWAP: Movement<'_> = Movement { kind: "swap", amount: "-0.5", admin: None, reference: None };

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_row_counts_once_it_is_completed() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    let subscriber = world.subscriber().await;
    world.heard_all(&subscriber).await;
    let before = subscriber.heard().len();
    let columns = "transaction_id, user_id, user_type, type, amount, status, admin_id";
    world
        .sql(&format!(
            "INSERT INTO user_transactions ({columns}) VALUES ('P1', 7, 'live', 'deposit', 30, 'pending', 9)"
        ))
        .await;
    assert_eq!(world.heard_all(&subscriber).await.len(), before, "a pending row touches nothing");
    assert!(!world.store.hash(&config_of("live:7")).await.contains_key("last_transaction_id"));

    world
        .sql(
            "BEGIN; UPDATE users SET wallet_balance = wallet_balance + 30 WHERE id = 7; \
             UPDATE user_transactions SET status = 'completed' WHERE transaction_id = 'P1'; COMMIT",
        )
        .await;
    world.eventually_equal().await;
    let config = world.store.hash(&config_of("live:7")).await;
    assert_eq!(
        (config["last_transaction_id"].as_str(), config["last_deposit_amount"].as_str()),
        ("P1", "30")
    );
    world.heard_all(&subscriber).await;
    let told = subscriber.of(BALANCE_UPDATES, "live:7").pop().unwrap();
    assert_eq!(told.transaction_ids(), ["P1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_failed_or_were_cancelled_or_deleted_touch_nothing() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    world.credit(7, "1").await;
    world.eventually_equal().await;
    let subscriber = world.subscriber().await;
    let config = world.store.hash(&config_of("live:7")).await;
    let columns = "transaction_id, user_id, user_type, type, amount, status";
    for status in ["failed", "cancelled"] {
        let values = format!("('{status}', 7, 'live', 'deposit', 30, '{status}')");
        world.sql(&format!("INSERT INTO user_transactions ({columns}) VALUES {values}")).await;
    }
    world.sql("DELETE FROM user_transactions").await;
    world.sql("TRUNCATE user_transactions").await;
    let heard = world.heard_all(&subscriber).await;
    assert_eq!(world.store.hash(&config_of("live:7")).await, config);
    assert!(heard.is_empty(), "{heard:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_rows_of_one_user_in_one_transaction_are_one_event() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    let subscriber = world.subscriber().await;
    world.heard_all(&subscriber).await;
    let before = subscriber.of(BALANCE_UPDATES, "live:7").len();
    let ((first, first_id), (second, second_id)) = (DEPOSIT.statements(7), SWAP.statements(7));
    world.sql(&format!("BEGIN; {first} {second} COMMIT")).await;
    world.eventually_equal().await;
    world.heard_all(&subscriber).await;

    let told = subscriber.of(BALANCE_UPDATES, "live:7");
    assert_eq!(told.len(), before + 1, "{told:#?}");
    let event = &told[before];
    assert_eq!(event.transaction_ids(), [first_id, second_id.clone()], "in WAL order");
    assert_eq!(event.json["updated_fields"]["wallet_balance"], json!(109.5), "the last value only");
    assert_eq!(event.text("operation_type"), "swap", "the last row's");
    let config = world.store.hash(&config_of("live:7")).await;
    assert_eq!(config["last_transaction_id"], second_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_users_in_one_transaction_get_one_event_each() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    world.user("demo", 8, "100").await;
    let subscriber = world.subscriber().await;
    world.heard_all(&subscriber).await;
    let before = subscriber.heard().len();
    let ((first, first_id), (second, second_id)) = (DEPOSIT.statements(7), SWAP.statements(8));
    world.sql(&format!("BEGIN; {first} {second} COMMIT")).await;
    world.eventually_equal().await;
    assert_eq!(world.heard_all(&subscriber).await.len(), before + 4, "two users on two channels");
    let (live, demo) = (subscriber.of(USER_UPDATES, "live:7"), subscriber.of(USER_UPDATES, "demo:8"));
    assert_eq!(live.last().unwrap().transaction_ids(), [first_id]);
    assert_eq!(demo.last().unwrap().transaction_ids(), [second_id]);
    assert_eq!(live.last().unwrap().commit_lsn(), demo.last().unwrap().commit_lsn());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completed_row_without_a_change_of_the_user_is_told_as_an_update() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    let subscriber = world.subscriber().await;
    world.heard_all(&subscriber).await;
    let before = subscriber.of(BALANCE_UPDATES, "live:7").len();
    let columns = "transaction_id, user_id, user_type, type, amount, status, admin_id, created_at";
    let values = "('A1', 7, 'live', 'deposit', 12.5, 'completed', 9, '2026-01-15 10:30:00.250+00')";
    world.sql(&format!("INSERT INTO user_transactions ({columns}) VALUES {values}")).await;
    world.heard_all(&subscriber).await;
    let config = world.store.hash(&config_of("live:7")).await;
    assert_eq!(config["last_transaction_id"], "A1");
    assert_eq!(config["last_transaction_at"], "2026-01-15T10:30:00.250Z");
    assert_eq!(config["last_deposit_amount"], "12.5");
    let told = subscriber.of(USER_UPDATES, "live:7").pop().unwrap();
    assert_eq!(told.event_type(), "user_update");
    assert_eq!(told.transaction_ids(), ["A1"]);
    assert_eq!(subscriber.of(BALANCE_UPDATES, "live:7").len(), before, "no balance changed");
    world.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completed_row_of_a_user_without_keys_makes_none() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    world.store.call("user:{live:7}:config", &["DEL", "user:{live:7}:config"]).await;
    let columns = "transaction_id, user_id, user_type, type, amount, status";
    world
        .sql(&format!(
            "INSERT INTO user_transactions ({columns}) VALUES ('A1', 7, 'live', 'bonus', 1, 'completed')"
        ))
        .await;
    world.caught_up().await;
    let config = world.store.hash(&config_of("live:7")).await;
    // A half hash would be worse than none: readers fall back to the database on an absent key.
    assert!(config.is_empty() || config.contains_key("wallet_balance"), "{config:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposit_is_one_event_where_the_two_tables_have_ids_of_different_types() {
    let world = World::set_up(Setup::on(On::Single)).await;
    world
        .sql(
            "ALTER TABLE user_transactions DROP CONSTRAINT user_transactions_user_id_fkey, \
             ALTER user_id TYPE text",
        )
        .await;
    world.lockstep.init().await;
    world.lockstep.run().await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    let subscriber = world.subscriber().await;
    let deposit = world.credit(7, "5").await;
    world.eventually_equal().await;
    let heard = world.heard_all(&subscriber).await;
    assert_eq!(heard.len(), 2, "one event on two channels: {heard:#?}");
    for event in &heard {
        assert_eq!((event.event_type(), event.text("operation_type")), ("balance_change", "deposit"));
        assert_eq!(event.json["user_id"], json!(7));
        assert_eq!(event.transaction_ids(), [deposit.as_str()]);
    }
    // Only the row: the stream has described the users before.
    let columns = "transaction_id, user_id, user_type, type, amount, status";
    let values = "('A1', 7, 'live', 'bonus', 1, 'completed')";
    world.sql(&format!("INSERT INTO user_transactions ({columns}) VALUES {values}")).await;
    let told = world.heard_all(&subscriber).await;
    assert_eq!(told.len(), 3, "{told:#?}");
    assert_eq!((told[2].event_type(), &told[2].json["user_id"]), ("user_update", &json!(7)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_of_a_completed_row_touches_nothing() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    let older = world.credit(7, "5").await;
    world.credit(7, "10").await;
    world.eventually_equal().await;
    let subscriber = world.subscriber().await;
    let config = world.store.hash(&config_of("live:7")).await;
    for edit in ["notes = 'x', method_type = 'card'", "id = 1000", "amount = 6", "status = 'completed'"] {
        world.sql(&format!("UPDATE user_transactions SET {edit} WHERE transaction_id = '{older}'")).await;
    }
    let heard = world.heard_all(&subscriber).await;
    assert!(heard.is_empty(), "{heard:#?}");
    assert_eq!(world.store.hash(&config_of("live:7")).await, config);
    // Taken back and completed again: it is updated to it.
    world
        .sql(&format!("UPDATE user_transactions SET status = 'pending' WHERE transaction_id = '{older}'"))
        .await;
    world
        .sql(&format!("UPDATE user_transactions SET status = 'completed' WHERE transaction_id = '{older}'"))
        .await;
    let heard = world.heard_all(&subscriber).await;
    assert_eq!(heard.len(), 1, "{heard:#?}");
    assert_eq!(heard[0].transaction_ids(), [older]);
}
