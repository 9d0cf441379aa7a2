//! A commit that waits for a synchronous standby is in WAL, in the stream and in Redis, and no reading sees it yet.

use std::time::Duration;

use serde_json::json;

use super::{UNHEALED, compared, force_refresh, post, states};
use crate::harness::subscriber::BALANCE_UPDATES;
use crate::harness::{On, Setup, World, eventually};

on_both!(
    a_commit_that_no_reading_sees_yet_is_called_nothing_but_in_flight,
    a_refresh_waits_until_what_redis_holds_is_seen,
);

/// Streaming, with a balance of 250 in Redis that the database does not show.
async fn held(on: On) -> (World, tokio::task::JoinHandle<()>) {
    let world = World::set_up(Setup { config: UNHEALED.to_owned(), ..Setup::on(on) }).await;
    world.user("live", 7, "100").await;
    world.lockstep.init().await;
    world.lockstep.run().await;
    world.sql("ALTER SYSTEM SET synchronous_standby_names = 'a_standby_that_never_comes'").await;
    world.sql("SELECT pg_reload_conf()").await;
    world.postgres.eventually_value("SHOW synchronous_standby_names", "a_standby_that_never_comes").await;
    let writer = world.postgres.client().await;
    let held = tokio::spawn(async move {
        writer.batch_execute("UPDATE users SET wallet_balance = 250 WHERE id = 7").await.expect("the commit");
    });
    let there = async || (world.store.get("user_balance:live:7").await? == "250").then_some(());
    eventually("the commit is in Redis", there).await;
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    world.postgres.eventually_value(waiting, "1").await;
    (world, held)
}

async fn release(world: &World) {
    world.sql("ALTER SYSTEM RESET synchronous_standby_names").await;
    world.sql("SELECT pg_reload_conf()").await;
}

async fn a_commit_that_no_reading_sees_yet_is_called_nothing_but_in_flight(on: On) {
    let (world, held) = held(on).await;
    let report = compared(&world, 7).await;
    assert_eq!(report["database"]["wallet_balance"], 100, "{report}");
    let mut told = states(&report);
    told.sort();
    assert_eq!(told, ["-:in_flight", "balance:in_flight", "wallet_balance:in_flight"], "{report}");
    release(&world).await;
    held.await.expect("the writer");
    assert_eq!(compared(&world, 7).await["is_consistent"], json!(true));
}

async fn a_refresh_waits_until_what_redis_holds_is_seen(on: On) {
    let (world, held) = held(on).await;
    let subscriber = world.subscriber().await;
    let refresh = force_refresh(7);
    let release = async {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert_eq!(world.store.get("user_balance:live:7").await.as_deref(), Some("250"), "nothing went back");
        assert!(subscriber.heard().is_empty(), "nothing was told");
        release(&world).await;
    };
    let (answer, ()) = tokio::join!(post(&world, &refresh), release);
    assert_eq!(answer.status, 200, "{}", answer.json);
    held.await.expect("the writer");
    world.heard_all(&subscriber).await;
    let heard = subscriber.of(BALANCE_UPDATES, "live:7");
    assert_eq!(heard.len(), 1, "{heard:#?}");
    assert_eq!(heard[0].text("operation_type"), "force_refresh");
    assert_eq!(heard[0].json["updated_fields"]["balance"], 250);
    world.assert_equal().await;
}
