//! The checkpoint on every node: read and compared, written over the one before, and kept as the durability asks.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;

use super::Sink;
use super::lanes::Trouble;
use super::node::Command;
use super::proof::{Life, StoredCheckpoint};
use super::records::NodeRecord;
use super::reply::{NodeError, Reply};
use super::seeds::Role;
use super::slots::{Address, Master, Topology};
use crate::checkpoint::Checkpoint;
use crate::config::Durability;
use crate::error::{Fault, Result};
use crate::lsn::Lsn;

/// Longest time that replicas or the disk are waited for at a checkpoint: nothing else goes to that node meanwhile.
const KEEP_TIMEOUT: Duration = Duration::from_millis(500);

/// How many tags for each master are looked through for checkpoints that moved: of so many it owns the first but for one
/// time in hundreds.
const TAGS_PER_MASTER: usize = 16;

/// What is known of the nodes' checkpoints.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// By the key, each as it was read or written last.
    held: HashMap<Bytes, Bytes>,
    /// The life that each node leads.
    lives: HashMap<Address, Life>,
    /// By the key, an older one that was put in place of ours while we went on writing.
    replaced: HashMap<Bytes, Bytes>,
    /// Flights of rows that were written beside the stream, as far as anybody knows.
    rows: u64,
}

impl Kept {
    /// Whether no node is known to have held one.
    pub(super) fn nothing(&self) -> bool {
        self.held.is_empty()
    }

    /// Rows that no stream would bring again were written.
    pub(super) fn count_rows(&mut self) {
        self.rows += 1;
    }
}

/// Whether every node took a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stored {
    /// It did.
    Everywhere,
    /// It did, but one of them does not yet keep it as it is to be kept.
    Unkept(Fault),
    /// One no longer held the checkpoint before it, so it lost what it held, and took none.
    Lost,
}

impl Sink {
    /// Reads every node's checkpoint, and what it proves.
    ///
    /// # Errors
    /// A node that does not answer.
    pub(super) async fn read_checkpoints(&mut self) -> Result<Vec<NodeRecord>> {
        let (mut read, mut held, mut lives) = (Vec::new(), HashMap::new(), HashMap::new());
        for (address, key, id) in self.checkpoint_keys() {
            let (text, life) = self.read_node(&address, &key).await?;
            let stored: Option<StoredCheckpoint> =
                text.as_ref().and_then(|text| serde_json::from_slice(text).ok());
            self.kept.rows = self.kept.rows.max(stored.as_ref().map_or(0, |stored| stored.rows));
            let replaced = text.is_some() && self.kept.replaced.get(&key) == text.as_ref();
            held.extend(text.map(|text| (key, text)));
            lives.insert(address.clone(), life.clone());
            read.push((address, id, stored, life, replaced));
        }
        (self.kept.held, self.kept.lives) = (held, lives);
        let mut nodes = Vec::new();
        for (address, id, stored, life, replaced) in read {
            let epoch = stored.as_ref().and_then(|stored| stored.epoch);
            let proves = stored.as_ref().is_some_and(|stored| stored.proves(&id, &life, self.kept.rows));
            let checkpoint = stored.and_then(checkpoint);
            nodes.push(NodeRecord { address, checkpoint, proves: proves && !replaced, epoch });
        }
        Ok(nodes)
    }

    /// Reads the checkpoints that are under the names of other owners of slots: each node's is under the first tag that
    /// it owns.
    ///
    /// # Errors
    /// A node that does not answer.
    pub(super) async fn read_moved_checkpoints(&mut self) -> Result<Vec<NodeRecord>> {
        let Topology::Cluster { masters, .. } = self.lanes.topology() else { return Ok(Vec::new()) };
        let (masters, tags) = (masters.clone(), 0..masters.len() * TAGS_PER_MASTER);
        let keys: Vec<Bytes> = tags.map(|tag| self.tagged_checkpoint_key(&tag.to_string()).into()).collect();
        let mut moved = Vec::new();
        for Master { address, .. } in masters {
            let topology = self.lanes.topology();
            let of_node = keys.iter().filter(|key| topology.owner(topology.slot(key)) == Some(&address));
            let questions = of_node.map(|key| Command::new("GET", vec![key.clone()])).collect();
            for answer in self.lanes.open(&address).await?.node.send(questions).await {
                let text = match answer {
                    Ok(reply) => reply.text().cloned(),
                    // A slot that is on its way just now: what is not there any more is looked for by nobody.
                    Err(NodeError::WrongType | NodeError::Ask { .. }) => None,
                    Err(error) => {
                        let trouble = Trouble { address, error };
                        self.lanes.recover(&trouble).await;
                        return Err(trouble.into());
                    }
                };
                let stored = text.and_then(|text| serde_json::from_slice::<StoredCheckpoint>(&text).ok());
                moved.extend(stored.map(|stored| NodeRecord {
                    address: address.clone(),
                    epoch: stored.epoch,
                    checkpoint: checkpoint(stored),
                    proves: false,
                }));
            }
        }
        Ok(moved)
    }

    async fn read_node(&mut self, address: &Address, key: &Bytes) -> Result<(Option<Bytes>, Life)> {
        let text = match self.lanes.ask(address, Command::new("GET", vec![key.clone()])).await {
            Ok(reply) => reply.text().cloned(),
            Err(Trouble { error: NodeError::WrongType, .. }) => None,
            Err(trouble) => return Err(trouble.into()),
        };
        let server = self.lanes.ask(address, Command::fixed("INFO", &["SERVER"])).await?;
        let replication = self.lanes.ask(address, Command::fixed("INFO", &["REPLICATION"])).await?;
        Ok((text, Life::read(&server, &replication)))
    }

    /// Whether a connection that was made again leads to the same process, in the same history, with the checkpoint that
    /// was written there last: then nothing is lost, and all goes on. Not before every node answers, one that loads its
    /// data included.
    pub(super) async fn lost_nothing(&mut self) -> std::result::Result<bool, Trouble> {
        let doubted = self.generation();
        let mut same = true;
        for (address, key, _) in self.checkpoint_keys() {
            let questions = vec![
                Command::new("GET", vec![key.clone()]),
                Command::fixed("INFO", &["SERVER"]),
                Command::fixed("INFO", &["REPLICATION"]),
            ];
            let mut answers = Vec::new();
            for answer in self.lanes.open(&address).await?.node.send(questions).await {
                answers.push(answer.map_err(|error| Trouble { address: address.clone(), error })?);
            }
            let [text, server, replication] = answers.as_slice() else { return Ok(false) };
            let life = Life::read(server, replication);
            same &= text.text().is_some_and(|text| self.kept.held.get(&key) == Some(text))
                && self.kept.lives.get(&address).is_some_and(|before| before.goes_on_as(&life));
        }
        if same {
            self.forgiven += doubted - self.compared;
        }
        Ok(same && self.is_compared())
    }

    /// Writes a checkpoint to every node, over the one that was read or written there last and over no other.
    ///
    /// FLUSHALL breaks no connection, and neither does a replica's copy of older data: the missing checkpoint
    /// is what tells.
    pub(super) async fn store_checkpoint(
        &mut self,
        checkpoint: &Checkpoint,
    ) -> std::result::Result<Stored, Trouble> {
        let mut stored = Stored::Everywhere;
        let mut full = None;
        for (address, key, id) in self.checkpoint_keys() {
            let text = self.text_of(checkpoint, &address, id);
            // Where none was read none may be there: another instance may have begun since.
            let before = self.kept.held.get(&key).cloned().unwrap_or_default();
            let command = self.lanes.open(&address).await?.scripts.keep(key.clone(), before, text.clone());
            let reply = match self.lanes.ask(&address, command).await {
                // The others may have none yet.
                Err(trouble) if matches!(trouble.error, NodeError::OutOfMemory) => {
                    full = Some(trouble);
                    continue;
                }
                reply => reply?,
            };
            if reply.utf8() != Some("OK") {
                self.is_master(&address).await?;
                return Ok(self.lost(&address, key, reply));
            }
            self.kept.replaced.remove(&key);
            self.kept.held.insert(key, text);
            // On the same connection, so that it speaks of all that was written there.
            if let Some(fault) = self.wait_until_kept(&address).await? {
                stored = Stored::Unkept(fault);
            }
        }
        full.map_or(Ok(stored), Err)
    }

    /// Whether every node has a checkpoint, be it an older one: whoever forgets what came since is found out.
    pub fn has_checkpoints(&self) -> bool {
        self.checkpoint_keys().iter().all(|(_, key, _)| self.kept.held.contains_key(key))
    }

    fn text_of(&self, checkpoint: &Checkpoint, address: &Address, node: String) -> Bytes {
        let stored = StoredCheckpoint::new(checkpoint, node, self.epoch, self.kept.rows);
        let life = self.kept.lives.get(address).cloned().unwrap_or_default();
        Bytes::from(serde_json::to_vec(&stored.of(&life)).unwrap_or_default())
    }

    /// A replica shows what its master holds: nothing was written over that.
    async fn is_master(&mut self, address: &Address) -> std::result::Result<(), Trouble> {
        let trouble = |error| Trouble { address: address.clone(), error };
        match Role::of(&self.lanes.open(address).await?.node).await.map_err(trouble)?.master {
            true => Ok(()),
            false => Err(trouble(NodeError::ReadOnly)),
        }
    }

    fn lost(&mut self, address: &Address, key: Bytes, found: Reply) -> Stored {
        tracing::warn!(%address, "redis lost what it held, though it stayed connected");
        // An older one came with older data, and events were written over that: what they left out is known to nobody.
        // A newer one is another instance's.
        let applied = |text: &Bytes| {
            let stored: StoredCheckpoint = serde_json::from_slice(text).ok()?;
            Some(checkpoint(stored)?.applied)
        };
        if let Some(found) = found.text()
            && applied(found) < self.kept.held.get(&key).and_then(applied)
        {
            self.kept.replaced.insert(key, found.clone());
        }
        self.doubt();
        Stored::Lost
    }

    /// Why the node does not keep what was written there before, as it is to be kept; `None` where it does.
    async fn wait_until_kept(&mut self, address: &Address) -> std::result::Result<Option<Fault>, Trouble> {
        let timeout = KEEP_TIMEOUT.as_millis().to_string();
        let of = |number: &str| Bytes::from(number.to_owned());
        match self.durability {
            Durability::Applied => Ok(None),
            Durability::Replicated(wanted) => {
                let wait = Command::new("WAIT", vec![of(&wanted.to_string()), of(&timeout)]);
                let reached = self.lanes.ask(address, wait).await?.int().unwrap_or(0);
                Ok((reached < i64::from(wanted)).then(|| Fault {
                    fact: format!(
                        "redis {address} has {reached} replicas that hold what was written, not {wanted}"
                    ),
                    cure: "bring its replicas back, or ask for fewer in redis.durability".to_owned(),
                }))
            }
            Durability::Fsynced => {
                let wait = Command::new("WAITAOF", vec![of("1"), of("0"), of(&timeout)]);
                let reply = self.lanes.ask(address, wait).await?;
                let synced = reply.list().first().and_then(Reply::int).unwrap_or(0);
                Ok((synced < 1).then(|| Fault {
                    fact: format!("redis {address} has not written to its disk in time"),
                    cure: "see its log and its disk".to_owned(),
                }))
            }
        }
    }
}

fn checkpoint(stored: StoredCheckpoint) -> Option<Checkpoint> {
    let applied: Lsn = stored.applied.parse().ok()?;
    let StoredCheckpoint { slot, system_id, timeline, last, unwatched, .. } = stored;
    let landmark = last.and_then(|last| last.read());
    // One that cannot be read tells that there are some.
    let unwatched = unwatched.map(|since| since.parse().unwrap_or(Lsn::ZERO));
    Some(Checkpoint { slot, system_id, timeline, applied, landmark, unwatched })
}
