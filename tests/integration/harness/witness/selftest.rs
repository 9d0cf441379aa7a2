//! A witness who sees nothing proves nothing.

use super::*;
use crate::harness::{On, Setup};

/// A user, his key and a witness, and nobody who keeps them equal but the test.
async fn world_without_lockstep(on: On) -> (World, Witness) {
    let world = World::set_up(Setup::on(on)).await;
    world.user("live", 7, "1").await;
    world.store.set(KEY, "1").await;
    let witness = Witness::start(&world, 7..8).await;
    (world, witness)
}

const KEY: &str = "user_balance:live:7";

/// Commits a balance and returns its transaction.
async fn commit(world: &World, balance: &str) -> String {
    world.sql(&format!("UPDATE users SET wallet_balance = {balance} WHERE id = 7")).await;
    world.postgres.value("SELECT max(xid) FROM history").await.expect("a transaction")
}

/// Shows a balance and waits until the watch has seen it.
async fn show(world: &World, witness: &Witness, balance: &str) {
    world.store.set(KEY, balance).await;
    witness.watch.look().await.expect("a look at every key");
}

async fn publish(world: &World, channel: &str, id: &str, xid: &str) {
    let event = format!(r#"{{"user_id":7,"user_type":"live","event_id":"{id}","xid":{xid}}}"#);
    world.store.any_node().call(&["PUBLISH", channel, &event]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_is_content_with_what_goes_forward_and_is_told_once() {
    let (world, mut witness) = world_without_lockstep(On::Cluster).await;
    for balance in ["2", "3", "2"] {
        let xid = commit(&world, balance).await;
        show(&world, &witness, balance).await;
        publish(&world, "user_updates", &xid, &xid).await;
        publish(&world, "balance_updates", &xid, &xid).await;
    }
    let verdict = witness.verdict(&world).await;
    verdict.assert_clean();
    assert_eq!(verdict.committed, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_sees_what_goes_back_and_what_nobody_committed() {
    let (world, mut witness) = world_without_lockstep(On::Single).await;
    commit(&world, "2").await;
    for balance in ["2", "1", "66"] {
        show(&world, &witness, balance).await;
    }
    world.store.call(KEY, &["DEL", KEY]).await;
    let wrong = witness.verdict(&world).await.wrong_values;
    assert_eq!(wrong.len(), 3, "{wrong:?}");
    assert!(wrong[0].contains("went back from change 1 of the user to 0"), "{wrong:?}");
    assert!(wrong[1].contains("never committed") && wrong[2].contains("is gone"), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_sees_a_lease_that_is_not_true() {
    let (world, mut witness) = world_without_lockstep(On::Cluster).await;
    commit(&world, "2").await;
    let promises = async |position: &str, as_of: &str| {
        let lease = format!(r#"{{"position":"{position}","as_of":"{as_of}"}}"#);
        world.store.set(lease::KEY, &lease).await;
        for _ in 0..2 {
            witness.watch.look().await.expect("a look at every key");
        }
    };
    // Of long ago, and still there.
    promises("0/1", "2026-01-15T10:30:00.000Z").await;
    let time = "SELECT iso(clock_timestamp())";
    let later = async || world.postgres.value(time).await.expect("a time");
    witness.watch.sample().await;
    promises("0/1", &later().await).await;
    let wrong = witness.verdict(&world).await.wrong_values;
    assert!(wrong.iter().any(|wrong| wrong.contains("a lease says 2026-01-15T10:30:00.000Z")), "{wrong:?}");
    let older = |wrong: &&String| wrong.contains("user_balance:live:7  is older than change 1");
    assert_eq!(wrong.iter().filter(older).count(), 1, "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_counts_what_is_doubled_and_what_is_lost() {
    let (world, mut witness) = world_without_lockstep(On::Cluster).await;
    let (first, second) = (commit(&world, "2").await, commit(&world, "3").await);
    for channel in ["user_updates", "user_updates", "balance_updates"] {
        publish(&world, channel, "first", &first).await;
    }
    // The second is told on one channel only, and there under two names.
    publish(&world, "user_updates", "second", &second).await;
    publish(&world, "user_updates", "again", &second).await;
    let verdict = witness.verdict(&world).await;
    assert_eq!(verdict.doubled.len(), 2, "{verdict:?}");
    assert_eq!(verdict.lost, [format!("transaction {second} of live:7 on balance_updates")]);
    publish(&world, "balance_updates", "first", &first).await;
    assert_eq!(
        witness.verdict(&world).await.doubled,
        ["first of live:7 on balance_updates"],
        "a round later"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_tells_apart_what_redis_has_lost() {
    let (world, mut witness) = world_without_lockstep(On::Single).await;
    let first = commit(&world, "2").await;
    show(&world, &witness, "2").await;
    witness.redis_loses([EVERY_SLOT]);
    show(&world, &witness, "1").await;
    for _ in 0..2 {
        publish(&world, "user_updates", "first", &first).await;
    }
    let verdict = witness.verdict(&world).await;
    verdict.assert_clean();
    assert_eq!((verdict.older_by_loss, verdict.doubled_by_loss, verdict.lost_by_loss), (1, 1, 1));
    show(&world, &witness, "2").await;
    show(&world, &witness, "1").await;
    assert!(!witness.verdict(&world).await.is_clean(), "the loss is over");
}
