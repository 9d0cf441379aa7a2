//! One connection to one server.

use lockstep::sink::node::{Command, Login, Node};
use lockstep::sink::slots::Address;

use super::*;
use crate::harness::{Redis, RedisOptions};

#[tokio::test]
async fn what_is_started_first_is_executed_first_however_many_commands_it_is() {
    let redis = Redis::start(RedisOptions::default()).await;
    let address = Address::new("127.0.0.1", redis.port());
    let login = Login::new(&config::Redis::parse(&[redis.url()]).unwrap()).unwrap();
    let node = Node::connect(&address, &login, 0).await.unwrap();
    let append = |text: &str| Command::new("APPEND", vec!["all".into(), Bytes::from(text.to_owned())]);
    let many = node.start(vec![append("a"); 500]).await;
    let one = node.start(vec![append("b")]).await;
    let (many, one) = (many.replies().await, one.replies().await);
    assert!(many.iter().chain(&one).all(Result::is_ok));
    let all = redis.call(&["GET", "all"]).await.text().unwrap();
    assert_eq!(all, "a".repeat(500) + "b");
}
