//! Foreign writes while nothing was announced.

use super::{NO_AUDIT, is_watched, watched};
use crate::cases::config_of;
use crate::harness::{On, World, eventually};

on_both!(
    what_is_written_while_the_tracking_connection_is_gone_is_found,
    what_is_written_while_lockstep_catches_up_is_found
);

async fn what_is_written_while_the_tracking_connection_is_gone_is_found(on: On) {
    let world = watched(on, 6, NO_AUDIT).await;
    for id in 1..=6 {
        kill_tracking(&world).await;
        world.credit(id, "1").await;
        let balance = format!("user_balance:live:{id}");
        let applied = async || (world.store.get(&balance).await? == "101").then_some(());
        eventually("the credit is in redis", applied).await;
        world.store.hset(&config_of(&format!("live:{id}")), "balance", "66").await;
    }
    world.eventually_equal().await;
    is_watched(&world).await;
}

async fn kill_tracking(world: &World) {
    for master in world.store.masters().await {
        let clients = master.cli(&["CLIENT", "LIST"]);
        for client in clients.lines().filter(|line| line.contains("flags=t")) {
            let id = client.split_whitespace().find_map(|word| word.strip_prefix("id="));
            // It may be gone by itself.
            master.cli(&["CLIENT", "KILL", "ID", id.expect("an id")]);
        }
    }
}

async fn what_is_written_while_lockstep_catches_up_is_found(on: On) {
    let world = watched(on, 3, NO_AUDIT).await;
    let many = "INSERT INTO users (id, user_type, wallet_balance) SELECT n, 'demo', n FROM generate_series(20001, 40000) n";
    world.sql(many).await;
    let suspended =
        async || (world.lockstep.metric("lockstep_foreign_writes_watched").await == 0.0).then_some(());
    eventually("watching is suspended", suspended).await;
    world.credit(1, "1").await;
    let applied = async || (world.store.get("user_balance:live:1").await? == "101").then_some(());
    eventually("the credit is in redis", applied).await;
    world.store.hset(&config_of("live:1"), "balance", "66").await;
    is_watched(&world).await;
    world.eventually_equal().await;
}
