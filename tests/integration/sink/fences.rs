//! What a fence lets through.

use std::collections::HashSet;

use lockstep::lsn::Snapshot;

use super::*;
use crate::harness::{Redis, RedisOptions};

async fn world() -> (Redis, Sink) {
    let redis = Redis::start(RedisOptions::default()).await;
    let sink = connect(&[redis.url()]).await;
    (redis, sink)
}

fn snapshot(snapshot: &str, present: u64, plans: Vec<KeyPlan>) -> Flight {
    let plans = plans
        .into_iter()
        .map(|mut plan| {
            plan.row_xid = None;
            plan
        })
        .collect();
    let present = Position { commit_lsn: Lsn(present), ordinal: 0 };
    let snapshot: Snapshot = snapshot.parse().unwrap();
    Flight {
        plans,
        fencing: Fencing::Snapshot { snapshot, hidden: HashSet::new(), present },
        checkpoint: None,
    }
}

#[tokio::test]
async fn a_change_reaches_every_key_and_both_channels() {
    let (redis, mut sink) = world().await;
    redis.call(&["HSET", "user:{live:7}:config", "email", "x", "theirs", "stays"]).await;
    redis.call(&["HSET", "user:{live:7}:portfolio", "equity", "1"]).await;
    redis.call(&["SET", "user_stats:live:7", "1"]).await;
    let mut subscriber = subscribe(redis.client().await, &["user_updates", "balance_updates"]).await;
    let outcomes = sink.apply(&stream(vec![change("7", 10, "10.5"), change("8", 10, "3")])).await.unwrap();
    assert_eq!(outcomes, [APPLIED, APPLIED]);
    let config = redis.hash("user:{live:7}:config").await;
    assert_eq!(config["balance"], "10.5");
    assert_eq!(config["theirs"], "stays");
    assert!(!config.contains_key("email"));
    assert_eq!(redis.hash("user:{live:7}:portfolio").await["wallet_balance"], "10.5");
    assert!(!redis.exists("user:{live:8}:portfolio").await);
    assert!(!redis.exists("user_stats:live:7").await);
    assert_eq!(redis.get("user_balance:live:7").await.as_deref(), Some("10.5"));
    assert_eq!(redis.call(&["TTL", "user_balance:live:7"]).await, Reply::Integer(3600));
    let event = "{\"user_id\":7,\"at\":10,\"event_type\":\"balance_change\"}";
    let received = messages(&mut subscriber, 4).await;
    assert_eq!(received[..2], [format!("user_updates {event}"), format!("balance_updates {event}")]);
}

#[tokio::test]
async fn older_and_equal_positions_are_skipped_and_not_published() {
    let (redis, mut sink) = world().await;
    let mut subscriber = subscribe(redis.client().await, &["user_updates"]).await;
    sink.apply(&stream(vec![change("7", 0x1F, "1")])).await.unwrap();
    let outcomes = sink
        .apply(&stream(vec![change("7", 0xA, "2"), change("7", 0x1F, "3"), change("7", 0x100, "4")]))
        .await
        .unwrap();
    assert_eq!(outcomes, [Outcome::Skipped, Outcome::Skipped, APPLIED]);
    assert_eq!(redis.get("user_balance:live:7").await.as_deref(), Some("4"));
    let received = messages(&mut subscriber, 2).await;
    assert!(received[0].contains("\"at\":31,") && received[1].contains("\"at\":256,"), "{received:?}");
}

#[tokio::test]
async fn an_unchanged_balance_is_an_update_for_one_channel_only() {
    let (redis, mut sink) = world().await;
    let mut subscriber = subscribe(redis.client().await, &["user_updates", "balance_updates"]).await;
    let plans = vec![change("7", 10, "1"), change("7", 11, "1"), change("7", 12, "2")];
    let outcomes = sink.apply(&stream(plans)).await.unwrap();
    assert_eq!(outcomes, [APPLIED, APPLIED_AS_UPDATE, APPLIED]);
    let received = messages(&mut subscriber, 5).await;
    assert!(
        received[2].starts_with("user_updates") && received[2].contains("user_update\"}"),
        "{received:?}"
    );
    assert!(received[3].contains("\"at\":12"), "{received:?}");
}

#[tokio::test]
async fn a_column_that_an_event_does_not_know_keeps_its_remembered_value() {
    let (_redis, mut sink) = world().await;
    let guarded = |at, watched: [Option<&'static str>; 2]| {
        let mut plan = change("7", at, "1");
        plan.watched = watched.into_iter().map(|value| value.map(Bytes::from)).collect();
        plan.steps = vec![Step::Delete {
            key: "marked".into(),
            written: false,
            guard: Guard { any_changed: 2, ..Guard::ALWAYS },
        }];
        plan
    };
    for (at, watched, deleted) in [
        (1, [Some("1"), Some("gold")], true),
        (2, [Some("2"), None], false),
        (3, [Some("3"), Some("gold")], false),
        (4, [None, Some("silver: 2:x")], true),
        (5, [Some("3"), Some("silver: 2:x")], false),
    ] {
        _redis.call(&["SET", "marked", "1"]).await;
        sink.apply(&stream(vec![guarded(at, watched)])).await.unwrap();
        assert_eq!(_redis.exists("marked").await, !deleted, "at {at}");
    }
}

#[tokio::test]
async fn rows_of_a_snapshot_pass_where_the_fence_is_visible_to_it() {
    let (redis, mut sink) = world().await;
    // Fences with xids 100 (seen), 205 (running in the snapshot), 300 (after it).
    sink.apply(&stream(vec![change("1", 100, "s"), change("2", 205, "s"), change("3", 300, "s")]))
        .await
        .unwrap();
    let rows = ["1", "2", "3", "4"].map(|id| change(id, 0, "row")).to_vec();
    let outcomes = sink.apply(&snapshot("200:210:203,205", 400, rows)).await.unwrap();
    let skipped = Outcome::Skipped;
    assert_eq!(outcomes, [APPLIED, skipped.clone(), skipped, APPLIED]);
    // The rows' fences stand at the present: what was before it comes no more.
    let outcomes = sink.apply(&stream(vec![change("1", 399, "old"), change("4", 401, "new")])).await.unwrap();
    assert_eq!(outcomes, [Outcome::Skipped, APPLIED]);
    assert_eq!(redis.get("user_balance:live:1").await.as_deref(), Some("row"));
    assert_eq!(redis.get("user_balance:live:4").await.as_deref(), Some("new"));
}

#[tokio::test]
async fn a_snapshot_at_an_older_present_does_not_lower_the_fence() {
    let (_redis, mut sink) = world().await;
    sink.apply(&stream(vec![change("1", 100, "s")])).await.unwrap();
    let outcomes = sink.apply(&snapshot("200:200:", 50, vec![change("1", 0, "row")])).await.unwrap();
    assert_eq!(outcomes, [APPLIED]);
    assert_eq!(sink.apply(&stream(vec![change("1", 100, "again")])).await.unwrap(), [Outcome::Skipped]);
}

#[tokio::test]
async fn a_completed_row_alone_keeps_the_xid_of_the_users_row() {
    let (_redis, mut sink) = world().await;
    let mut completed = change("1", 300, "1");
    completed.row_xid = None;
    completed.watched = vec![];
    sink.apply(&stream(vec![change("1", 100, "1"), completed])).await.unwrap();
    let outcomes = sink.apply(&snapshot("200:200:", 400, vec![change("1", 0, "row")])).await.unwrap();
    assert_eq!(outcomes, [APPLIED]);
}

/// Nothing else would ever take it away.
#[tokio::test]
async fn the_fence_of_a_user_of_whom_only_completed_rows_are_known_passes() {
    let (redis, mut sink) = world().await;
    let completed = |at| {
        let mut plan = change("9", at, "1");
        plan.row_xid = None;
        plan.watched = vec![None];
        plan.steps.retain(|step| matches!(step, Step::Hash { if_exists: true, .. }));
        plan
    };
    let left = async || redis.call(&["PTTL", "lockstep:fence:{live:9}"]).await;
    for at in [10, 11] {
        assert_eq!(sink.apply(&stream(vec![completed(at)])).await.unwrap(), [APPLIED]);
        assert!(matches!(left().await, Reply::Integer(1..)), "at {at}");
        assert_eq!(sink.apply(&stream(vec![completed(at)])).await.unwrap(), [Outcome::Skipped]);
        let row = stream(vec![change("9", 9, "1")]);
        assert_eq!(sink.apply(&stream(vec![deletion("9", 9)])).await.unwrap(), [Outcome::Skipped]);
        let lost = Outcome::Refused { reason: "redis may have lost it".into() };
        assert_eq!(sink.apply(&row).await.unwrap(), [lost]);
        let row = snapshot("9:10:9", 10, vec![change("9", 0, "1")]);
        assert_eq!(
            sink.apply(&row).await.unwrap(),
            [Outcome::Skipped],
            "it does not see the row that was lost"
        );
    }
    let mut subscriber = subscribe(redis.client().await, &["balance_updates"]).await;
    assert_eq!(sink.apply(&stream(vec![change("9", 12, "1")])).await.unwrap(), [APPLIED]);
    assert!(messages(&mut subscriber, 1).await[0].contains("\"at\":12,"));
    assert_eq!(left().await, Reply::Integer(-1), "it is a user's");
    assert_eq!(sink.apply(&stream(vec![change("9", 11, "1")])).await.unwrap(), [Outcome::Skipped]);
    assert_eq!(sink.apply(&stream(vec![completed(13)])).await.unwrap(), [APPLIED_AS_UPDATE]);
    assert_eq!(left().await, Reply::Integer(-1), "and stays one");
    let row = snapshot("200:200:", 400, vec![change("10", 0, "row")]);
    assert_eq!(sink.apply(&row).await.unwrap(), [APPLIED]);
    let loaded = redis.call(&["PTTL", "lockstep:fence:{live:10}"]).await;
    assert_eq!(loaded, Reply::Integer(-1), "a row of a load is a user's too");
}

#[tokio::test]
async fn a_deleted_users_fence_outlives_the_keys() {
    let (redis, mut sink) = world().await;
    sink.apply(&stream(vec![change("7", 10, "1"), deletion("7", 20)])).await.unwrap();
    assert!(!redis.exists("user:{live:7}:config").await);
    let left = redis.call(&["PTTL", "lockstep:fence:{live:7}"]).await;
    assert!(matches!(left, Reply::Integer(1..)), "{left:?}");
    assert_eq!(sink.apply(&stream(vec![change("7", 15, "1")])).await.unwrap(), [Outcome::Skipped]);
    assert_eq!(
        sink.apply(&snapshot("15:15:", 15, vec![change("7", 0, "1")])).await.unwrap(),
        [Outcome::Skipped]
    );
    assert!(!redis.exists("user:{live:7}:config").await);
    assert_eq!(sink.apply(&stream(vec![change("7", 30, "1")])).await.unwrap(), [APPLIED]);
    assert_eq!(redis.call(&["PTTL", "lockstep:fence:{live:7}"]).await, Reply::Integer(-1));
}

#[tokio::test]
async fn a_newer_epoch_is_past_every_older_position() {
    let (redis, mut sink) = world().await;
    sink.apply(&stream(vec![change("7", 0xFFFF, "before")])).await.unwrap();
    sink.write_epoch(2).await.unwrap();
    assert_eq!(sink.apply(&stream(vec![change("7", 1, "after")])).await.unwrap(), [APPLIED]);
    let again = connect(&[redis.url()]).await;
    assert_eq!(again.epoch(), 2, "a successor reads it");
}

#[tokio::test]
async fn a_key_of_another_type_is_replaced_and_its_neighbours_are_applied() {
    let (redis, mut sink) = world().await;
    redis.call(&["SET", "user:{live:7}:config", "not a hash"]).await;
    redis.call(&["HSET", "lockstep:fence:{live:8}", "not", "a string"]).await;
    let plans = ["6", "7", "8"].map(|id| change(id, 10, "5")).to_vec();
    let outcomes = sink.apply(&stream(plans)).await.unwrap();
    let retyped = Outcome::Applied(Applied { as_update: false, retyped_keys: 1 });
    // A fence that is no text is none: it is overwritten.
    assert_eq!(outcomes, [APPLIED, retyped, APPLIED]);
    for id in ["6", "7", "8"] {
        assert_eq!(redis.hash(&format!("user:{{live:{id}}}:config")).await["balance"], "5");
    }
}

/// A hash of one field would pass for a whole one, without a balance.
#[tokio::test]
async fn a_key_of_another_type_is_only_deleted_where_it_was_not_to_be_made() {
    let (redis, mut sink) = world().await;
    redis.call(&["SET", "user:{live:7}:portfolio", "not a hash"]).await;
    redis.call(&["SET", "user:{live:8}:portfolio", "not a hash"]).await;
    let mut removing = change("8", 10, "5");
    for step in &mut removing.steps {
        if let Step::Hash { set, remove, if_exists: true, .. } = step {
            *remove = ["wallet_balance"].into_iter().collect();
            *set = [("", ""); 0].into_iter().collect();
        }
    }
    let outcomes = sink.apply(&stream(vec![change("7", 10, "5"), removing])).await.unwrap();
    let retyped = Outcome::Applied(Applied { as_update: false, retyped_keys: 1 });
    assert_eq!(outcomes, [retyped.clone(), retyped]);
    for id in ["7", "8"] {
        assert!(!redis.exists(&format!("user:{{live:{id}}}:portfolio")).await);
        assert_eq!(redis.hash(&format!("user:{{live:{id}}}:config")).await["balance"], "5");
    }
}

#[tokio::test]
async fn a_plan_that_redis_cannot_take_is_refused_alone_and_its_keys_are_deleted() {
    let (redis, mut sink) = world().await;
    sink.apply(&stream(vec![change("7", 1, "1")])).await.unwrap();
    let mut wrong = change("7", 10, "5");
    // A time to live that PX cannot hold.
    let ttl = Some(Duration::from_secs(u64::MAX));
    let key = Bytes::from("user_balance:live:7");
    wrong.steps.push(Step::Set { key, value: "5".into(), ttl, guard: ALWAYS });
    let outcomes =
        sink.apply(&stream(vec![change("6", 10, "5"), wrong, change("8", 10, "5")])).await.unwrap();
    let [APPLIED, Outcome::Refused { reason }, APPLIED] = outcomes.as_slice() else { panic!("{outcomes:?}") };
    assert!(reason.contains("ERR"), "{reason}");
    assert!(!redis.exists("user:{live:7}:config").await);
    assert_eq!(sink.apply(&stream(vec![change("7", 9, "4")])).await.unwrap(), [Outcome::Skipped]);
}

#[tokio::test]
async fn many_changes_of_one_user_in_one_flight_stay_in_order() {
    let (redis, mut sink) = world().await;
    let mut subscriber = subscribe(redis.client().await, &["user_updates"]).await;
    let plans: Vec<KeyPlan> = (1..=500).map(|at| change("7", at, &at.to_string())).collect();
    let outcomes = sink.apply(&stream(plans)).await.unwrap();
    assert!(outcomes.iter().all(|outcome| *outcome == APPLIED));
    assert_eq!(redis.get("user_balance:live:7").await.as_deref(), Some("500"));
    let received = messages(&mut subscriber, 500).await;
    for (index, message) in received.iter().enumerate() {
        assert!(message.contains(&format!("\"at\":{},", index + 1)), "{message}");
    }
}
