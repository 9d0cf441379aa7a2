//! `run --no-snapshot`: Redis is trusted once, at the start.

use crate::harness::{On, Setup, Store, World};

on_both!(a_flush_long_after_a_start_without_snapshot_is_healed);

async fn a_flush_long_after_a_start_without_snapshot_is_healed(on: On) {
    let world = World::set_up(Setup::on(on)).await;
    world.lockstep.init().await;
    world.lockstep.spawn(&["run", "--no-snapshot"]);
    world.lockstep.wait_ready().await;
    for id in 1..=20 {
        world.user("live", id, "100").await;
    }
    world.caught_up().await;
    world.assert_equal().await;
    match &world.store {
        Store::Single(redis) => {
            redis.call(&["FLUSHALL"]).await;
        }
        Store::Cluster(cluster) => {
            for master in cluster.masters().await {
                cluster.node(master).call(&["FLUSHALL"]).await;
            }
        }
    }
    world.eventually_equal().await;
    world.lockstep.wait_ready().await;
}
