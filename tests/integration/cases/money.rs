//! Movements of money, one at a time.

use serde_json::json;

use super::config_of;
use crate::harness::oracle::is_iso_utc;
use crate::harness::subscriber::{BALANCE_UPDATES, Heard, USER_UPDATES};
use crate::harness::{On, Subscriber, World};

on_both!(an_admin_deposit, an_admin_withdrawal, a_money_request_approval, profit_loss_and_swap);

/// The one event that a user's change must give: the same words on both channels.
async fn the_event_after(world: &World, subscriber: &Subscriber, user: &str, earlier: usize) -> Heard {
    world.heard_all(subscriber).await;
    let on_balances = subscriber.of(BALANCE_UPDATES, user);
    let on_users = subscriber.of(USER_UPDATES, user);
    assert_eq!((on_balances.len(), on_users.len()), (earlier + 1, earlier + 1), "{on_balances:#?}");
    assert_eq!(on_users[earlier].payload, on_balances[earlier].payload);
    on_balances[earlier].clone()
}

async fn an_admin_deposit(on: On) {
    let world = World::running(on).await;
    let subscriber = world.subscriber().await;
    world.user("live", 7, "10000").await;
    world.heard_all(&subscriber).await;
    let before = subscriber.of(BALANCE_UPDATES, "live:7").len();
    let transaction_id = world.credit(7, "500.5").await;
    world.eventually_equal().await;

    let config = world.store.hash(&config_of("live:7")).await;
    assert_eq!(config["wallet_balance"], "10500.5");
    assert_eq!(config["balance"], "10500.5");
    assert_eq!(config["last_deposit_amount"], "500.5");
    assert_eq!(config["last_admin_action"], "deposit");
    assert_eq!(config["last_transaction_id"], transaction_id);
    assert!(is_iso_utc(&config["last_transaction_at"]), "{config:?}");

    let event = the_event_after(&world, &subscriber, "live:7", before).await;
    assert_eq!(event.event_type(), "balance_change");
    assert_eq!(event.text("source"), "cdc");
    assert_eq!(event.text("operation_type"), "deposit");
    assert!(is_iso_utc(event.text("timestamp")), "{}", event.payload);
    assert_eq!(event.json["user_id"], json!(7));
    assert!(event.json["xid"].is_number() || event.json["xid"].is_string(), "{}", event.payload);
    let updated = &event.json["updated_fields"];
    assert_eq!(updated["wallet_balance"], json!(10500.5));
    assert_eq!(updated["balance"], json!(10500.5));
    assert_eq!(updated["last_deposit_amount"], json!(500.5));
    assert_eq!(updated["last_admin_action"], "deposit");
    let told = &event.json["transactions"][0];
    assert_eq!(told["transaction_id"], transaction_id.as_str());
    assert_eq!(told["type"], "deposit");
    assert_eq!((&told["amount"], &told["balance_before"]), (&json!(500.5), &json!(10000)));
    assert_eq!((&told["balance_after"], &told["status"]), (&json!(10500.5), &json!("completed")));
    assert_eq!(told["admin_id"], json!(9));
}

async fn an_admin_withdrawal(on: On) {
    let world = World::running(on).await;
    let subscriber = world.subscriber().await;
    world.user("live", 7, "10000").await;
    world.heard_all(&subscriber).await;
    let before = subscriber.of(BALANCE_UPDATES, "live:7").len();
    world.withdraw(7, "250.25").await;
    world.eventually_equal().await;

    let config = world.store.hash(&config_of("live:7")).await;
    assert_eq!(config["wallet_balance"], "9749.75");
    assert_eq!(config["last_withdrawal_amount"], "250.25", "positive");
    assert_eq!(config["last_admin_action"], "withdrawal");
    assert!(!config.contains_key("last_deposit_amount"));
    let event = the_event_after(&world, &subscriber, "live:7", before).await;
    assert_eq!(event.text("operation_type"), "withdraw");
    assert_eq!(event.json["transactions"][0]["amount"], json!(-250.25));
}

async fn a_money_request_approval(on: On) {
    let world = World::running(on).await;
    let subscriber = world.subscriber().await;
    world.user("live", 7, "10000").await;
    world.heard_all(&subscriber).await;
    let before = subscriber.of(BALANCE_UPDATES, "live:7").len();
    world.approve_money_request(7, "75").await;
    world.eventually_equal().await;
    assert_eq!(world.store.get("user_balance:live:7").await.as_deref(), Some("10075"));
    let event = the_event_after(&world, &subscriber, "live:7", before).await;
    assert_eq!(event.json["transactions"][0]["reference_id"], "1");
}

async fn profit_loss_and_swap(on: On) {
    let world = World::running(on).await;
    let subscriber = world.subscriber().await;
    world.user("live", 7, "1000").await;
    world.user("demo", 8, "1000").await;
    world.heard_all(&subscriber).await;
    let before = subscriber.of(BALANCE_UPDATES, "live:7").len();
    for (kind, amount, balance) in
        [("profit", "10.5", "1010.5"), ("loss", "-0.25", "1010.25"), ("swap", "-1", "1009.25")]
    {
        world.book(7, kind, amount).await;
        world.book(8, kind, amount).await;
        world.eventually_equal().await;
        assert_eq!(world.store.get("user_balance:live:7").await.as_deref(), Some(balance));
    }
    world.heard_all(&subscriber).await;
    let told = subscriber.of(BALANCE_UPDATES, "live:7");
    let kinds: Vec<&str> = told[before..].iter().map(|heard| heard.text("operation_type")).collect();
    assert_eq!(kinds, ["profit", "loss", "swap"]);
    // No admin, no admin's fields.
    assert!(!world.store.hash(&config_of("live:7")).await.contains_key("last_admin_action"));
    subscriber.assert_each_once();
    subscriber.assert_commit_order();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_update_typed_by_an_admin_reaches_every_key() {
    let world = World::running(On::Single).await;
    let subscriber = world.subscriber().await;
    world.user("live", 7, "1").await;
    world.heard_all(&subscriber).await;
    let before = subscriber.of(BALANCE_UPDATES, "live:7").len();
    world.sql("UPDATE users SET wallet_balance = 42.42 WHERE id = 7").await;
    world.eventually_equal().await;
    let event = the_event_after(&world, &subscriber, "live:7", before).await;
    assert_eq!(event.event_type(), "balance_change");
    assert!(event.json["operation_type"].is_null(), "{}", event.payload);
    assert_eq!(event.json["transactions"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_leaves_no_trace() {
    let world = World::running(On::Single).await;
    let subscriber = world.subscriber().await;
    world.user("live", 7, "100").await;
    world.heard_all(&subscriber).await;
    let before = subscriber.heard().len();
    let config = world.store.hash(&config_of("live:7")).await;
    world.sql("BEGIN; UPDATE users SET wallet_balance = 5 WHERE id = 7; DELETE FROM users WHERE id = 7; ROLLBACK").await;
    let heard = world.heard_all(&subscriber).await;
    assert_eq!(world.store.hash(&config_of("live:7")).await, config);
    assert_eq!(heard.len(), before);
    world.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_savepoint_rolled_back_inside_a_commit_leaves_no_trace() {
    let world = World::running(On::Single).await;
    let subscriber = world.subscriber().await;
    world.user("live", 7, "100").await;
    world.heard_all(&subscriber).await;
    let before = subscriber.of(BALANCE_UPDATES, "live:7").len();
    world
        .sql(
            "BEGIN; UPDATE users SET wallet_balance = 150 WHERE id = 7; SAVEPOINT s; \
             UPDATE users SET wallet_balance = 999 WHERE id = 7; ROLLBACK TO s; COMMIT",
        )
        .await;
    world.eventually_equal().await;
    let event = the_event_after(&world, &subscriber, "live:7", before).await;
    assert_eq!(event.json["updated_fields"]["wallet_balance"], json!(150));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_times_are_those_of_the_commit() {
    let mut setup = crate::harness::Setup::on(On::Single);
    setup.postgres = setup.postgres.set("track_commit_timestamp", "on");
    let world = World::running_as(setup).await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    let subscriber = world.subscriber().await;
    world.credit(7, "1").await;
    let event = subscriber.wait_for(BALANCE_UPDATES, "live:7", 1).await.pop().unwrap();
    world.eventually_equal().await;
    let query = "SELECT to_char(pg_xact_commit_timestamp(xmin) AT TIME ZONE 'UTC', \
                 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') FROM users WHERE id = 7";
    let committed = world.postgres.value(query).await.unwrap();
    let config = world.store.hash(&config_of("live:7")).await;
    assert_eq!(config["last_updated"], committed);
    assert_eq!(config["last_balance_update"], committed);
    assert_eq!(event.text("timestamp"), committed);
}
