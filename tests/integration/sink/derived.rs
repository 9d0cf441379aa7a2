//! Keys that are deleted by pattern.

use super::*;
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
