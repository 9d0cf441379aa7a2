//! What the audit meets while it reads the database.

use crate::harness::{On, World};

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
