//! What is read over the connections on which Redis announces what is written.

use lockstep::keyplan::Timed;
use lockstep::sink::{Announced, Expectation, Tracker};

use super::*;
use crate::harness::{Line, Proxy, Redis, RedisOptions};

#[tokio::test]
async fn where_a_node_is_silent_nothing_counts_as_held_though_nothing_was_announced() {
    let redis = Redis::start(RedisOptions::default()).await;
    let proxy = Proxy::start(redis.port()).await;
    let mut sink = connect(&[format!("redis://127.0.0.1:{}", proxy.port())]).await;
    let written = change("7", 1, "1");
    let left = Arc::new(Expectation::of(&written, &Timed::default(), &mut None));
    assert_eq!(sink.apply(&stream(vec![written])).await.unwrap(), [APPLIED]);
    let tracker = Tracker::start(&sink.way(), vec!["user".into()], |_| {}).await.unwrap();
    let reader = tracker.reader();
    let known = [(Arc::clone(&left), Announced::Unknown), (left, Announced::default())];
    assert_eq!(reader.holds(&known).await, [true, true]);
    // What nobody announced is not read: only an interruption would say that it may be another.
    redis.call(&["SET", "user_balance:live:7", "9"]).await;
    assert_eq!(reader.holds(&known).await, [false, true]);
    proxy.set(Line::Silent);
    assert_eq!(reader.holds(&known).await, [false, false]);
}
