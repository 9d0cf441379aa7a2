//! What a container's health check and Kubernetes' probes are told.

use crate::harness::{Lockstep, On, World, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn the_health_command_says_whether_the_instance_lives_and_is_ready() {
    let world = World::running(On::Single).await;
    assert!(world.lockstep.succeed(&["health"]).await.contains("alive"));
    assert!(world.lockstep.succeed(&["health", "--ready"]).await.contains("ready"));
    world.store.single().kill9();
    let reason = async || {
        let asked = world.lockstep.finish(&["health", "--ready"]).await;
        (asked.code == Some(1) && asked.stderr.contains("redis")).then_some(())
    };
    eventually("it is not ready, and says why", reason).await;
    world.lockstep.succeed(&["health"]).await;
    world.lockstep.kill9();
    let gone = world.lockstep.finish(&["health"]).await;
    assert!(gone.code == Some(1) && gone.stderr.contains("does not answer"), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_the_slot_is_ready_for_those_who_move_a_pair() {
    let world = World::running(On::Single).await;
    let standby = world.standby().await;
    let status = async |path: &str| standby.http("GET", path).await.unwrap().0;
    assert_eq!((status("/readyz").await, status("/readyz?standby=ok").await), (503, 200));
    assert_eq!(world.lockstep.http("GET", "/readyz?standby=ok").await.unwrap().0, 200);
}

/// Else an alert would go on about what was long ago.
#[tokio::test(flavor = "multi_thread")]
async fn who_led_once_and_waits_now_tells_no_old_lag() {
    let world = World::running(On::Single).await;
    let standby = world.standby().await;
    world.user("live", 7, "100").await;
    world.lockstep.wait_ready().await;
    world.store.single().pause();
    world.credit(7, "1").await;
    let lag = "lockstep_replication_lag_seconds";
    eventually("it is late", async || (world.lockstep.metric(lag).await > 1.0).then_some(())).await;
    world.lockstep.signal("STOP");
    world.store.single().resume();
    standby.wait_ready().await;
    world.lockstep.signal("CONT");
    // What the frozen one had sent is found by its successor, which may lose the slot to it while it compares.
    let waits = async |lockstep: &Lockstep| match lockstep.http("GET", "/readyz").await {
        Ok((503, body)) => body.contains("another instance holds the slot"),
        _ => false,
    };
    let waiting = eventually("one of them waits", async || match () {
        () if waits(&world.lockstep).await => Some(&world.lockstep),
        () if waits(&standby).await => Some(&standby),
        () => None,
    });
    let told = waiting.await.metrics().await.unwrap();
    for name in [lag, "lockstep_replication_lag_bytes", "lockstep_slot_retained_wal_bytes"] {
        assert_eq!(told[name], 0.0, "{name}");
    }
}
