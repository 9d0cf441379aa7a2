//! Lockstep's own keys on each node, and reading of others for checks and comparisons.

use bytes::Bytes;

use super::lanes::{Trouble, info_field};
use super::node::{Command, Node};
use super::reply::NodeError;
use super::slots::{Address, Topology};
use super::{LoadMark, Sink};
use crate::checkpoint::Checkpoint;
use crate::error::Result;

/// The epoch of fences, one for all slots.
pub(super) const EPOCH_KEY: &str = "lockstep:epoch";

/// What Redis remembers of Lockstep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Records {
    /// One for each master.
    pub nodes: Vec<NodeRecord>,
    /// The marker of a finished load.
    pub loaded: Option<String>,
    /// How far an unfinished load came.
    pub load: Option<String>,
    /// Resyncs that were asked for and are not done.
    pub asked: Option<String>,
    /// How far the first of them came.
    pub resync: Option<String>,
    /// What could not be applied as written.
    pub quarantine: Option<String>,
    /// The highest epoch of fences that any node or this process knows.
    pub epoch: Option<u32>,
}

/// What one master remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// Where it listens.
    pub address: Address,
    /// Its checkpoint, if it has one.
    pub checkpoint: Option<Checkpoint>,
    /// Whether the node holds everything up to it: it wrote it, or took over from the one that did. Not where the key
    /// only moved here with its slot, nor where rows that were read beside the stream are lost.
    pub proves: bool,
    /// The epoch of fences when it was written.
    pub epoch: Option<u32>,
}

/// A master as `check` and `status` look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// Where it listens.
    pub address: Address,
    /// `redis_version`.
    pub version: String,
    /// `master` or `slave`.
    pub role: String,
    /// `maxmemory_policy`.
    pub eviction_policy: String,
    /// `maxmemory` in bytes; 0 is no bound.
    pub max_memory_bytes: u64,
    /// Replicas that are connected.
    pub replicas: u32,
    /// Whether it writes an append-only file.
    pub append_only: bool,
    /// `cluster_state`; `None` on a single Redis.
    pub cluster_state: Option<String>,
}

impl Sink {
    /// What Redis remembers of Lockstep; a record that cannot be read counts as absent.
    ///
    /// # Errors
    /// A node that does not answer.
    pub async fn read_records(&mut self) -> Result<Records> {
        if let Err(trouble) = self.lanes.connect_all().await {
            self.lanes.recover(&trouble).await;
            return Err(self.lanes.leaderless().cloned().unwrap_or_else(|| trouble.into()));
        }
        let generation = self.generation();
        // In the opposite order of writing: who finds an epoch finds the checkpoint that was there before it.
        let epoch = self.read_record(EPOCH_KEY.to_owned()).await?;
        let epoch = epoch.and_then(|text| std::str::from_utf8(&text).ok()?.parse().ok());
        let nodes = self.read_checkpoints().await?;
        let mut epochs: Vec<Option<u32>> = nodes.iter().map(|node| node.epoch).collect();
        epochs.extend([self.kept_epoch, epoch]);
        let quarantine = self.read_quarantine().await?;
        let records = Records {
            quarantine,
            nodes,
            loaded: self.read_mark(LoadMark::Loaded).await?,
            load: self.read_mark(LoadMark::Progress).await?,
            asked: self.read_mark(LoadMark::Asked).await?,
            resync: self.read_mark(LoadMark::Resync).await?,
            epoch: epochs.into_iter().flatten().max(),
        };
        self.other_epoch = 0;
        self.compared = generation;
        self.report_connected();
        Ok(records)
    }

    /// Begins a new database history: every later fence is past every earlier one. Nothing counts as written in it
    /// before Redis keeps it.
    pub fn begin_epoch(&mut self, epoch: u32) {
        self.epoch = Some(epoch);
    }

    /// Has Redis keep the epoch, beside the checkpoints, which keep it too.
    ///
    /// # Errors
    /// The node's.
    pub async fn write_epoch(&mut self, epoch: u32) -> Result<()> {
        self.begin_epoch(epoch);
        self.write_text(EPOCH_KEY.to_owned(), epoch.to_string()).await?;
        self.kept_epoch = Some(epoch);
        Ok(())
    }

    /// Address, checkpoint key and node id of each master.
    pub(super) fn checkpoint_keys(&self) -> Vec<(Address, Bytes, String)> {
        let name = format!("lockstep:checkpoint:{}", self.slot);
        match self.lanes.topology() {
            Topology::Single(address) => vec![(address.clone(), name.into(), String::new())],
            Topology::Cluster { masters, .. } => masters
                .iter()
                .filter_map(|master| {
                    let key = format!("{name}:{{{}}}", master.tag()?);
                    Some((master.address.clone(), key.into(), master.id.clone()))
                })
                .collect(),
        }
    }

    /// What a key holds; one of another type counts as absent.
    pub(super) async fn read_record(&mut self, key: String) -> Result<Option<Bytes>> {
        match self.lanes.call(key.as_bytes(), get(key.clone().into())).await {
            Ok(reply) => Ok(reply.text().cloned()),
            Err(Trouble { error: NodeError::WrongType, .. }) => Ok(None),
            Err(trouble) => Err(trouble.into()),
        }
    }

    async fn write_text(&mut self, key: String, value: String) -> Result<()> {
        let command = Command::new("SET", vec![key.clone().into(), value.into()]);
        self.lanes.call(key.as_bytes(), command).await?;
        Ok(())
    }

    /// Every node answers a PING.
    ///
    /// # Errors
    /// The first that does not.
    pub async fn ping(&mut self) -> Result<()> {
        for address in self.lanes.topology().masters() {
            self.lanes.ask(&address, Command::fixed("PING", &[])).await?;
        }
        Ok(())
    }

    /// What `INFO` says of every master.
    ///
    /// # Errors
    /// The first node that does not answer.
    pub async fn server_facts(&mut self) -> Result<Vec<NodeFacts>> {
        let mut facts = Vec::new();
        for address in self.lanes.topology().masters() {
            let cluster = self.lanes.topology().is_cluster();
            let node = &self.lanes.open(&address).await?.node;
            facts.push(node_facts(node, cluster).await.map_err(|error| error.at(&address))?);
        }
        Ok(facts)
    }
}

fn get(key: Bytes) -> Command {
    Command::new("GET", vec![key])
}

async fn node_facts(node: &Node, cluster: bool) -> std::result::Result<NodeFacts, NodeError> {
    let info = node.call(Command::fixed("INFO", &[])).await?;
    let field = |name: &str| info_field(&info, name).unwrap_or_default().to_owned();
    let cluster_state = match cluster {
        true => {
            let state = node.call(Command::fixed("CLUSTER", &["INFO"])).await?;
            info_field(&state, "cluster_state").map(str::to_owned)
        }
        false => None,
    };
    Ok(NodeFacts {
        address: node.address().clone(),
        version: field("redis_version"),
        role: field("role"),
        eviction_policy: field("maxmemory_policy"),
        max_memory_bytes: field("maxmemory").parse().unwrap_or(0),
        replicas: field("connected_slaves").parse().unwrap_or(0),
        append_only: field("aof_enabled") == "1",
        cluster_state,
    })
}
