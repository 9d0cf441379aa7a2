//! Keys beside the user's cache: portfolio, derived keys, the balance string.

use std::time::Duration;

use super::config_of;
use crate::harness::oracle::is_iso_utc;
use crate::harness::{Line, On, Setup, World, eventually};

const PORTFOLIO: &str = "user:{live:7}:portfolio";

#[tokio::test(flavor = "multi_thread")]
async fn a_portfolio_is_updated_where_there_is_one() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    world.credit(7, "1").await;
    world.eventually_equal().await;
    assert!(!world.store.exists(PORTFOLIO).await, "an absent portfolio is not made");

    world.store.hset(PORTFOLIO, "wallet_balance", "100").await;
    world.store.hset(PORTFOLIO, "positions", "3").await;
    world.credit(7, "1").await;
    world.eventually_equal().await;
    let portfolio = world.store.hash(PORTFOLIO).await;
    assert_eq!((portfolio["wallet_balance"].as_str(), portfolio["positions"].as_str()), ("102", "3"));
    assert!(is_iso_utc(&portfolio["balance_updated_at"]));
}

const DERIVED: [&str; 5] = [
    "user_margin_calc:live:7",
    "user_stats:live:7",
    "user:live:7:config",
    "financial_summary:live:7:day",
    "financial_summary:live:7:2026:01",
];

#[tokio::test(flavor = "multi_thread")]
async fn derived_keys_that_were_there_before_the_start_are_deleted_by_the_next_change() {
    let world = World::set_up(Setup::on(On::Single)).await;
    world.user("live", 7, "100").await;
    for key in DERIVED {
        world.store.set(key, "old").await;
    }
    world.lockstep.init().await;
    world.lockstep.run().await;
    world.credit(7, "1").await;
    world.eventually_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn derived_keys_written_while_their_user_changes_are_deleted() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    for round in 0..50 {
        for key in DERIVED {
            world.store.set(key, "old").await;
        }
        world.store.set(&format!("financial_summary:live:7:{round}"), "old").await;
        world.credit(7, "1").await;
    }
    world.eventually_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn derived_keys_in_other_slots_of_a_cluster_are_deleted() {
    let world = World::running(On::Cluster).await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    for key in DERIVED {
        world.store.set(key, "old").await;
    }
    world.credit(7, "1").await;
    world.eventually_equal().await;
}

/// Nothing changed, so nothing needs what is being looked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_until_all_keys_are_looked_through() {
    let mut world = World::set_up(Setup::on(On::Single)).await;
    let proxy = world.redis_through_a_proxy().await;
    world.lockstep.init().await;
    world.lockstep.run().await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    let redis = world.store.single();
    redis.write_idle_keys().await;
    let before = redis.calls("scan").await;
    proxy.set(Line::Delayed(Duration::from_millis(20)));
    world.lockstep.spawn(&["run"]);
    let looks = async || (redis.calls("scan").await > before).then_some(());
    eventually("it looks through all keys", looks).await;
    eventually("it renews its lease", async || redis.exists("lockstep:lease").await.then_some(())).await;
    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    let log = world.lockstep.log();
    assert!(!log.contains("did not take everything"), "{log}");
    assert!(redis.calls("scan").await < before + 300, "it was through with them");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_whose_id_begins_with_the_same_digits_is_spared() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    world.user("live", 77, "100").await;
    world.caught_up().await;
    let neighbours = [
        "user_margin_calc:live:77",
        "user_stats:live:77",
        "user:live:77:config",
        "financial_summary:live:77:day",
    ];
    for key in neighbours.into_iter().chain(["financial_summary:live:7:day"]) {
        world.store.set(key, "fresh").await;
    }
    world.credit(7, "1").await;
    world.caught_up().await;
    assert!(!world.store.exists("financial_summary:live:7:day").await);
    for key in neighbours {
        assert!(world.store.exists(key).await, "{key} is the neighbour's");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_balance_string_lives_an_hour_from_every_change() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    world.store.call("user_balance:live:7", &["EXPIRE", "user_balance:live:7", "100"]).await;
    world.credit(7, "1").await;
    eventually("the TTL is renewed", async || {
        (3500..=3600).contains(&world.store.ttl("user_balance:live:7").await).then_some(())
    })
    .await;
    assert_eq!(world.store.ttl(&config_of("live:7")).await, -1, "the user cache does not expire");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_of_a_wrong_type_does_not_stop_the_others() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    world.user("live", 8, "100").await;
    world.caught_up().await;
    let config = config_of("live:7");
    world.store.call(&config, &["DEL", &config]).await;
    world.store.set(&config, "not a hash").await;
    world.sql("UPDATE users SET wallet_balance = wallet_balance + 1").await;
    world.caught_up().await;
    assert_eq!(world.store.get("user_balance:live:8").await.as_deref(), Some("101"));
    world.credit(7, "1").await;
    world.eventually_equal().await;
}
