//! Changes of one user that waited together: one call of Redis, in which each key is written once.

use crate::harness::redis::readme_user;
use crate::harness::subscriber::{BALANCE_UPDATES, USER_UPDATES};
use crate::harness::{On, Setup, Subscriber, World, eventually};

on_both!(changes_that_waited_together_are_all_told_in_order);

/// Waits until so many transactions more than `before` came over the stream.
async fn has_received(world: &World, before: f64, more: u32) {
    eventually("the commits are received", async || {
        (world.lockstep.metric("lockstep_transactions_total").await >= before + f64::from(more)).then_some(())
    })
    .await;
}

async fn received(world: &World) -> f64 {
    world.lockstep.metric("lockstep_transactions_total").await
}

/// Each change once on both channels, in the order of the commits; and Redis as the database is.
async fn is_told_of_all(world: &World, subscriber: &Subscriber, balances: &[String]) {
    for channel in [USER_UPDATES, BALANCE_UPDATES] {
        let told = subscriber.wait_for(channel, "live:7", balances.len()).await;
        let told: Vec<String> =
            told.iter().map(|heard| heard.json["updated_fields"]["balance"].to_string()).collect();
        assert_eq!(told, balances, "{channel}");
    }
    world.caught_up().await;
    world.eventually_equal().await;
    subscriber.assert_each_once();
    subscriber.assert_commit_order();
}

async fn changes_that_waited_together_are_all_told_in_order(on: On) {
    const CHANGES: u32 = 40;
    let world = World::running_as(Setup::on(on)).await;
    for id in [7, 8] {
        world.user("live", id, "100").await;
    }
    world.eventually_equal().await;
    let subscriber = world.subscriber().await;
    let before = received(&world).await;
    let masters = world.store.masters().await;
    masters.iter().for_each(|redis| redis.pause());
    // In one go: nodes of a cluster that are away for long are replaced.
    let change = "UPDATE users SET wallet_balance = wallet_balance + 1 WHERE id";
    let all = format!("FOR n IN 1..{CHANGES} LOOP {change} = 7; COMMIT; {change} = 8; COMMIT; END LOOP");
    world.sql(&format!("DO $$ BEGIN {all}; END $$")).await;
    has_received(&world, before, 2 * CHANGES).await;
    masters.iter().for_each(|redis| redis.resume());
    let balances: Vec<String> = (101..=100 + CHANGES).map(|balance| balance.to_string()).collect();
    is_told_of_all(&world, &subscriber, &balances).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_leaves_its_values_to_a_refused_one_is_not_told_before_it() {
    let mut setup = Setup::on(On::Single);
    setup.redis.acl = vec!["default on nopass ~* &* +@all".into(), readme_user()];
    let world = World::set_up(setup).await;
    world.lockstep.configure(&world.lockstep.configuration().replace("://127", "://lockstep:PASSWORD@127"));
    world.lockstep.init().await;
    for id in [7, 8] {
        world.user("live", id, "100").await;
    }
    world.lockstep.run().await;
    world.eventually_equal().await;
    let subscriber = world.subscriber().await;
    let before = received(&world).await;
    // Needed to write a balance; the deletion that is out meanwhile does without.
    world.store.call("", &["ACL", "SETUSER", "lockstep", "-exists"]).await;
    world.store.single().pause();
    world.sql("DELETE FROM users WHERE id = 8").await;
    has_received(&world, before, 1).await;
    world.credit(7, "1").await;
    world.credit(7, "2").await;
    has_received(&world, before, 3).await;
    world.store.single().resume();
    subscriber.wait_for(BALANCE_UPDATES, "live:8", 1).await;
    eventually("redis refuses the flight", async || world.lockstep.log().contains("NOPERM").then_some(()))
        .await;
    assert_eq!(subscriber.of(USER_UPDATES, "live:7").len(), 0, "told before its values stand");
    world.store.call("", &["ACL", "SETUSER", "lockstep", "+exists"]).await;
    is_told_of_all(&world, &subscriber, &["101".into(), "103".into()]).await;
}
