//! Lockstep's own keys on each node, and reading of others for checks and comparisons.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Sink;
use super::lanes::{Trouble, info_field};
use super::node::{Command, Node};
use super::reply::{NodeError, Reply};
use super::slots::{Address, Topology};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::lsn::Lsn;

/// The epoch of fences, one for all slots.
const EPOCH_KEY: &str = "lockstep:epoch";

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
    /// Whether another node wrote that checkpoint: this one took over from it, or its slots moved here.
    pub inherited: bool,
}

/// The records about loads; values are the caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadMark {
    /// `lockstep:loaded:<slot>`: the load is finished.
    Loaded,
    /// `lockstep:load:<slot>`: how far it came.
    Progress,
    /// `lockstep:asked:<slot>`: the resyncs that were asked for.
    Asked,
    /// `lockstep:resync:<slot>`: how far the first of them came.
    Resync,
}

impl LoadMark {
    fn key(self, slot: &str) -> String {
        match self {
            LoadMark::Loaded => format!("lockstep:loaded:{slot}"),
            LoadMark::Progress => format!("lockstep:load:{slot}"),
            LoadMark::Asked => format!("lockstep:asked:{slot}"),
            LoadMark::Resync => format!("lockstep:resync:{slot}"),
        }
    }
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
    /// `cluster_state`; `None` on a single Redis.
    pub cluster_state: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct StoredCheckpoint {
    slot: String,
    system_id: String,
    timeline: u32,
    applied: String,
    node: String,
    /// The key of the epoch lies on one node of a cluster, which may forget it.
    #[serde(default)]
    epoch: Option<u32>,
}

/// Whether every node took a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    /// It did.
    Everywhere,
    /// One no longer held the checkpoint before it, so it lost what it held, and took none.
    Lost,
}

impl Sink {
    /// What Redis remembers of Lockstep; a record that cannot be read counts as absent.
    ///
    /// # Errors
    /// A node that does not answer.
    pub async fn read_records(&mut self) -> Result<Records> {
        if let Err(trouble) = self.lanes.connect_all().await {
            self.lanes.recover(&trouble).await;
            return Err(trouble.into());
        }
        let generation = self.lanes.generation();
        let (mut nodes, mut epochs) = (Vec::new(), vec![self.epoch]);
        self.held.clear();
        for (address, key, id) in self.checkpoint_keys() {
            let text = match self.lanes.ask(&address, get(key.clone())).await {
                Ok(reply) => reply.text().cloned(),
                Err(Trouble { error: NodeError::WrongType, .. }) => None,
                Err(trouble) => return Err(trouble.into()),
            };
            let stored: Option<StoredCheckpoint> =
                text.as_ref().and_then(|text| serde_json::from_slice(text).ok());
            self.held.extend(text.map(|text| (key, text)));
            epochs.extend(stored.as_ref().map(|stored| stored.epoch));
            let inherited = stored.as_ref().is_some_and(|stored| stored.node != id);
            let checkpoint = stored.and_then(|stored| {
                let applied: Lsn = stored.applied.parse().ok()?;
                let StoredCheckpoint { slot, system_id, timeline, .. } = stored;
                Some(Checkpoint { slot, system_id, timeline, applied })
            });
            nodes.push(NodeRecord { address, checkpoint, inherited });
        }
        epochs.push(self.read_text(EPOCH_KEY.to_owned()).await?.and_then(|text| text.parse().ok()));
        let quarantine = self.read_quarantine().await?;
        let records = Records {
            quarantine,
            nodes,
            loaded: self.read_text(LoadMark::Loaded.key(&self.slot)).await?,
            load: self.read_text(LoadMark::Progress.key(&self.slot)).await?,
            asked: self.read_text(LoadMark::Asked.key(&self.slot)).await?,
            resync: self.read_text(LoadMark::Resync.key(&self.slot)).await?,
            epoch: epochs.into_iter().flatten().max(),
        };
        self.compared = generation;
        self.report_connected();
        Ok(records)
    }

    /// Writes or, with `None`, removes a record about loads.
    ///
    /// # Errors
    /// The node's.
    pub async fn write_mark(&mut self, mark: LoadMark, value: Option<&str>) -> Result<()> {
        let key = mark.key(&self.slot);
        match value {
            Some(value) => self.write_text(key, value.to_owned()).await,
            None => {
                let command = Command::new("DEL", vec![key.clone().into()]);
                self.lanes.call(key.as_bytes(), command).await?;
                Ok(())
            }
        }
    }

    /// Begins a new database history: every later fence is past every earlier one.
    ///
    /// # Errors
    /// The node's; then the epoch is as before.
    pub async fn write_epoch(&mut self, epoch: u32) -> Result<()> {
        self.write_text(EPOCH_KEY.to_owned(), epoch.to_string()).await?;
        self.epoch = Some(epoch);
        Ok(())
    }

    /// Removes every record of this slot; fences and the epoch stay.
    ///
    /// # Errors
    /// The first node's that does not answer.
    pub async fn remove_records(&mut self) -> Result<()> {
        for mark in [LoadMark::Loaded, LoadMark::Progress, LoadMark::Asked, LoadMark::Resync] {
            self.write_mark(mark, None).await?;
        }
        for key in self.lease_keys().into_iter().chain([self.quarantine_key()]) {
            self.lanes.call(key.clone().as_bytes(), Command::new("DEL", vec![key.into()])).await?;
        }
        for (address, key, _) in self.checkpoint_keys() {
            self.lanes.ask(&address, Command::new("DEL", vec![key])).await?;
        }
        Ok(())
    }

    /// Writes a checkpoint to every node, over the one that was read or written there last and over no other.
    ///
    /// FLUSHALL breaks no connection, and neither does a replica's copy of older data: the missing checkpoint
    /// is what tells.
    pub(super) async fn store_checkpoint(
        &mut self,
        checkpoint: &Checkpoint,
    ) -> std::result::Result<Stored, Trouble> {
        for (address, key, id) in self.checkpoint_keys() {
            let stored = StoredCheckpoint {
                slot: checkpoint.slot.clone(),
                system_id: checkpoint.system_id.clone(),
                timeline: checkpoint.timeline,
                applied: checkpoint.applied.to_string(),
                node: id,
                epoch: self.epoch,
            };
            let text = Bytes::from(serde_json::to_vec(&stored).unwrap_or_default());
            let command = match self.held.get(&key) {
                Some(before) => {
                    let scripts = &self.lanes.open(&address).await?.scripts;
                    scripts.keep(key.clone(), before.clone(), text.clone())
                }
                None => Command::new("SET", vec![key.clone(), text.clone()]),
            };
            if self.lanes.ask(&address, command).await? == Reply::Nil {
                return Ok(self.lost(&address));
            }
            self.held.insert(key, text);
        }
        Ok(Stored::Everywhere)
    }

    pub(super) fn lost(&mut self, address: &Address) -> Stored {
        tracing::warn!(%address, "redis lost what it held, though it stayed connected");
        self.lanes.doubt();
        Stored::Lost
    }

    /// Address, checkpoint key and node id of each master.
    fn checkpoint_keys(&self) -> Vec<(Address, Bytes, String)> {
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

    async fn read_text(&mut self, key: String) -> Result<Option<String>> {
        let reply = self.lanes.call(key.as_bytes(), get(key.clone().into())).await?;
        Ok(reply.utf8().map(str::to_owned))
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
        cluster_state,
    })
}
