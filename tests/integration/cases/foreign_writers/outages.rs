//! What the audit meets while it reads the database.

use super::{NO_AUDIT, all_looked_at, watched};
use crate::cases::config_of;
use crate::harness::{On, World, eventually};

/// The audit describes the tables whenever it begins again, and so may be the one who finds that one is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_away_while_the_audit_looked_leaves_no_complaint_behind() {
    let world = World::running(On::Single).await;
    world.user("live", 1, "100").await;
    world.caught_up().await;
    world.lockstep.wait_ready().await;
    world.sql("ALTER TABLE users RENAME TO away").await;
    world.lockstep.is_not_ready_because("users cannot be read").await;
    world.sql("ALTER TABLE away RENAME TO users").await;
    world.lockstep.wait_ready().await;
}

/// A commit that waits for a synchronous standby is in WAL and in the stream, and no snapshot sees it.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_write_over_a_commit_that_nobody_sees_yet_is_healed_once_it_is_seen() {
    let world = watched(On::Single, 1, NO_AUDIT).await;
    let held = world.held_commit("UPDATE users SET wallet_balance = 105 WHERE id = 1").await;
    let applied = async || (world.store.get("user_balance:live:1").await? == "105").then_some(());
    eventually("the change is in redis", applied).await;
    world.store.hset(&config_of("live:1"), "balance", "66").await;
    // Also where it is put off.
    all_looked_at(&world).await;
    all_looked_at(&world).await;
    assert_eq!(world.store.hash(&config_of("live:1")).await["balance"], "66", "what is read is older");
    world.release_commits().await;
    held.await.expect("the writer");
    world.eventually_equal().await;
}
