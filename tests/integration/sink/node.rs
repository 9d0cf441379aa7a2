//! One connection to one server.

use lockstep::sink::node::{Command, Login, Node};
use lockstep::sink::slots::Address;

use super::*;
use crate::harness::{Redis, RedisOptions};

#[tokio::test]
async fn what_is_started_first_is_executed_first_however_many_commands_it_is() {
    let redis = Redis::start(RedisOptions::default()).await;
    let node = node_of(&redis).await;
    let append = |text: &str| Command::new("APPEND", vec!["all".into(), Bytes::from(text.to_owned())]);
    let many = node.start(vec![append("a"); 500]).await;
    let one = node.start(vec![append("b")]).await;
    let (many, one) = (many.replies().await, one.replies().await);
    assert!(many.iter().chain(&one).all(Result::is_ok));
    let all = redis.call(&["GET", "all"]).await.text().unwrap();
    assert_eq!(all, "a".repeat(500) + "b");
}

/// Each write wakes Redis, and a server that is woken for each of a thousand commands does little else.
#[tokio::test]
async fn reads_and_deletes_that_are_sent_together_share_writes() {
    const READ_OR_DELETE: [(&str, &[&str]); 6] = [
        ("EXISTS", &["a"]),
        ("GET", &["a"]),
        ("HGET", &["a", "balance"]),
        ("HMGET", &["a", "balance", "email"]),
        ("MGET", &["a", "b"]),
        ("UNLINK", &["a"]),
    ];
    let redis = Redis::start(RedisOptions::default()).await;
    let node = node_of(&redis).await;
    for (name, args) in READ_OR_DELETE {
        let before = writes();
        let replies = node.send(vec![Command::fixed(name, args); 60]).await;
        assert!(replies.len() == 60 && replies.iter().all(Result::is_ok), "{name}: {replies:?}");
        let writes = writes() - before;
        assert!(writes < 10, "{name}: sixty commands were {writes} writes");
    }
}

async fn node_of(redis: &Redis) -> Node {
    let login = Login::new(&config::Redis::parse(&[redis.url()]).unwrap()).unwrap();
    Node::connect(&Address::new("127.0.0.1", redis.port()), &login, 0).await.unwrap()
}

/// How often this thread has written, on which the connection is driven too: `proc(5)`.
fn writes() -> u64 {
    let counters = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    let line = counters.lines().find_map(|line| line.strip_prefix("syscw:"));
    line.unwrap().trim().parse().unwrap()
}
