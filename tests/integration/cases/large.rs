//! Many rows at once.

use std::time::Duration;

use crate::harness::workload::Workload;
use crate::harness::{On, Setup, World};

/// What a run may hold in memory, however large a transaction or a table is.
const MEMORY_BOUND_BYTES: u64 = 64 << 20;
/// Time for a million rows in an unoptimised build on two busy cores.
const LONG: Duration = Duration::from_secs(900);
/// Rows of the large transaction.
const MILLION: usize = 1_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_a_million_users_passes_in_bounded_memory() {
    let mut setup = Setup::on(On::Single);
    let schema =
        "CREATE TABLE users (id int PRIMARY KEY, user_type text NOT NULL, wallet_balance numeric(18,6))";
    setup.schema = Some(schema.to_owned());
    setup.config =
        "[[tables]]\nname = \"users\"\nkind = \"users\"\nuser_type_column = \"user_type\"".to_owned();
    let world = World::set_up(setup).await;
    world.sql("INSERT INTO users SELECT n, 'live', 1 FROM generate_series(1, 1000000) n").await;
    world.lockstep.init().await;
    // The update writes every key, so the load has nothing to add.
    world.lockstep.spawn(&["run", "--no-snapshot"]);
    world.lockstep.wait_ready().await;
    world.sql("UPDATE users SET wallet_balance = id + 0.5").await;
    world.caught_up_within(LONG).await;
    let peak = world.lockstep.peak_resident_bytes();
    assert!(peak < MEMORY_BOUND_BYTES, "{} MiB", peak >> 20);
    // Every user has a hash, a string and a fence; what they hold is looked at in every 997th.
    let redis = world.store.single();
    let keys = redis.call(&["DBSIZE"]).await.text().and_then(|keys| keys.parse::<usize>().ok());
    assert!(keys.is_some_and(|keys| keys >= 3 * MILLION), "{keys:?} keys");
    for id in (1..=MILLION).step_by(997) {
        let balance = redis.call(&["HGET", &format!("user:{{live:{id}}}:config"), "balance"]).await;
        assert_eq!(balance.text(), Some(format!("{id}.5")), "user {id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_with_100_000_users_under_concurrent_writes_misses_nothing() {
    let world = World::set_up(Setup::on(On::Single)).await;
    world
        .sql(
            "INSERT INTO users (id, user_type, wallet_balance, email) SELECT n, \
             (CASE WHEN n % 3 = 0 THEN 'demo' ELSE 'live' END)::user_type, n, n || '@example.com' \
             FROM generate_series(1, 100000) n",
        )
        .await;
    world.lockstep.init().await;
    let subscriber = world.subscriber().await;
    let workload = Workload::start(&world.postgres, 3, 1, 100_000).await;
    world.lockstep.spawn(&["run"]);
    world.lockstep.wait_ready_within(LONG).await;
    workload.stop().await;
    world.eventually_equal().await;
    let peak = world.lockstep.peak_resident_bytes();
    assert!(peak < MEMORY_BOUND_BYTES, "{} MiB", peak >> 20);
    // The load publishes nothing: whatever was told belongs to a commit of the writers.
    let told = world.heard_all(&subscriber).await;
    assert!(told.iter().all(|heard| matches!(heard.event_type(), "balance_change" | "user_update")));
    assert!(told.iter().all(|heard| !matches!(heard.text("operation_type"), "resync" | "repair" | "heal")));
    subscriber.assert_each_once();
    subscriber.assert_commit_order();
}
