//! Other programs write the same keys, by hand: what they leave wrong is found and healed, and nothing else.

mod derived;
mod interleaved;
mod interrupted;
mod modes;
mod outages;

use crate::cases::config_of;
use crate::harness::subscriber::{BALANCE_UPDATES, USER_UPDATES};
use crate::harness::{On, Setup, World, eventually};

on_both!(
    a_stale_hset_is_healed_and_told_once,
    a_stale_set_is_healed_and_told_once,
    a_wrong_field_that_is_no_balance_is_healed_and_not_told,
    a_hash_that_was_deleted_comes_back_and_an_expired_balance_does_not,
    a_portfolio_made_of_a_stale_balance_is_healed,
    a_write_just_before_or_after_its_own_commit_is_no_alarm,
    keys_of_a_user_who_never_was_are_removed
);

/// Nothing but the watching finds anything.
const NO_AUDIT: &str = "[audit]\nusers_per_second = 0\n";

/// A user of no test's interest, who marks how far the suspects were looked at.
const MARKER: u32 = 9_999;

/// So many users with a balance of 100, watched.
async fn watched(on: On, users: u32, config: &str) -> World {
    let world = World::running_as(Setup { config: config.to_owned(), ..Setup::on(on) }).await;
    for id in 1..=users {
        world.user("live", id, "100").await;
    }
    world.user("live", MARKER, "100").await;
    world.caught_up().await;
    is_watched(&world).await;
    world
}

async fn is_watched(world: &World) {
    let watched =
        async || (world.lockstep.metric("lockstep_foreign_writes_watched").await == 1.0).then_some(());
    eventually("foreign writes are watched", watched).await;
}

async fn verdicts(world: &World, verdict: &str) -> f64 {
    world.lockstep.metric(&format!("lockstep_foreign_writes_total{{verdict=\"{verdict}\"}}")).await
}

/// Waits until everybody has been looked at who was a suspect before now: suspects wait in order.
async fn all_looked_at(world: &World) {
    let key = config_of(&format!("live:{MARKER}"));
    // Twice: one who was put off because of a later write comes again a grace later.
    for _ in 0..2 {
        let before = verdicts(world, "absent").await;
        world.store.call(&key, &["DEL", &key]).await;
        let looked = async || (verdicts(world, "absent").await > before).then_some(());
        eventually("the marker was looked at", looked).await;
    }
}

async fn a_stale_hset_is_healed_and_told_once(on: On) {
    let world = watched(on, 2, NO_AUDIT).await;
    let subscriber = world.subscriber().await;
    world.store.hset(&config_of("live:1"), "session", "of another writer").await;
    world.store.hset(&config_of("live:1"), "balance", "66").await;
    world.eventually_equal().await;
    all_looked_at(&world).await;
    world.heard_all(&subscriber).await;
    for channel in [BALANCE_UPDATES, USER_UPDATES] {
        let heard = subscriber.of(channel, "live:1");
        assert_eq!(heard.len(), 1, "{heard:#?}");
        assert_eq!((heard[0].text("operation_type"), heard[0].event_type()), ("heal", "balance_change"));
        assert_eq!(heard[0].json["updated_fields"]["balance"], 100);
        assert_eq!(heard[0].text("source"), "cdc");
        assert!(heard[0].commit_lsn() > 0);
    }
    subscriber.assert_each_once();
    assert_eq!(world.store.hash(&config_of("live:1")).await["session"], "of another writer");
    assert!(subscriber.of(BALANCE_UPDATES, "live:2").is_empty());
    assert_eq!(verdicts(&world, "healed").await, 1.0);
}

async fn a_stale_set_is_healed_and_told_once(on: On) {
    let world = watched(on, 1, NO_AUDIT).await;
    let subscriber = world.subscriber().await;
    world.store.set("user_balance:live:1", "77").await;
    world.eventually_equal().await;
    all_looked_at(&world).await;
    world.heard_all(&subscriber).await;
    let heard = subscriber.of(BALANCE_UPDATES, "live:1");
    assert_eq!(heard.len(), 1, "{heard:#?}");
    assert_eq!(heard[0].text("operation_type"), "heal");
    assert_eq!(verdicts(&world, "healed").await, 1.0);
}

async fn a_wrong_field_that_is_no_balance_is_healed_and_not_told(on: On) {
    let world = watched(on, 1, NO_AUDIT).await;
    let subscriber = world.subscriber().await;
    let config = config_of("live:1");
    world.store.hset(&config, "leverage", "500").await;
    // NULL in the database: the field must not be there.
    world.store.hset(&config, "mam_id", "8").await;
    world.store.call(&config, &["HDEL", &config, "email"]).await;
    world.eventually_equal().await;
    all_looked_at(&world).await;
    world.heard_all(&subscriber).await;
    assert_eq!(verdicts(&world, "healed").await, 1.0);
    assert!(subscriber.of(BALANCE_UPDATES, "live:1").is_empty());
}

async fn a_hash_that_was_deleted_comes_back_and_an_expired_balance_does_not(on: On) {
    let world = watched(on, 2, NO_AUDIT).await;
    let subscriber = world.subscriber().await;
    let (config, balance) = (config_of("live:1"), "user_balance:live:2");
    world.store.call(&config, &["DEL", &config]).await;
    world.store.call(balance, &["PEXPIRE", balance, "1"]).await;
    let back = async || world.store.exists(&config).await.then_some(());
    eventually("the hash is back", back).await;
    all_looked_at(&world).await;
    world.heard_all(&subscriber).await;
    assert!(!world.store.exists(balance).await, "absent is not wrong");
    assert_eq!(verdicts(&world, "healed").await, 0.0);
    assert!(subscriber.heard().is_empty(), "{:#?}", subscriber.heard());
}

async fn a_portfolio_made_of_a_stale_balance_is_healed(on: On) {
    let world = watched(on, 1, NO_AUDIT).await;
    let portfolio = "user:{live:1}:portfolio";
    world.store.hset(portfolio, "wallet_balance", "66").await;
    world.store.hset(portfolio, "equity", "7").await;
    world.eventually_equal().await;
    assert_eq!(world.store.hash(portfolio).await["equity"], "7");
}

async fn a_write_just_before_or_after_its_own_commit_is_no_alarm(on: On) {
    let world = watched(on, 1, NO_AUDIT).await;
    let subscriber = world.subscriber().await;
    let config = config_of("live:1");
    let client = world.postgres.client().await;
    for balance in 101..=120 {
        let update = format!("BEGIN; UPDATE users SET wallet_balance = {balance} WHERE id = 1");
        client.batch_execute(&update).await.unwrap();
        world.store.hset(&config, "balance", &balance.to_string()).await;
        world.store.hset(&config, "last_updated", "2026-01-01 00:00:00").await;
        client.batch_execute("COMMIT").await.unwrap();
        world.store.set("user_balance:live:1", &balance.to_string()).await;
    }
    world.caught_up().await;
    world.store.hset(&config, "wallet_balance", "120").await;
    all_looked_at(&world).await;
    world.heard_all(&subscriber).await;
    assert_eq!(verdicts(&world, "healed").await, 0.0);
    let heard = subscriber.of(BALANCE_UPDATES, "live:1");
    assert!(heard.iter().all(|heard| heard.text("operation_type") != "heal"), "{heard:#?}");
}

async fn keys_of_a_user_who_never_was_are_removed(on: On) {
    let world = watched(on, 1, NO_AUDIT).await;
    world.store.hset(&config_of("live:77"), "balance", "5").await;
    world.store.set("user_balance:live:abc", "5").await;
    world.eventually_equal().await;
    assert_eq!(verdicts(&world, "healed").await, 2.0);
}
