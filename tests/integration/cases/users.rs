//! Users who come, change and go.

use serde_json::json;

use super::config_of;
use crate::harness::subscriber::{BALANCE_UPDATES, USER_UPDATES};
use crate::harness::{On, World};

on_both!(a_user_is_created, a_user_is_deleted);

async fn a_user_is_created(on: On) {
    let world = World::running(on).await;
    let subscriber = world.subscriber().await;
    world.user("live", 7, "12.340000").await;
    world.eventually_equal().await;
    let config = world.store.hash(&config_of("live:7")).await;
    assert_eq!(config["wallet_balance"], "12.34");
    assert_eq!(config["email"], "live7@example.com");
    assert!(!config.contains_key("password_hash"));
    for channel in [USER_UPDATES, BALANCE_UPDATES] {
        let told = subscriber.wait_for(channel, "live:7", 1).await;
        assert_eq!(told[0].event_type(), "user_created");
        assert_eq!(told[0].json["updated_fields"]["email"], "live7@example.com");
        assert!(!told[0].payload.contains("argon2-secret"));
        let nulls =
            told[0].json["updated_fields"].as_object().unwrap().values().filter(|value| value.is_null());
        assert_eq!(nulls.count(), 0, "{}", told[0].payload);
    }
}

async fn a_user_is_deleted(on: On) {
    let world = World::running(on).await;
    world.user("live", 7, "100").await;
    world.user("live", 8, "100").await;
    world.caught_up().await;
    world.store.hset("user:{live:7}:portfolio", "wallet_balance", "100").await;
    for key in
        ["user_stats:live:7", "user_margin_calc:live:7", "user:live:7:config", "financial_summary:live:7:day"]
    {
        world.store.set(key, "old").await;
    }
    let subscriber = world.subscriber().await;
    world.sql("DELETE FROM users WHERE id = 7").await;
    world.eventually_equal().await;
    assert!(world.store.keys("*live:7*").await.iter().all(|key| key.starts_with("lockstep:")));
    let told = subscriber.wait_for(BALANCE_UPDATES, "live:7", 1).await;
    assert_eq!(told[0].event_type(), "user_deleted");
    world.heard_all(&subscriber).await;
    assert!(
        subscriber.of(USER_UPDATES, "live:7").is_empty(),
        "a subscriber that HSETs would bring the user back"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_user_who_comes_back_has_keys_again() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    world.sql("DELETE FROM users WHERE id = 7").await;
    world.user("live", 7, "3").await;
    world.eventually_equal().await;
    world.sql("BEGIN; DELETE FROM users WHERE id = 7; INSERT INTO users (id, user_type) VALUES (7, 'live'); COMMIT").await;
    world.eventually_equal().await;
    assert_eq!(world.store.get("user_balance:live:7").await.as_deref(), Some("0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_whose_type_changes_moves() {
    moves("UPDATE users SET user_type = 'demo' WHERE id = 7", "demo:7").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_whose_id_changes_moves() {
    moves("UPDATE users SET id = 70 WHERE id = 7", "live:70").await;
}

async fn moves(statement: &str, destination: &str) {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    let subscriber = world.subscriber().await;
    world.sql(statement).await;
    world.eventually_equal().await;
    assert!(!world.store.exists(&config_of("live:7")).await);
    assert_eq!(world.store.hash(&config_of(destination)).await["wallet_balance"], "100");
    let gone = subscriber.wait_for(BALANCE_UPDATES, "live:7", 1).await;
    let came = subscriber.wait_for(BALANCE_UPDATES, destination, 1).await;
    assert_eq!((gone[0].event_type(), came[0].event_type()), ("user_deleted", "user_created"));
    let order: Vec<String> = world
        .heard_all(&subscriber)
        .await
        .iter()
        .filter(|h| h.channel == BALANCE_UPDATES)
        .map(|h| h.user())
        .collect();
    assert_eq!(order, ["live:7", destination]);
}

#[tokio::test(flavor = "multi_thread")]
async fn truncate_deletes_every_key_of_the_tables_users() {
    let world = World::running(On::Single).await;
    world.sql("INSERT INTO users (id, user_type, wallet_balance) SELECT n, 'live', n FROM generate_series(1, 500) n").await;
    world.eventually_equal().await;
    world
        .sql("BEGIN; TRUNCATE users CASCADE; INSERT INTO users (id, user_type, wallet_balance) VALUES (501, 'demo', 5); COMMIT")
        .await;
    world.eventually_equal().await;
    assert_eq!(world.store.keys("user_balance:*").await, ["user_balance:demo:501"]);
    world.caught_up().await;
    assert_eq!(world.lockstep.metric("lockstep_events_total{type=\"user_deleted\"}").await, 500.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_null_removes_its_field_and_a_null_amount_is_zero() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    world.eventually_equal().await;
    let subscriber = world.subscriber().await;
    world.sql("UPDATE users SET email = NULL, margin = NULL, wallet_balance = NULL WHERE id = 7").await;
    world.eventually_equal().await;
    let config = world.store.hash(&config_of("live:7")).await;
    assert!(!config.contains_key("email"));
    assert_eq!((config["margin"].as_str(), config["balance"].as_str()), ("0", "0"));
    assert_eq!(world.store.get("user_balance:live:7").await.as_deref(), Some("0"));
    let told = subscriber.wait_for(BALANCE_UPDATES, "live:7", 1).await;
    let removed = told[0].json["removed_fields"].as_array().unwrap();
    assert!(removed.contains(&json!("email")), "{}", told[0].payload);
    assert!(told[0].json["updated_fields"].get("email").is_none(), "{}", told[0].payload);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_leaves_the_balance_is_told_on_user_updates_only() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    let subscriber = world.subscriber().await;
    world.sql("UPDATE users SET leverage = 500, \"group\" = 'vip' WHERE id = 7").await;
    world.eventually_equal().await;
    let told = subscriber.wait_for(USER_UPDATES, "live:7", 1).await;
    assert_eq!(told[0].event_type(), "user_update");
    assert_eq!(told[0].json["updated_fields"]["group"], "vip");
    world.heard_all(&subscriber).await;
    assert!(subscriber.of(BALANCE_UPDATES, "live:7").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_other_writers_stay() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    world.store.hset(&config_of("live:7"), "theme", "dark").await;
    world.credit(7, "1").await;
    world.eventually_equal().await;
    assert_eq!(world.store.hash(&config_of("live:7")).await["theme"], "dark");
}
