//! The same on Redis Cluster, three masters and three replicas.

use super::*;
use crate::harness::resp::slot_of;
use crate::harness::{Cluster, eventually};

fn everyone(at: u64) -> Flight {
    let plans = (1..=60).map(|id| change(&id.to_string(), at, &at.to_string())).collect();
    Flight { checkpoint: Some(checkpoint(at)), ..stream(plans) }
}

async fn everyone_holds(cluster: &Cluster, balance: &str) {
    for id in 1..=60 {
        let config = cluster.hash(&format!("user:{{live:{id}}}:config")).await;
        assert_eq!(config.get("balance").map(String::as_str), Some(balance), "user {id}");
        let cached = cluster.get(&format!("user_balance:live:{id}")).await;
        assert_eq!(cached.as_deref(), Some(balance), "user {id}");
    }
}

#[tokio::test]
async fn keys_of_every_slot_are_written_fenced_and_published_once() {
    let cluster = Cluster::start().await;
    cluster.call("financial_summary:live:7:a", &["SET", "financial_summary:live:7:a", "1"]).await;
    cluster.call("financial_summary:live:77:a", &["SET", "financial_summary:live:77:a", "1"]).await;
    let mut sink = connect(&cluster.urls()).await;
    let mut subscriber = subscribe(cluster.node(4).client().await, &["user_updates"]).await;
    let outcomes = sink.apply(&everyone(10)).await.unwrap();
    assert!(outcomes.iter().all(|outcome| *outcome == APPLIED), "{outcomes:?}");
    everyone_holds(&cluster, "10").await;
    assert!(cluster.get("financial_summary:live:7:a").await.is_none());
    assert!(cluster.get("financial_summary:live:77:a").await.is_some());
    let outcomes = sink.apply(&everyone(10)).await.unwrap();
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Skipped), "{outcomes:?}");
    sink.apply(&everyone(11)).await.unwrap();
    let received = messages(&mut subscriber, 120).await;
    assert!(received[..60].iter().all(|message| message.contains("\"at\":10,")), "{received:?}");
    let records = sink.read_records().await.unwrap();
    assert_eq!(records.nodes.len(), 3);
    assert!(records.nodes.iter().all(|n| n.checkpoint == Some(checkpoint(11)) && n.proves));
}

/// The slot of another of its keys lost its fence: that key is written again, and nothing is told.
#[tokio::test]
async fn what_only_another_slot_lost_is_no_event() {
    let cluster = Cluster::start().await;
    let mut sink = connect(&cluster.urls()).await;
    sink.apply(&stream(vec![change("7", 1, "1")])).await.unwrap();
    let (key, fence) = ("user_balance:live:7", "lockstep:fence:{user_balance:live:7}");
    cluster.call(key, &["DEL", key, fence]).await;
    assert_eq!(sink.apply(&stream(vec![change("7", 1, "1")])).await.unwrap(), [Outcome::Skipped]);
    assert_eq!(cluster.get(key).await.as_deref(), Some("1"));
}

#[tokio::test]
async fn a_deleted_user_stays_deleted_in_every_slot() {
    let cluster = Cluster::start().await;
    let mut sink = connect(&cluster.urls()).await;
    sink.apply(&stream(vec![change("7", 10, "1"), deletion("7", 20)])).await.unwrap();
    let late = sink.apply(&stream(vec![change("7", 15, "1")])).await.unwrap();
    assert_eq!(late, [Outcome::Skipped]);
    assert!(cluster.get("user_balance:live:7").await.is_none());
    assert!(cluster.hash("user:{live:7}:config").await.is_empty());
}

/// Deletes a key and the keys of a pattern, all in other slots than the user's, where the second watched column changed.
fn change_of_group(id: &str, at: u64, group: &'static str) -> KeyPlan {
    let guard = Guard { any_changed: 2, ..Guard::ALWAYS };
    let mut plan = change(id, at, &at.to_string());
    plan.watched.push(Some(group.into()));
    plan.steps.insert(0, Step::Delete { key: format!("of_group:live:{id}").into(), written: false, guard });
    for step in &mut plan.steps {
        if let Step::DeletePattern { guard: of_pattern, .. } = step {
            *of_pattern = guard;
        }
    }
    plan
}

#[tokio::test]
async fn keys_of_other_slots_are_deleted_only_where_the_users_fence_tells_so() {
    let cluster = Cluster::start().await;
    let keys = ["of_group:live:7", "financial_summary:live:7:a", "financial_summary:live:7:b"];
    let there = async || {
        let mut there = Vec::new();
        for key in keys {
            there.push(cluster.get(key).await.is_some());
        }
        there
    };
    let filled = async || {
        for key in keys {
            cluster.call(key, &["SET", key, "1"]).await;
        }
        // It looks for the keys before its first flight.
        connect(&cluster.urls()).await
    };
    filled().await.apply(&stream(vec![change_of_group("7", 1, "gold")])).await.unwrap();
    assert_eq!(there().await, [false; 3], "nothing is known of what was there before");
    let mut sink = filled().await;
    sink.apply(&stream(vec![change_of_group("7", 2, "gold"), change("8", 2, "1")])).await.unwrap();
    assert_eq!(there().await, [true; 3], "the group is the same");
    sink.apply(&stream(vec![change_of_group("7", 1, "silver")])).await.unwrap();
    assert_eq!(there().await, [true; 3], "what the fence has seen is no change");
    let both = vec![change_of_group("7", 3, "silver"), change_of_group("7", 4, "gold")];
    sink.apply(&stream(both)).await.unwrap();
    assert_eq!(there().await, [false; 3], "the group changed, and back again");
    let mut sink = filled().await;
    sink.apply(&stream(vec![deletion("7", 5)])).await.unwrap();
    sink.apply(&stream(vec![change_of_group("7", 6, "gold")])).await.unwrap();
    assert_eq!(there().await, [false; 3], "a new user of an old name");
}

#[tokio::test]
async fn a_slot_that_moved_or_is_moving_is_followed() {
    let cluster = Cluster::start().await;
    let mut sink = connect(&cluster.urls()).await;
    sink.apply(&everyone(1)).await.unwrap();
    let key = "user:{live:7}:config";
    let slot = slot_of(key);
    let from = cluster.master_of(key).await;
    let to = cluster.masters().await.into_iter().find(|master| *master != from).unwrap();
    cluster.move_slot(slot, to).await;
    sink.apply(&everyone(2)).await.unwrap();
    everyone_holds(&cluster, "2").await;
    // Halfway back: the slot is open and its keys have all left.
    let source = cluster.begin_move(slot, from).await;
    cluster.migrate_keys(slot, source, from).await;
    let mut state = sink.state();
    let sending = tokio::spawn(async move {
        let outcomes = sink.apply(&everyone(3)).await.unwrap();
        (sink, outcomes)
    });
    // The portfolio key exists nowhere: Redis asks to try again until the slot has arrived.
    eventually_retrying(&mut state).await;
    cluster.finish_move(slot, source, from).await;
    let (_, outcomes) = sending.await.unwrap();
    assert!(outcomes.iter().all(|outcome| *outcome == APPLIED), "{outcomes:?}");
    everyone_holds(&cluster, "3").await;
}

#[tokio::test]
async fn an_ask_is_followed_to_the_importing_node() {
    let cluster = Cluster::start().await;
    let mut sink = connect(&cluster.urls()).await;
    let whole = |at, balance| {
        let mut plan = change("7", at, balance);
        plan.steps.retain(|step| !matches!(step, Step::Hash { if_exists: true, .. }));
        stream(vec![plan])
    };
    sink.apply(&whole(1, "1")).await.unwrap();
    let key = "user:{live:7}:config";
    let slot = slot_of(key);
    let from = cluster.master_of(key).await;
    let to = cluster.masters().await.into_iter().find(|master| *master != from).unwrap();
    cluster.begin_move(slot, to).await;
    cluster.migrate_keys(slot, from, to).await;
    assert_eq!(sink.apply(&whole(2, "2")).await.unwrap(), [APPLIED]);
    cluster.finish_move(slot, from, to).await;
    assert_eq!(cluster.hash(key).await["balance"], "2");
    assert_eq!(sink.apply(&whole(3, "3")).await.unwrap(), [APPLIED]);
}

#[tokio::test]
async fn a_killed_master_is_replaced_by_its_replica() {
    let cluster = Cluster::start().await;
    let mut sink = connect(&cluster.urls()).await;
    let generation = sink.state();
    let before = generation.borrow().clone();
    sink.apply(&everyone(1)).await.unwrap();
    cluster.eventually_whole().await;
    let master = cluster.master_of("user:{live:7}:config").await;
    cluster.replica_has_all_of(master).await;
    let sending = async {
        let refused = sink.apply(&everyone(2)).await.unwrap_err();
        (sink, refused)
    };
    let (_, (mut sink, refused)) = tokio::join!(cluster.lose_master(master), sending);
    assert!(refused.is_transient(), "{refused}");
    let records = sink.read_records().await.unwrap();
    assert!(records.nodes.iter().all(|node| node.proves && node.checkpoint == Some(checkpoint(1))));
    sink.apply(&everyone(3)).await.unwrap();
    everyone_holds(&cluster, "3").await;
    assert_ne!(*generation.borrow(), before, "the caller can tell that something changed");
    eventually("every node holds the checkpoint", async || {
        let records = sink.read_records().await.ok()?;
        records.nodes.iter().all(|node| node.checkpoint == Some(checkpoint(3))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_planned_failover_loses_nothing() {
    let cluster = Cluster::start().await;
    let mut sink = connect(&cluster.urls()).await;
    sink.apply(&everyone(1)).await.unwrap();
    let master = cluster.master_of("user:{live:7}:config").await;
    cluster.failover(master).await;
    assert!(sink.apply(&everyone(2)).await.unwrap_err().is_transient(), "the records are compared first");
    let records = sink.read_records().await.unwrap();
    assert!(records.nodes.iter().all(|node| node.proves && node.checkpoint == Some(checkpoint(1))));
    sink.apply(&everyone(2)).await.unwrap();
    everyone_holds(&cluster, "2").await;
}

#[tokio::test]
async fn a_cluster_has_no_database_but_0() {
    let cluster = Cluster::start().await;
    let url = format!("redis://127.0.0.1:{}/3", cluster.node(0).port());
    let error = try_connect(&config::Redis::parse(&[url]).unwrap()).await.err().unwrap();
    assert!(!error.is_transient());
    assert!(error.to_string().contains("database 3"), "{error}");
}

#[tokio::test]
async fn a_walk_finds_the_keys_of_every_master() {
    use lockstep::sink::Walk;
    let cluster = Cluster::start().await;
    let mut sink = connect(&cluster.urls()).await;
    sink.apply(&everyone(1)).await.unwrap();
    let (mut found, mut walk) = (std::collections::BTreeSet::new(), Some(Walk::new()));
    while let Some(here) = walk {
        let (keys, on) = sink.walk(b"user:{live:*}:config", here).await.unwrap();
        found.extend(keys);
        walk = on;
    }
    assert_eq!(found.len(), 60);
}
