//! Reading Redis beside the one way by which it is written: the keys of one user, and how each master does.
//!
//! Connections of its own, made when they are needed and again when they break, so that a reader waits for no flight
//! and holds none up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::compare::by_owner;
use super::derived::{read_scan, scan_command};
use super::fence::{self, Written};
use super::lanes::Trouble;
use super::node::{Command, Node};
use super::reply::{NodeError, Reply};
use super::slots::{Address, Topology};
use super::tracking::Way;
use crate::balance::User;
use crate::error::{Error, Result};

/// How long a key lives that was written to see whether one can be, in milliseconds.
const PROBE_TTL_MS: &str = "10000";

/// What is asked of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// These fields of a hash.
    Fields(Vec<Bytes>),
    /// A string.
    Text,
    /// Whether it is there.
    Presence,
}

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// It is not there.
    Absent,
    /// It is, and nothing more was asked.
    Present,
    /// A string.
    Text(Bytes),
    /// The fields of a hash, in the order they were asked for.
    Fields(Vec<Option<Bytes>>),
    /// Something of another type.
    OtherType,
}

/// A key as it was found.
#[derive(Debug, Clone)]
pub struct Seen {
    /// What it holds.
    pub held: Held,
    /// Seconds to live; `None`: for ever, or not at all.
    pub ttl_s: Option<i64>,
    /// The fence that it is written behind.
    pub fence: Option<Written>,
    /// Whether the fence was the same before and after: nothing was written behind it in between.
    pub is_steady: bool,
}

/// Commands by which one key is looked at: its fence, what it holds, its time to live, and its fence again.
const COMMANDS: usize = 4;

/// The connections.
pub struct Beside {
    way: Way,
    slot: String,
    nodes: Mutex<HashMap<Address, Arc<Node>>>,
}

impl Beside {
    /// Connects to nothing yet. `slot` is the replication slot, which is part of the names of our own keys.
    pub fn new(way: Way, slot: String) -> Beside {
        Beside { way, slot, nodes: Mutex::default() }
    }

    /// Every master's address, as far as is known.
    pub fn masters(&self) -> Vec<Address> {
        self.way.topology.borrow().masters()
    }

    /// The masters and their slots, as far as is known.
    pub fn topology(&self) -> Topology {
        self.way.topology.borrow().clone()
    }

    /// The record of what could not be applied as written; one of another type counts as absent.
    ///
    /// # Errors
    /// The node's.
    pub async fn quarantine(&self) -> Result<Option<String>> {
        let key = Bytes::from(super::quarantine::key(&self.slot));
        let read = Command::new("GET", vec![key.clone()]);
        let answer = self.read(&self.topology(), vec![(key, read)]).await?.pop();
        let record = answer.and_then(Result::ok);
        Ok(record.as_ref().and_then(Reply::utf8).map(str::to_owned))
    }

    /// Looks at keys of one user.
    ///
    /// # Errors
    /// A node that does not answer.
    pub async fn look(&self, user: &User, wanted: &[(Bytes, Wanted)]) -> Result<Vec<Seen>> {
        let topology = self.way.topology.borrow().clone();
        let of_user = fence::user_key(&user.user_type, &user.id);
        let mut commands = Vec::with_capacity(wanted.len() * COMMANDS);
        for (key, wanted) in wanted {
            let same_slot = topology.slot(key) == topology.slot(&of_user);
            let own = || fence::own_key(key, |key| topology.slot(key));
            let fence = if same_slot { Some(of_user.clone()) } else { own() };
            // A key that can have no fence is not written either.
            let fence = Command::new("GET", vec![fence.unwrap_or_else(|| key.clone())]);
            let read = match wanted {
                Wanted::Fields(fields) => {
                    Command::new("HMGET", std::iter::once(key).chain(fields).cloned().collect())
                }
                Wanted::Text => Command::new("GET", vec![key.clone()]),
                Wanted::Presence => Command::new("EXISTS", vec![key.clone()]),
            };
            let ttl = Command::new("TTL", vec![key.clone()]);
            commands.extend([fence.clone(), read, ttl, fence].map(|command| (key.clone(), command)));
        }
        let answers = self.read(&topology, commands).await?;
        let seen = wanted.iter().zip(answers.chunks(COMMANDS));
        Ok(seen.map(|((_, wanted), answers)| seen_as(wanted, answers)).collect())
    }

    /// Sends each command to the owner of its key, one after the other on each node; the answers in the same order.
    async fn read(
        &self,
        topology: &Topology,
        commands: Vec<(Bytes, Command)>,
    ) -> Result<Vec<Result<Reply, NodeError>>> {
        let mut answers = vec![Err(NodeError::TimedOut); commands.len()];
        let of_keys = commands.iter().map(|(key, command)| (key, command.clone())).collect();
        let unowned =
            || Error::transient("a redis hash slot has no master", "see \"redis-cli --cluster check\"");
        for (address, commands) in by_owner(topology, of_keys).ok_or_else(unowned)? {
            let (places, commands): (Vec<usize>, Vec<Command>) = commands.into_iter().unzip();
            let replies = self.ask(&address, commands.clone()).await?;
            for ((place, command), reply) in places.into_iter().zip(commands).zip(replies) {
                let answer = self.follow(&address, command, reply).await?;
                answers.get_mut(place).into_iter().for_each(|place| *place = answer.clone());
            }
        }
        Ok(answers)
    }

    /// Goes where a redirect leads, once. An error that says nothing about the key is the whole look's.
    async fn follow(
        &self,
        address: &Address,
        command: Command,
        reply: Result<Reply, NodeError>,
    ) -> Result<Result<Reply, NodeError>> {
        let (to, reply) = match reply {
            Err(NodeError::Ask { to: Some(to), .. }) => {
                let asking = vec![Command::new("ASKING", Vec::new()), command];
                let replies = self.ask(&to, asking).await?;
                (to, replies.into_iter().next_back().unwrap_or(Err(NodeError::TimedOut)))
            }
            Err(NodeError::Moved { to: Some(to), .. }) => {
                let replies = self.ask(&to, vec![command]).await?;
                (to, replies.into_iter().next_back().unwrap_or(Err(NodeError::TimedOut)))
            }
            reply => (address.clone(), reply),
        };
        match reply {
            Ok(_) | Err(NodeError::WrongType) => Ok(reply),
            Err(error) => Err(Trouble { address: to, error }.into()),
        }
    }

    /// Sends commands to one node; once more over a new connection where the old one had been closed.
    async fn ask(&self, address: &Address, commands: Vec<Command>) -> Result<Vec<Result<Reply, NodeError>>> {
        let trouble = |error| Trouble { address: address.clone(), error };
        let broken = |replies: &[Result<Reply, NodeError>]| {
            let mut errors = replies.iter().filter_map(|reply| reply.as_ref().err());
            errors.find(|error| error.ends_connection()).cloned()
        };
        let known = self.nodes().get(address).cloned();
        if let Some(node) = known {
            let replies = node.send(commands.clone()).await;
            match broken(&replies) {
                None => return Ok(replies),
                Some(NodeError::Disconnected(_)) => self.forget(address),
                Some(error) => {
                    self.forget(address);
                    return Err(trouble(error).into());
                }
            }
        }
        let node = Node::connect(address, &self.way.login, self.way.database).await.map_err(trouble)?;
        let replies = node.send(commands).await;
        match broken(&replies) {
            None => self.nodes().insert(address.clone(), Arc::new(node)),
            Some(error) => return Err(trouble(error).into()),
        };
        Ok(replies)
    }

    /// Drops the connection to a node: who gave up waiting for it cannot tell whether it still answers.
    pub fn forget(&self, address: &Address) {
        self.nodes().remove(address);
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<Address, Arc<Node>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a master is read and written: a key of ours that goes by itself.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn probe(&self, address: &Address) -> Result<()> {
        let topology = self.way.topology.borrow().clone();
        let tag = match &topology {
            Topology::Single(_) => String::new(),
            Topology::Cluster { masters, .. } => {
                let master = masters.iter().find(|master| master.address == *address);
                // One that has lost its slots since is no master any more.
                let Some(tag) = master.and_then(super::slots::Master::tag) else { return Ok(()) };
                format!(":{{{tag}}}")
            }
        };
        let key = Bytes::from(format!("lockstep:probe:{}{tag}", self.slot));
        let words = [key.clone(), "works".into(), "PX".into(), PROBE_TTL_MS.into()];
        let commands = vec![Command::new("SET", words.to_vec()), Command::new("GET", vec![key])];
        let unexpected = || Error::transient(format!("redis {address} did not keep what was written"), "");
        let mut last = None;
        for reply in self.ask(address, commands).await? {
            last = Some(reply.map_err(|error| error.at(address))?);
        }
        last.filter(|reply| reply.text().is_some()).map(|_| ()).ok_or_else(unexpected)
    }

    /// Whether a master answers at all.
    pub async fn answers(&self, address: &Address) -> bool {
        self.ask(address, vec![Command::fixed("PING", &[])]).await.is_ok()
    }

    /// The next keys of a master that match `glob`, and where to go on; `None` at the end. `None` begins.
    ///
    /// # Errors
    /// The node's.
    pub async fn scan(
        &self,
        address: &Address,
        glob: &Bytes,
        cursor: Option<Bytes>,
    ) -> Result<(Option<Bytes>, Vec<Bytes>)> {
        let cursor = cursor.unwrap_or_else(|| Bytes::from_static(b"0"));
        let reply = self.ask(address, vec![scan_command(cursor, glob.clone())]).await?.pop();
        let reply = reply.unwrap_or(Err(NodeError::TimedOut)).map_err(|error| error.at(address))?;
        Ok(read_scan(&reply))
    }
}

fn seen_as(wanted: &Wanted, answers: &[Result<Reply, NodeError>]) -> Seen {
    let [before, held, ttl, after] = answers else {
        return Seen { held: Held::Absent, ttl_s: None, fence: None, is_steady: false };
    };
    let ttl_s = ttl.as_ref().ok().and_then(Reply::int).unwrap_or_default();
    let held = match (wanted, held) {
        // What TTL says of a key that is not there.
        _ if ttl_s == -2 => Held::Absent,
        (_, Err(_)) => Held::OtherType,
        (Wanted::Fields(_), Ok(reply)) => {
            Held::Fields(reply.list().iter().map(|value| value.text().cloned()).collect())
        }
        (Wanted::Text, Ok(reply)) => reply.text().cloned().map_or(Held::Absent, Held::Text),
        (Wanted::Presence, Ok(reply)) => match reply.int() {
            Some(1) => Held::Present,
            _ => Held::Absent,
        },
    };
    let text = |reply: &Result<Reply, NodeError>| reply.as_ref().ok().and_then(Reply::text).cloned();
    let (before, after) = (text(before), text(after));
    Seen {
        held,
        ttl_s: (ttl_s >= 0).then_some(ttl_s),
        is_steady: before == after,
        fence: after.as_ref().and_then(Written::read),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Result<Reply, NodeError> {
        Ok(Reply::Text(text.to_owned().into()))
    }

    #[test]
    fn a_key_is_seen_as_it_is() {
        let seen = |wanted: &Wanted, held: Result<Reply, NodeError>, ttl: i64| {
            seen_as(wanted, &[Ok(Reply::Nil), held, Ok(Reply::Int(ttl)), Ok(Reply::Nil)])
        };
        let fields = Wanted::Fields(vec!["a".into(), "b".into()]);
        let hash = Ok(Reply::List(vec![Reply::Text("1".into()), Reply::Nil]));
        assert_eq!(seen(&fields, hash, -1).held, Held::Fields(vec![Some("1".into()), None]));
        let nothing = || Ok(Reply::List(vec![Reply::Nil, Reply::Nil]));
        assert_eq!(seen(&fields, nothing(), -1).held, Held::Fields(vec![None, None]), "a hash without them");
        assert_eq!(seen(&fields, nothing(), -2).held, Held::Absent);
        assert_eq!(seen(&fields, Err(NodeError::WrongType), -1).held, Held::OtherType);
        let string = seen(&Wanted::Text, text("5"), 3599);
        assert_eq!((string.held, string.ttl_s), (Held::Text("5".into()), Some(3599)));
        assert_eq!(seen(&Wanted::Text, Ok(Reply::Nil), -2).held, Held::Absent);
        assert_eq!(seen(&Wanted::Presence, Ok(Reply::Int(1)), -1).held, Held::Present);
    }

    #[test]
    fn what_was_written_meanwhile_is_not_steady() {
        let fence = |lsn: &str| text(&format!("00000001{lsn}00000002{}.2:10", "-".repeat(16)));
        let (one, two) = (fence("00000000000000ab"), fence("00000000000000ac"));
        let seen = |before, after| seen_as(&Wanted::Text, &[before, text("10"), Ok(Reply::Int(9)), after]);
        assert!(seen(one.clone(), one.clone()).is_steady);
        assert!(!seen(one, two.clone()).is_steady);
        assert!(!seen(Ok(Reply::Nil), two).is_steady);
    }
}
