//! A commit that waits for a synchronous standby is in WAL, in the stream and in Redis, and no reading sees it yet.

use serde_json::json;

use super::{UNHEALED, compared, force_refresh, post, states};
use crate::harness::subscriber::{BALANCE_UPDATES, Subscriber};
use crate::harness::{On, Setup, World, eventually};

on_both!(
    a_commit_that_no_reading_sees_yet_is_called_nothing_but_in_flight,
    a_refresh_waits_until_what_redis_holds_is_seen,
);

/// Streaming, with a balance of 250 in Redis and told to the subscriber, that the database does not show.
async fn held(on: On) -> (World, Subscriber, tokio::task::JoinHandle<()>) {
    let world = World::set_up(Setup { config: UNHEALED.to_owned(), ..Setup::on(on) }).await;
    world.user("live", 7, "100").await;
    world.lockstep.init().await;
    world.lockstep.run().await;
    let subscriber = world.subscriber().await;
    let held = world.held_commit("UPDATE users SET wallet_balance = 250 WHERE id = 7").await;
    let there = async || (world.store.get("user_balance:live:7").await? == "250").then_some(());
    eventually("the commit is in Redis", there).await;
    // On both channels; in a cluster by way of another node, later than the key.
    eventually("the commit is told", async || (subscriber.heard().len() == 2).then_some(())).await;
    (world, subscriber, held)
}

async fn a_commit_that_no_reading_sees_yet_is_called_nothing_but_in_flight(on: On) {
    let (world, _, held) = held(on).await;
    let report = compared(&world, 7).await;
    assert_eq!(report["database"]["wallet_balance"], 100, "{report}");
    let mut told = states(&report);
    told.sort();
    assert_eq!(told, ["-:in_flight", "balance:in_flight", "wallet_balance:in_flight"], "{report}");
    world.release_commits().await;
    held.await.expect("the writer");
    assert_eq!(compared(&world, 7).await["is_consistent"], json!(true));
}

async fn a_refresh_waits_until_what_redis_holds_is_seen(on: On) {
    let (world, subscriber, held) = held(on).await;
    let refresh = force_refresh(7);
    let release = async {
        let tried =
            async || (world.lockstep.metric("lockstep_skipped_by_fence_total").await > 2.0).then_some(());
        eventually("it is tried again and again", tried).await;
        assert_eq!(world.store.get("user_balance:live:7").await.as_deref(), Some("250"), "nothing went back");
        assert_eq!(subscriber.heard().len(), 2, "nothing more was told");
        world.release_commits().await;
    };
    let (answer, ()) = tokio::join!(post(&world, &refresh), release);
    assert_eq!(answer.status, 200, "{}", answer.json);
    held.await.expect("the writer");
    world.heard_all(&subscriber).await;
    let heard = subscriber.of(BALANCE_UPDATES, "live:7");
    assert_eq!(heard.len(), 2, "{heard:#?}");
    assert_eq!(heard[1].text("operation_type"), "force_refresh");
    assert_eq!(heard[1].json["updated_fields"]["balance"], 250);
    world.assert_equal().await;
}
