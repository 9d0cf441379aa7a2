//! Derived keys that an application fills in again.

use super::{NO_AUDIT, all_looked_at, verdicts, watched};
use crate::cases::config_of;
use crate::harness::{On, World, eventually};

on_both!(
    a_stale_refill_is_deleted_again_and_a_fresh_one_lives,
    observing_counts_a_stale_refill_and_leaves_it,
    what_is_derived_of_users_of_a_truncated_table_is_deleted
);

pub const DERIVED: [&str; 3] =
    ["user_stats:live:1", "user_margin_calc:live:1", "financial_summary:live:1:week"];

/// An application writes them all.
pub async fn refill(world: &World, value: &str) {
    for key in DERIVED {
        world.store.set(key, value).await;
    }
}

/// Waits until none of them is left.
pub async fn is_gone(world: &World) {
    for key in DERIVED {
        let gone = async || (!world.store.exists(key).await).then_some(());
        eventually("what was derived from an older balance is gone", gone).await;
    }
}

async fn a_stale_refill_is_deleted_again_and_a_fresh_one_lives(on: On) {
    let world = watched(on, 1, NO_AUDIT).await;
    // Let the deletion of the user's insert be long ago.
    all_looked_at(&world).await;
    refill(&world, "of 100").await;
    world.credit(1, "5").await;
    let applied = async || (world.store.get("user_balance:live:1").await? == "105").then_some(());
    eventually("the credit is in redis", applied).await;
    refill(&world, "computed from 100").await;
    is_gone(&world).await;
    all_looked_at(&world).await;
    refill(&world, "computed from 105").await;
    all_looked_at(&world).await;
    for key in DERIVED {
        assert!(world.store.exists(key).await, "{key} was fresh");
    }
    assert!(world.lockstep.metric("lockstep_stale_refills_total").await >= 3.0);
}

async fn observing_counts_a_stale_refill_and_leaves_it(on: On) {
    let world = watched(on, 1, &format!("{NO_AUDIT}grace = \"5s\"\nforeign_writes = \"observe\"\n")).await;
    // What leaves right behind the beginning of the watch, and what leaves behind that, may not have been watched.
    for balance in ["101", "102", "103"] {
        world.credit(1, "1").await;
        let applied = async || (world.store.get("user_balance:live:1").await? == balance).then_some(());
        eventually("the credit is in redis", applied).await;
    }
    // What is written while the event is on its way is deleted with it.
    world.caught_up().await;
    refill(&world, "computed from 100").await;
    let counted = async || (world.lockstep.metric("lockstep_stale_refills_total").await >= 3.0).then_some(());
    eventually("the refills are counted", counted).await;
    // What is done about them is done before this is seen.
    world.store.hset(&config_of("live:1"), "balance", "66").await;
    let observed = async || (verdicts(&world, "observed").await >= 1.0).then_some(());
    eventually("a later write is counted", observed).await;
    for key in DERIVED {
        assert!(world.store.exists(key).await, "{key} was touched");
    }
}

async fn what_is_derived_of_users_of_a_truncated_table_is_deleted(on: On) {
    let world = watched(on, 1, NO_AUDIT).await;
    world.sql("TRUNCATE users, user_transactions").await;
    let gone = async || (!world.store.exists("user_balance:live:1").await).then_some(());
    eventually("the user is gone", gone).await;
    refill(&world, "computed from 100").await;
    is_gone(&world).await;
}
