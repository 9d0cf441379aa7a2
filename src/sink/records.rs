//! Lockstep's own keys on each node, and reading of others for checks and comparisons.

use bytes::Bytes;

use super::lanes::Trouble;
use super::node::{Command, Node};
use super::reply::{NodeError, info_field};
use super::slots::{Address, Topology};
use super::{DEFAULT_SLOT, LoadMark, Sink};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::lsn::Lsn;

/// The epoch of the default slot's fences; and, no lower than that of any other, where a slot begins that has none.
const EPOCH_KEY: &str = "lockstep:epoch";
/// How often the epoch is raised that all slots share, where others raise it too.
const RAISE_ATTEMPTS: u32 = 16;

/// What Redis remembers of Lockstep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Records {
    /// One for each master.
    pub nodes: Vec<NodeRecord>,
    /// Where no node has a checkpoint, though there is an epoch: those that moved to other nodes with their slots. They
    /// prove nothing of a node, but tell of which history the fences are.
    pub moved: Vec<NodeRecord>,
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
    /// The highest that Redis itself shows for this slot; `None`: it was emptied, or is new.
    pub shown_epoch: Option<u32>,
}

impl Records {
    /// The first commit, as any checkpoint tells, behind which somebody may still write what he derived before it.
    pub fn unwatched(&self) -> Option<Lsn> {
        let checkpoints = self.nodes.iter().chain(&self.moved).filter_map(|node| node.checkpoint.as_ref());
        checkpoints.filter_map(|checkpoint| checkpoint.unwatched).min()
    }
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
    /// A node that does not answer, which [`Sink::state`] tells too: there may be no flight that would.
    pub async fn read_records(&mut self) -> Result<Records> {
        match self.try_to_read_records().await {
            Ok(records) => {
                self.report_connected();
                Ok(records)
            }
            Err(fault) => Err(self.tell_away(fault)),
        }
    }

    async fn try_to_read_records(&mut self) -> Result<Records> {
        if let Err(trouble) = self.lanes.connect_all().await {
            self.lanes.recover(&trouble).await;
            return Err(trouble.into());
        }
        let generation = self.generation();
        // In the opposite order of writing: who finds an epoch finds the checkpoint that was there before it.
        let epoch = number(self.read_record(self.epoch_key()).await?.as_ref());
        let nodes = self.read_checkpoints().await?;
        // Where there is no epoch either, Redis is new or was emptied.
        let moved = match epoch.is_some() && nodes.iter().all(|node| node.checkpoint.is_none()) {
            true => self.read_moved_checkpoints().await?,
            false => Vec::new(),
        };
        let of_checkpoints = nodes.iter().chain(&moved).map(|node| node.epoch).max().flatten();
        let shown_epoch = of_checkpoints.max(epoch);
        let mut epoch = shown_epoch.max(self.kept_epoch);
        if epoch.is_none() && self.epoch_key() != EPOCH_KEY {
            // Fences of other slots may be there, of another history even.
            epoch = number(self.read_record(EPOCH_KEY.to_owned()).await?.as_ref());
        }
        let quarantine = self.read_quarantine().await?;
        let records = Records {
            quarantine,
            nodes,
            moved,
            loaded: self.read_mark(LoadMark::Loaded).await?,
            load: self.read_mark(LoadMark::Progress).await?,
            asked: self.read_mark(LoadMark::Asked).await?,
            resync: self.read_mark(LoadMark::Resync).await?,
            epoch,
            shown_epoch,
        };
        self.other_epoch = 0;
        self.compared = generation;
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
        let key = self.epoch_key();
        if key != EPOCH_KEY {
            self.raise_shared_epoch(epoch).await?;
        }
        self.write_text(key, epoch.to_string()).await?;
        self.kept_epoch = Some(epoch);
        Ok(())
    }

    /// Of each slot its own: one that raises it, because Redis lost what it held of its users, raises no other's, whose
    /// fences would stop nothing any more.
    pub(super) fn epoch_key(&self) -> String {
        match self.slot.as_str() {
            DEFAULT_SLOT => EPOCH_KEY.to_owned(),
            slot => format!("{EPOCH_KEY}:{slot}"),
        }
    }

    async fn raise_shared_epoch(&mut self, epoch: u32) -> Result<()> {
        for _ in 0..RAISE_ATTEMPTS {
            let before = self.read_record(EPOCH_KEY.to_owned()).await?;
            if number(before.as_ref()) >= Some(epoch) {
                return Ok(());
            }
            let raised = Bytes::from(epoch.to_string());
            let key = Bytes::from_static(EPOCH_KEY.as_bytes());
            if self.lanes.keep(&key, before.unwrap_or_default(), raised).await?.utf8() == Some("OK") {
                return Ok(());
            }
        }
        Err(Error::transient("other slots raise the epoch of fences all the time", ""))
    }

    /// Address, checkpoint key and node id of each master.
    pub(super) fn checkpoint_keys(&self) -> Vec<(Address, Bytes, String)> {
        match self.lanes.topology() {
            Topology::Single(address) => {
                let key = format!("lockstep:checkpoint:{}", self.slot);
                vec![(address.clone(), key.into(), String::new())]
            }
            Topology::Cluster { masters, .. } => masters
                .iter()
                .filter_map(|master| {
                    let key = self.tagged_checkpoint_key(&master.tag()?);
                    Some((master.address.clone(), key.into(), master.id.clone()))
                })
                .collect(),
        }
    }

    /// The checkpoint of the node that owns the slot of this tag.
    pub(super) fn tagged_checkpoint_key(&self, tag: &str) -> String {
        format!("lockstep:checkpoint:{}:{{{tag}}}", self.slot)
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

fn number(text: Option<&Bytes>) -> Option<u32> {
    std::str::from_utf8(text?).ok()?.parse().ok()
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
