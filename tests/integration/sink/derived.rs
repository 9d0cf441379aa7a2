//! Keys that are deleted by pattern.

use super::*;
use crate::harness::redis::readme_user;
use crate::harness::{Redis, RedisOptions, eventually};

#[tokio::test]
async fn keys_from_before_the_start_and_from_now_are_deleted_and_neighbours_spared() {
    let redis = Redis::start(RedisOptions::default()).await;
    for key in ["12:a", "12:b", "123:a", "1:a", "*:a", "[1]2:a"] {
        redis.call(&["SET", &format!("financial_summary:live:{key}"), "1"]).await;
    }
    let mut sink = connect(&[redis.url()]).await;
    sink.apply(&stream(vec![change("12", 1, "1")])).await.unwrap();
    assert!(!redis.exists("financial_summary:live:12:a").await);
    assert!(!redis.exists("financial_summary:live:12:b").await);
    for spared in ["123:a", "1:a", "*:a", "[1]2:a"] {
        assert!(redis.exists(&format!("financial_summary:live:{spared}")).await, "{spared}");
    }
    sink.apply(&stream(vec![change("*", 2, "1")])).await.unwrap();
    assert!(!redis.exists("financial_summary:live:*:a").await);
    assert!(redis.exists("financial_summary:live:123:a").await);
}

#[tokio::test]
async fn a_key_written_while_running_is_deleted_by_the_next_change() {
    let redis = Redis::start(RedisOptions::default()).await;
    let mut sink = connect(&[redis.url()]).await;
    let mut at = 0;
    for round in 0..3 {
        redis.call(&["SET", &format!("financial_summary:live:7:{round}"), "1"]).await;
        eventually("the key is gone", async || {
            at += 1;
            sink.apply(&stream(vec![change("7", at, "1")])).await.unwrap();
            (!redis.exists(&format!("financial_summary:live:7:{round}")).await).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn keys_written_while_the_connection_was_cut_are_found_again() {
    let redis = Redis::start(RedisOptions { append_only: true, ..RedisOptions::default() }).await;
    let mut sink = connect(&[redis.url()]).await;
    sink.apply(&stream(vec![change("7", 1, "1")])).await.unwrap();
    redis.call(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    redis.call(&["SET", "financial_summary:live:7:x", "1"]).await;
    sink.apply(&stream(vec![change("7", 2, "1")])).await.unwrap();
    assert!(!redis.exists("financial_summary:live:7:x").await);
}

#[tokio::test]
async fn a_key_that_a_replay_was_not_to_delete_is_deleted_by_the_next_change() {
    let redis = Redis::start(RedisOptions::default()).await;
    connect(&[redis.url()]).await.apply(&stream(vec![change("7", 10, "1")])).await.unwrap();
    redis.call(&["SET", "financial_summary:live:7:day", "of the change at 10"]).await;
    let mut sink = connect(&[redis.url()]).await;
    assert_eq!(sink.apply(&stream(vec![change("7", 10, "1")])).await.unwrap(), [Outcome::Skipped]);
    assert_eq!(sink.apply(&stream(vec![change("7", 11, "2")])).await.unwrap(), [APPLIED]);
    assert!(!redis.exists("financial_summary:live:7:day").await);
}

/// A change that deletes the keys of the pattern only where the second watched column changed.
fn change_of_group(at: u64, group: &'static str) -> KeyPlan {
    let mut plan = change("7", at, &at.to_string());
    plan.watched.push(Some(group.into()));
    for step in &mut plan.steps {
        if let Step::DeletePattern { guard, .. } = step {
            *guard = Guard { any_changed: 2, ..Guard::ALWAYS };
        }
    }
    plan
}

#[tokio::test]
async fn a_key_outlives_the_changes_that_are_not_its_own_and_no_other() {
    let redis = Redis::start(RedisOptions::default()).await;
    let key = "financial_summary:live:7:day";
    connect(&[redis.url()]).await.apply(&stream(vec![change_of_group(1, "gold")])).await.unwrap();
    redis.call(&["SET", key, "of gold"]).await;
    let mut sink = connect(&[redis.url()]).await;
    for at in 2..5 {
        sink.apply(&stream(vec![change_of_group(at, "gold")])).await.unwrap();
        assert!(redis.exists(key).await, "the group did not change at {at}");
    }
    // A replay does not know whether the group changed.
    sink.apply(&stream(vec![change_of_group(4, "gold")])).await.unwrap();
    sink.apply(&stream(vec![change_of_group(5, "silver")])).await.unwrap();
    assert!(!redis.exists(key).await, "the group changed");
}

/// The end of the process may have come between a plan and the keys that were announced meanwhile.
#[tokio::test]
async fn a_replay_deletes_what_the_first_time_may_have_left_as_soon_as_it_can() {
    let redis = Redis::start(RedisOptions { acl: vec![readme_user()], ..RedisOptions::default() }).await;
    let url = format!("redis://lockstep:PASSWORD@127.0.0.1:{}", redis.port());
    connect(&[&url]).await.apply(&stream(vec![change("7", 10, "1")])).await.unwrap();
    redis.call(&["SET", "financial_summary:live:7:day", "of before"]).await;
    let mut sink = connect(&[&url]).await;
    let mut state = sink.state();
    redis.call(&["ACL", "SETUSER", "lockstep", "-unlink"]).await;
    let applied = tokio::spawn(async move { sink.apply(&stream(vec![change("7", 10, "1")])).await });
    assert!(eventually_retrying(&mut state).await.contains("NOPERM"));
    redis.call(&["ACL", "SETUSER", "lockstep", "+unlink"]).await;
    assert_eq!(applied.await.unwrap().unwrap(), [Outcome::Skipped]);
    assert!(!redis.exists("financial_summary:live:7:day").await);
}

#[tokio::test]
async fn patterns_whose_texts_overlap_are_followed_together() {
    let redis = Redis::start(RedisOptions::default()).await;
    let settings = config::Redis::parse(&[redis.url()]).unwrap();
    let heads = ["financial_summary:daily:", "financial_summary:", "financial_summary:", "fin", "other:"];
    let mut sink = connect_following(&settings, &heads).await.unwrap();
    redis.call(&["SET", "financial_summary:live:7:day", "1"]).await;
    let mut state = sink.state();
    tokio::select! {
        outcomes = async { sink.apply(&stream(vec![change("7", 1, "1")])).await } => {
            assert_eq!(outcomes.unwrap(), [APPLIED]);
        }
        fault = eventually_retrying(&mut state) => panic!("{fault}"),
    }
    assert!(!redis.exists("financial_summary:live:7:day").await);
}
