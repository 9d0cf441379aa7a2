//! What `verify` says where a side is away, or nothing streams.

use super::{counts, unwatched, verified};
use crate::harness::{Mode, On};

on_both!(where_nothing_streams_no_difference_is_certain);

async fn where_nothing_streams_no_difference_is_certain(on: On) {
    let world = unwatched(on, 3).await;
    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    world.sql("UPDATE users SET leverage = 5 WHERE id = 2").await;
    let (code, report) = verified(&world, &[]).await;
    assert_eq!((code, counts(&report)), (3, [2, 0, 0, 0, 1]), "{report:#}");
    assert_eq!(report["not_confirmed_because"]["nothing streams"], 1, "{report:#}");
    assert_eq!(report["examples"][0]["confirmed"], false);
    let refused = world.lockstep.finish(&["verify", "--repair"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("nothing streams from the slot \"lockstep\""), "{}", refused.stderr);
    assert!(refused.stderr.contains("start \"lockstep run\""), "{}", refused.stderr);
    assert!(refused.stdout.contains("1 not confirmed: nothing streams"), "{}", refused.stdout);
}

/// Its checkpoints stand, though it still holds the slot for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_instance_does_not_hang_it() {
    let world = unwatched(On::Single, 2).await;
    world.lockstep.signal("STOP");
    world.sql("UPDATE users SET leverage = 5 WHERE id = 2").await;
    let (code, report) = verified(&world, &[]).await;
    assert_eq!((code, counts(&report)), (3, [1, 0, 0, 0, 1]), "{report:#}");
    world.lockstep.signal("CONT");
    world.eventually_equal().await;
    assert_eq!(verified(&world, &[]).await.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_is_away_is_a_fact_and_a_cure() {
    let world = unwatched(On::Single, 1).await;
    world.store.single().kill9();
    let ended = world.lockstep.finish(&["verify"]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
    assert!(ended.stderr.contains("check that redis runs, and redis.url"), "{}", ended.stderr);
    world.store.single().start_again().await;
    world.postgres.stop(Mode::Fast).await;
    let ended = world.lockstep.finish(&["verify"]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
    assert!(ended.stderr.contains("postgres"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_meanwhile_is_no_alarm() {
    let world = unwatched(On::Cluster, 60).await;
    let cluster = world.store.cluster();
    let master = cluster.masters().await[0];
    cluster.replica_has_all_of(master).await;
    let verified_meanwhile = async {
        for _ in 0..4 {
            let (code, report) = verified(&world, &[]).await;
            assert_eq!((code, counts(&report)), (0, [60, 0, 0, 0, 0]), "{report:#}");
        }
    };
    tokio::join!(verified_meanwhile, cluster.failover(master));
}
