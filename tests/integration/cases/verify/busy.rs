//! A system at work: what is on its way is no difference, and what is wrong is found all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{counts, told, unwatched, verified};
use crate::cases::config_of;
use crate::harness::workload::Workload;
use crate::harness::{On, World, eventually};

on_both!(running_writers_are_no_alarm, what_is_wrong_is_found_beside_running_writers);

/// Users who come and go, until dropped.
struct Churn {
    stop: Arc<AtomicBool>,
    writer: tokio::task::JoinHandle<()>,
}

impl Churn {
    async fn start(world: &World) -> Churn {
        let (stop, client) = (Arc::new(AtomicBool::new(false)), world.postgres.client().await);
        let told = Arc::clone(&stop);
        let writer = tokio::spawn(async move {
            let mut round = 0_u32;
            while !told.load(Ordering::Relaxed) {
                round += 1;
                let id = 1_000 + round % 20;
                let statements = format!(
                    "SELECT pg_sleep(0.01); INSERT INTO users (id, user_type, wallet_balance) VALUES ({id}, 'live', 5);
                     SELECT pg_sleep(0.01); UPDATE users SET user_type = 'demo' WHERE id = {id};
                     DELETE FROM users WHERE id = {id}"
                );
                client.batch_execute(&statements).await.expect("a user comes and goes");
            }
        });
        Churn { stop, writer }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.writer.await.expect("the writer ends");
    }
}

const RUNS: usize = 4;

async fn running_writers_are_no_alarm(on: On) {
    let world = unwatched(on, 40).await;
    let writers = Workload::start(&world.postgres, 3, 1, 40).await;
    let churn = Churn::start(&world).await;
    for _ in 0..RUNS {
        writers.progress(50).await;
        let (code, report) = verified(&world, &[]).await;
        assert_eq!((code, &counts(&report)[1..]), (0, &[0, 0, 0, 0][..]), "{report:#}");
        assert!(report["users"].as_u64().unwrap() >= 40, "{report:#}");
    }
    churn.stop().await;
    writers.stop().await;
}

async fn what_is_wrong_is_found_beside_running_writers(on: On) {
    let world = unwatched(on, 45).await;
    // The last five are nobody's business.
    let writers = Workload::start(&world.postgres, 3, 1, 40).await;
    world.store.hset(&config_of("live:41"), "group", "of somebody else").await;
    let key = config_of("live:42");
    world.store.call(&key, &["DEL", &key]).await;
    world.store.set("user_balance:live:99", "7").await;
    for _ in 0..2 {
        writers.progress(50).await;
        let (code, report) = verified(&world, &[]).await;
        assert_eq!((code, &counts(&report)[1..]), (3, &[1, 1, 1, 0][..]), "{report:#}");
        assert_eq!(told(&report, "live:41"), ["user:{T:U}:config group"]);
    }
    writers.stop().await;
}

/// Under synchronous replication a commit is in WAL, and in Redis, long before any snapshot sees it.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_no_snapshot_sees_yet_is_no_alarm() {
    let world = unwatched(On::Single, 2).await;
    let held = world.held_commit("UPDATE users SET wallet_balance = 250 WHERE id = 1").await;
    let ahead =
        async || (world.store.get("user_balance:live:1").await.as_deref() == Some("250")).then_some(());
    eventually("redis holds what nobody sees", ahead).await;
    let seen = world.postgres.value("SELECT wallet_balance::int FROM users WHERE id = 1").await;
    assert_eq!(seen.as_deref(), Some("100"), "the commit is still held");
    let (code, report) = verified(&world, &[]).await;
    assert_eq!((code, counts(&report), &report["changing"]), (0, [1, 0, 0, 0, 0], &1.into()), "{report:#}");
    world.release_commits().await;
    held.await.expect("the writer");
    let (code, report) = verified(&world, &[]).await;
    assert_eq!((code, counts(&report)), (0, [2, 0, 0, 0, 0]), "{report:#}");
}
