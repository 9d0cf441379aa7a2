//! `CLIENT TRACKING` in broadcast mode: every key under some prefixes that anybody writes or deletes, as Redis
//! announces it. One connection a master, on which Redis can also be read.
//!
//! An announcement names a key and nothing else: neither who wrote it nor what, and writes of one turn of Redis'
//! event loop are announced once. NOLOOP does not leave out what scripts write, so it is not asked for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::compare::{Difference, Question, by_owner};
use super::expect::{Announced, Expectation};
use super::lanes::Trouble;
use super::node::{Command, Login, Node};
use super::reply::{NodeError, Reply};
use super::slots::{Address, Topology};
use crate::error::Result;
use crate::keyplan::{KeyPlan, Timed};

/// How often a silent tracking connection is asked whether it still lives.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// Commands that are read in one write: other clients of Redis come in between.
const READ_COMMANDS: usize = 64;

/// Those of which none begins with another: Redis refuses to track prefixes that overlap.
pub fn shortest(mut prefixes: Vec<Bytes>) -> Vec<Bytes> {
    // Sorted, what begins with a prefix stands behind it.
    prefixes.sort_unstable();
    prefixes.dedup_by(|next, kept| next.starts_with(kept));
    prefixes
}

/// Starts to track, then hands on what is announced until the connection or an announcement is lost.
///
/// # Errors
/// The node's: nothing is tracked.
async fn follow(
    node: Arc<Node>,
    prefixes: &[Bytes],
    announced: impl Fn(&[Bytes]) + Send + 'static,
) -> Result<JoinHandle<()>, NodeError> {
    let mut invalidations = node.invalidations();
    let mut args =
        vec![Bytes::from_static(b"TRACKING"), Bytes::from_static(b"ON"), Bytes::from_static(b"BCAST")];
    for prefix in prefixes {
        args.extend([Bytes::from_static(b"PREFIX"), prefix.clone()]);
    }
    node.call(Command::new("CLIENT", args)).await?;
    Ok(tokio::spawn(async move {
        let mut ping = tokio::time::interval(PING_INTERVAL);
        loop {
            tokio::select! {
                keys = invalidations.next() => match keys {
                    Some(keys) => announced(&keys),
                    None => return,
                },
                _ = ping.tick() => {
                    if node.call(Command::fixed("PING", &[])).await.is_err() {
                        return;
                    }
                }
            }
        }
    }))
}

/// How to reach the masters beside the one way by which they are written.
#[derive(Clone)]
pub struct Way {
    pub(super) login: Login,
    pub(super) database: u8,
    pub(super) topology: watch::Receiver<Topology>,
}

/// Tracking connections to all masters. Dropping it closes them.
pub struct Tracker {
    nodes: HashMap<Address, Arc<Node>>,
    topology: Topology,
    changes: watch::Receiver<Topology>,
    follows: JoinSet<()>,
}

impl Tracker {
    /// Tracks `prefixes` on every master and hands on what is announced.
    ///
    /// # Errors
    /// The first node that cannot be tracked.
    pub async fn start(
        way: &Way,
        prefixes: Vec<Bytes>,
        announced: impl Fn(&[Bytes]) + Clone + Send + 'static,
    ) -> Result<Tracker> {
        Ok(Tracker::track(way, prefixes, announced).await?)
    }

    /// As [`start`](Tracker::start), with the node that cannot be tracked.
    pub(super) async fn track(
        way: &Way,
        prefixes: Vec<Bytes>,
        announced: impl Fn(&[Bytes]) + Clone + Send + 'static,
    ) -> Result<Tracker, Trouble> {
        let prefixes = shortest(prefixes);
        let mut changes = way.topology.clone();
        let topology = changes.borrow_and_update().clone();
        let mut tracker = Tracker { nodes: HashMap::new(), topology, changes, follows: JoinSet::new() };
        for address in tracker.topology.masters() {
            let trouble = |error| Trouble { address: address.clone(), error };
            let node = Node::connect_tracking(&address, &way.login, way.database).await.map_err(trouble)?;
            let node = Arc::new(node);
            let follow = follow(Arc::clone(&node), &prefixes, announced.clone()).await.map_err(trouble)?;
            // Aborting what waits for it would leave it running.
            tracker.follows.spawn(Follow(follow).end());
            tracker.nodes.insert(address, node);
        }
        Ok(tracker)
    }

    /// Waits until something of what is written may not have been announced: a connection or an announcement was
    /// lost, or the masters are other ones.
    pub async fn interrupted(&mut self) {
        tokio::select! {
            _ = self.follows.join_next() => {}
            _ = self.changes.changed() => {}
        }
    }

    /// Whether everything that is written is announced up to now, as far as it is known.
    pub(super) fn is_whole(&mut self) -> bool {
        self.follows.try_join_next().is_none() && !self.changes.has_changed().unwrap_or(true)
    }

    /// The tracked masters and the connections to them, always in the same order.
    pub(super) fn masters(&self) -> impl Iterator<Item = (Address, &Node)> {
        let masters = self.topology.masters().into_iter();
        masters.filter_map(|address| self.nodes.get(&address).map(|node| (address, node.as_ref())))
    }

    /// How to compare over these connections.
    pub fn reader(&self) -> TrackedReader {
        TrackedReader { nodes: self.nodes.clone(), topology: self.topology.clone() }
    }
}

/// Ends with what it follows.
struct Follow(JoinHandle<()>);

impl Follow {
    async fn end(mut self) {
        // A panic of the task is an end as well.
        let _ = (&mut self.0).await;
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reads over tracking connections: what is written behind a reading is announced behind it.
#[derive(Clone)]
pub struct TrackedReader {
    nodes: HashMap<Address, Arc<Node>>,
    topology: Topology,
}

impl TrackedReader {
    /// Compares each plan with what its keys hold at the moment. What cannot be read counts as different: the way
    /// by which keys are written looks again.
    pub async fn compare(&self, plans: &[KeyPlan], timed: &Timed) -> Vec<Difference> {
        let questions: Vec<Question<'_>> = plans.iter().map(|plan| Question::new(plan, timed)).collect();
        let commands = questions.iter().flat_map(Question::commands).collect();
        let mut answers = self.read(commands).await.into_iter();
        let judge = |question: &Question<'_>| {
            question.judge(&answers.by_ref().take(question.len()).collect::<Vec<_>>()).0
        };
        questions.iter().map(judge).collect()
    }

    /// Of each expectation whether it is met at the moment, as far as its keys were announced; of none where a node does
    /// not answer: what is written there is not announced either.
    pub async fn holds(&self, expected: &[(Arc<Expectation>, Announced)]) -> Vec<bool> {
        if expected.is_empty() {
            return Vec::new();
        }
        let commands: Vec<(Bytes, Command)> =
            expected.iter().flat_map(|(left, announced)| left.commands(announced)).collect();
        let commands = commands.iter().map(|(key, command)| (key, command.clone())).collect();
        let (answers, all_answer) = tokio::join!(self.read(commands), self.all_answer());
        let mut answers = answers.into_iter();
        let is_met = |(left, announced): &(Arc<Expectation>, Announced)| left.is_met(announced, &mut answers);
        expected.iter().map(is_met).map(|is_met| is_met && all_answer).collect()
    }

    async fn all_answer(&self) -> bool {
        let pings = self.nodes.values().map(|node| node.call(Command::fixed("PING", &[])));
        futures_util::future::join_all(pings).await.iter().all(Result::is_ok)
    }

    /// Of each key whether it is known to be absent.
    pub async fn absent(&self, keys: &[Bytes]) -> Vec<bool> {
        let command = |key: &Bytes| Command::new("EXISTS", vec![key.clone()]);
        let answers = self.read(keys.iter().map(|key| (key, command(key))).collect()).await;
        answers.into_iter().map(|answer| answer == Ok(Reply::Int(0))).collect()
    }

    /// Sends each command to the owner of its key; the answers in the same order.
    async fn read(&self, commands: Vec<(&Bytes, Command)>) -> Vec<Result<Reply, NodeError>> {
        let mut answers = vec![Err(NodeError::TimedOut); commands.len()];
        for (address, commands) in by_owner(&self.topology, commands).unwrap_or_default() {
            let Some(node) = self.nodes.get(&address) else { continue };
            for commands in commands.chunks(READ_COMMANDS) {
                let sent = commands.iter().map(|(_, command)| command.clone()).collect();
                let replies: Vec<Result<Reply, NodeError>> = node.send(sent).await;
                // A node that is frozen would keep each of them waiting for as long.
                let is_gone = replies
                    .iter()
                    .all(|reply| matches!(reply, Err(NodeError::TimedOut | NodeError::Disconnected(_))));
                for ((place, _), reply) in commands.iter().zip(replies) {
                    answers.get_mut(*place).into_iter().for_each(|answer| *answer = reply.clone());
                }
                if is_gone {
                    break;
                }
            }
        }
        answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_prefixes_that_overlap_the_shortest_is_followed() {
        let followed =
            |prefixes: &[&'static str]| shortest(prefixes.iter().map(|p| Bytes::from(*p)).collect());
        assert_eq!(followed(&["fs:", "b:", "fs:daily:", "fs:", "fs:x", "fsx"]), ["b:", "fs:", "fsx"]);
        assert_eq!(followed(&["ab", "abc", "abd", "a"]), ["a"]);
        assert!(followed(&[]).is_empty());
    }
}
