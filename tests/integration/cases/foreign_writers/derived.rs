//! Derived keys that an application fills in again.

use super::{NO_AUDIT, all_looked_at, verdicts, watched};
use crate::cases::config_of;
use crate::harness::{On, eventually};

on_both!(
    a_stale_refill_is_deleted_again_and_a_fresh_one_lives,
    observing_counts_a_stale_refill_and_leaves_it
);

const DERIVED: [&str; 3] = ["user_stats:live:1", "user_margin_calc:live:1", "financial_summary:live:1:week"];

async fn a_stale_refill_is_deleted_again_and_a_fresh_one_lives(on: On) {
    let world = watched(on, 1, NO_AUDIT).await;
    // Let the deletion of the user's insert be long ago.
    all_looked_at(&world).await;
    for key in DERIVED {
        world.store.set(key, "of 100").await;
    }
    world.credit(1, "5").await;
    let applied = async || (world.store.get("user_balance:live:1").await? == "105").then_some(());
    eventually("the credit is in redis", applied).await;
    for key in DERIVED {
        world.store.set(key, "computed from 100").await;
    }
    for key in DERIVED {
        eventually("the stale refill is gone", async || (!world.store.exists(key).await).then_some(())).await;
    }
    all_looked_at(&world).await;
    for key in DERIVED {
        world.store.set(key, "computed from 105").await;
    }
    all_looked_at(&world).await;
    for key in DERIVED {
        assert!(world.store.exists(key).await, "{key} was fresh");
    }
    assert!(world.lockstep.metric("lockstep_stale_refills_total").await >= 3.0);
}

async fn observing_counts_a_stale_refill_and_leaves_it(on: On) {
    let world = watched(on, 1, &format!("{NO_AUDIT}grace = \"5s\"\nforeign_writes = \"observe\"\n")).await;
    world.credit(1, "5").await;
    let applied = async || (world.store.get("user_balance:live:1").await? == "105").then_some(());
    eventually("the credit is in redis", applied).await;
    // What is written while the event is on its way is deleted with it.
    world.caught_up().await;
    for key in DERIVED {
        world.store.set(key, "computed from 100").await;
    }
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
