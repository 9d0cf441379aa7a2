//! One Redis, or a cluster of three masters.

use std::path::Path;
use std::time::{Duration, Instant};

use fred::clients::Client;
use fred::interfaces::ClientLike;
use fred::types::Builder;
use fred::types::config::{Config, ServerConfig};

use super::process::{Account, LOOK_EVERY, Process, guarded};
use super::servers::{Redis, redis_cli};
use crate::error::{Error, Result};

/// Masters of a cluster.
const MASTERS: usize = 3;
/// How long the nodes may take to agree on who serves which slot.
const AGREEMENT: Duration = Duration::from_secs(60);
/// Messages that wait for the subscriber; fred drops the oldest beyond.
const SUBSCRIBER_QUEUE: usize = 65_536;

/// How many servers there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One, on its own.
    Single,
    /// Three masters, each with so many replicas.
    Cluster {
        /// Replicas of each master.
        replicas: usize,
    },
}

/// What Lockstep writes to.
#[derive(Debug)]
pub struct RedisSide {
    nodes: Vec<Redis>,
}

impl RedisSide {
    /// Starts one server, or those that form a cluster.
    pub async fn start(folder: &Path, account: Account, layout: Layout) -> Result<RedisSide> {
        let Layout::Cluster { replicas } = layout else {
            return Ok(RedisSide { nodes: vec![Redis::start(folder, account, false).await?] });
        };
        let mut nodes = Vec::new();
        for _ in 0..MASTERS * (1 + replicas) {
            nodes.push(Redis::start(folder, account, true).await?);
        }
        let mut create = guarded("redis-cli", Account::Own, "KILL");
        create.args(["--cluster", "create"]);
        create.args(nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())));
        create.args(["--cluster-replicas", &replicas.to_string(), "--cluster-yes"]);
        let log = folder.join("redis-cluster.log");
        Process::spawn("redis-cli --cluster create", create, log, "KILL")?.finishes().await?;
        let side = RedisSide { nodes };
        side.agrees().await?;
        Ok(side)
    }

    /// Every node knows that all slots are served, and every replica has its master's data.
    async fn agrees(&self) -> Result<()> {
        let deadline = Instant::now() + AGREEMENT;
        let all = format!("cluster_known_nodes:{}", self.nodes.len());
        for port in self.ports() {
            loop {
                let state = redis_cli(port, &["cluster", "info"]).unwrap_or_default();
                let role = redis_cli(port, &["info", "replication"]).unwrap_or_default();
                let linked = role.contains("role:master") || role.contains("master_link_status:up");
                if linked && state.contains("cluster_state:ok") && state.contains(&all) {
                    break;
                }
                if Instant::now() >= deadline {
                    return Err(Error::definite("the Redis Cluster does not come up", "try again"));
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// Ports on 127.0.0.1, masters first.
    pub fn ports(&self) -> impl Iterator<Item = u16> + '_ {
        self.nodes.iter().map(Redis::port)
    }

    /// The servers' process ids, in the order of the ports.
    pub fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.nodes.iter().map(Redis::id)
    }

    /// Whether there is more than one node.
    pub fn is_cluster(&self) -> bool {
        self.nodes.len() > 1
    }

    /// URLs as the configuration takes them.
    pub fn urls(&self) -> Vec<String> {
        let scheme = if self.is_cluster() { "redis-cluster" } else { "redis" };
        self.ports().map(|port| format!("{scheme}://127.0.0.1:{port}")).collect()
    }

    /// A client for all keys.
    pub async fn client(&self) -> Result<Client> {
        let hosts: Vec<(String, u16)> = self.ports().map(|port| ("127.0.0.1".to_owned(), port)).collect();
        let server = match (self.is_cluster(), hosts.first()) {
            (false, Some((host, port))) => ServerConfig::new_centralized(host.clone(), *port),
            _ => ServerConfig::new_clustered(hosts),
        };
        connect(server).await
    }

    /// A client of one node, which hears every channel: Redis Cluster tells all nodes of a PUBLISH.
    pub async fn listener(&self) -> Result<Client> {
        let port = self.ports().next().unwrap_or_default();
        connect(ServerConfig::new_centralized("127.0.0.1", port)).await
    }
}

async fn connect(server: ServerConfig) -> Result<Client> {
    let mut builder = Builder::from_config(Config { server, ..Config::default() });
    builder.with_performance_config(|limits| limits.broadcast_channel_capacity = SUBSCRIBER_QUEUE);
    let client = builder.build().map_err(redis)?;
    client.init().await.map_err(redis)?;
    Ok(client)
}

/// An error of the Redis commands that are not Lockstep's.
pub fn redis(error: fred::error::Error) -> Error {
    Error::definite(format!("redis: {error}"), "")
}
