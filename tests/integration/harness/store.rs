//! One Redis or a cluster, for tests that do not care which.

use std::collections::BTreeMap;

use super::redis::pairs;
use super::resp::{Reply, slot_of};
use super::{Cluster, Redis, RedisOptions};

/// On what a test runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    Single,
    Cluster,
}

/// The Redis side of a world.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one of it in a test")]
pub enum Store {
    Single(Redis),
    Cluster(Cluster),
}

impl Store {
    pub async fn start(on: On, options: RedisOptions) -> Store {
        match on {
            On::Single => Store::Single(Redis::start(options).await),
            On::Cluster => Store::Cluster(Cluster::start_with(options).await),
        }
    }

    /// For the configuration.
    pub fn urls(&self) -> Vec<String> {
        match self {
            Store::Single(redis) => vec![redis.url()],
            Store::Cluster(cluster) => cluster.urls(),
        }
    }

    pub fn single(&self) -> &Redis {
        match self {
            Store::Single(redis) => redis,
            Store::Cluster(_) => panic!("this test is for one Redis"),
        }
    }

    pub fn cluster(&self) -> &Cluster {
        match self {
            Store::Cluster(cluster) => cluster,
            Store::Single(_) => panic!("this test is for a cluster"),
        }
    }

    /// A node to subscribe on: the bus of a cluster carries every publish to every node.
    pub fn any_node(&self) -> &Redis {
        match self {
            Store::Single(redis) => redis,
            Store::Cluster(cluster) => cluster.nodes().iter().find(|node| node.is_running()).expect("a node"),
        }
    }

    pub async fn masters(&self) -> Vec<&Redis> {
        match self {
            Store::Single(redis) => vec![redis],
            Store::Cluster(cluster) => cluster.masters().await.into_iter().map(|n| cluster.node(n)).collect(),
        }
    }

    /// One command on the node of `key`.
    pub async fn call(&self, key: &str, command: &[&str]) -> Reply {
        match self {
            Store::Single(redis) => redis.call(command).await,
            Store::Cluster(cluster) => cluster.call(key, command).await,
        }
    }

    pub async fn get(&self, key: &str) -> Option<String> {
        self.call(key, &["GET", key]).await.text()
    }

    pub async fn set(&self, key: &str, value: &str) {
        self.call(key, &["SET", key, value]).await;
    }

    pub async fn hash(&self, key: &str) -> BTreeMap<String, String> {
        pairs(&self.call(key, &["HGETALL", key]).await)
    }

    pub async fn hset(&self, key: &str, field: &str, value: &str) {
        self.call(key, &["HSET", key, field, value]).await;
    }

    pub async fn exists(&self, key: &str) -> bool {
        self.call(key, &["EXISTS", key]).await == Reply::Integer(1)
    }

    /// Seconds to live; negative as Redis has it.
    pub async fn ttl(&self, key: &str) -> i64 {
        match self.call(key, &["TTL", key]).await {
            Reply::Integer(seconds) => seconds,
            other => panic!("TTL {key}: {other:?}"),
        }
    }

    /// Every key that matches the glob pattern.
    pub async fn keys(&self, pattern: &str) -> Vec<String> {
        let mut keys = Vec::new();
        for node in self.masters().await {
            keys.extend(node.call(&["KEYS", pattern]).await.texts());
        }
        keys
    }

    /// Many reads, each `[command, key]`, in one go; answers in their order.
    pub async fn read_all(&self, reads: &[[String; 2]]) -> Vec<Reply> {
        let groups: Vec<Vec<usize>> = match self {
            Store::Single(_) => vec![(0..reads.len()).collect()],
            Store::Cluster(cluster) => by_node(cluster, reads).await,
        };
        let mut replies = vec![Reply::Nil; reads.len()];
        for (node, group) in groups.into_iter().enumerate().filter(|(_, group)| !group.is_empty()) {
            let redis = match self {
                Store::Single(redis) => redis,
                Store::Cluster(cluster) => cluster.node(node),
            };
            let commands: Vec<Vec<&str>> =
                group.iter().map(|n| reads[*n].iter().map(String::as_str).collect()).collect();
            let answers = redis.client().await.pipeline(&commands).await.expect("answers");
            for (n, answer) in group.into_iter().zip(answers) {
                replies[n] = answer;
            }
        }
        replies
    }
}

async fn by_node(cluster: &Cluster, reads: &[[String; 2]]) -> Vec<Vec<usize>> {
    let served = cluster.slots().await;
    let mut groups = vec![Vec::new(); cluster.nodes().len()];
    for (n, [_, key]) in reads.iter().enumerate() {
        let slot = slot_of(key);
        let range = served.iter().find(|(range, _)| range.contains(&slot)).expect("a served slot");
        groups[range.1].push(n);
    }
    groups
}
