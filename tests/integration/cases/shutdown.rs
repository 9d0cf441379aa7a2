//! Servers that go away.

use std::time::Duration;

use crate::harness::{Mode, On, PATIENCE, World};

/// An idle PostgreSQL takes a fraction of a second; a walsender that waits for an answer at least 6 s.
const AT_ONCE: Duration = Duration::from_secs(5);
/// The same after an ordinary connection that may be kept for five seconds.
const WITHIN_A_LEASE: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn a_fast_shutdown_of_postgres_is_not_delayed_while_redis_is_stopped() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    world.store.single().pause();
    for _ in 0..20 {
        world.credit(7, "1").await;
    }
    let took = world.postgres.stop(Mode::Fast).await;
    assert!(took < AT_ONCE, "{took:?}");
    world.postgres.start_again().await;
    world.store.single().resume();
    world.eventually_equal().await;
    assert_eq!(world.store.get("user_balance:live:7").await.as_deref(), Some("120"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fast_shutdown_of_postgres_is_not_delayed_while_redis_is_gone() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    world.store.single().kill9();
    world.credit(7, "1").await;
    let took = world.postgres.stop(Mode::Fast).await;
    assert!(took < AT_ONCE, "{took:?}");
    world.postgres.start_again().await;
    world.store.single().start_again().await;
    world.eventually_equal().await;
}

/// An operator's `systemctl stop` of a server whose unit says so, or of a container: it waits for ordinary clients.
#[tokio::test(flavor = "multi_thread")]
async fn a_smart_shutdown_of_postgres_is_not_delayed_while_redis_is_stopped() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    world.store.single().pause();
    world.credit(7, "1").await;
    let took = stopped_smartly(&world).await;
    assert!(took < AT_ONCE, "{took:?}");
    world.postgres.start_again().await;
    world.store.single().resume();
    world.eventually_equal().await;
}

/// The load reads by ordinary connections, and what it has read waits for Redis.
#[tokio::test(flavor = "multi_thread")]
async fn a_smart_shutdown_of_postgres_during_the_load_is_not_delayed_while_redis_is_stopped() {
    let world = World::loading(30_000).await;
    world.store.single().pause();
    let took = stopped_smartly(&world).await;
    assert!(took < WITHIN_A_LEASE, "{took:?}");
    assert_eq!(world.lockstep.exited(), None);
    world.postgres.start_again().await;
    world.store.single().resume();
    world.lockstep.wait_ready().await;
    world.eventually_equal().await;
}

async fn stopped_smartly(world: &World) -> Duration {
    let stop = world.postgres.stop(Mode::Smart);
    tokio::time::timeout(PATIENCE, stop).await.expect("the server stops")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_postgres_loses_nothing_that_was_committed() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    world.postgres.kill9();
    world.postgres.start_again().await;
    world.credit(7, "1").await;
    world.eventually_equal().await;
}
