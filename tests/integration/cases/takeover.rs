//! Two instances: one holds the slot, the other waits for it and takes over.

use crate::harness::{Mode, On, World};

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_the_slot_hides_no_later_fault() {
    let world = World::running(On::Single).await;
    let second = world.standby().await;
    world.postgres.stop(Mode::Fast).await;
    second.is_not_ready_because("unreachable").await;
    world.postgres.start_again().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_the_slot_is_no_reconnect() {
    let world = World::running(On::Single).await;
    let second = world.standby().await;
    world.lockstep.kill9();
    second.wait_ready().await;
    assert_eq!(second.metric("lockstep_postgres_reconnects_total").await, 0.0);
    assert_eq!(second.metric("lockstep_leader").await, 1.0);
}
