//! Both servers at once.

use crate::harness::{Mode, On, World};

/// No flight was out that would have noticed that the connection to Redis is gone.
#[tokio::test(flavor = "multi_thread")]
async fn redis_restarting_while_postgres_is_down_is_noticed() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    world.postgres.stop(Mode::Fast).await;
    world.store.single().kill9();
    world.store.single().start_again().await;
    world.postgres.start_again().await;
    world.credit(7, "1").await;
    world.eventually_equal().await;
}
