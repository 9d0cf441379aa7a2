//! `CLIENT TRACKING` in broadcast mode: every key under some prefixes that anybody writes or deletes, as Redis
//! announces it. One connection a master, on which Redis can also be read.
//!
//! An announcement names a key and nothing else: neither who wrote it nor what, and writes of one turn of Redis'
//! event loop are announced once. NOLOOP does not leave out what scripts write, so it is not asked for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::compare::{Difference, Question, by_owner};
use super::expect::{Announced, Expectation};
use super::lanes::Trouble;
use super::node::{COMMAND_TIMEOUT, Command, Invalidations, Login, Node};
use super::reply::{NodeError, Reply};
use super::slots::{Address, Topology};
use crate::error::Result;
use crate::keyplan::{KeyPlan, Timed};

/// How often a silent tracking connection is asked whether it still lives.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// A connection on which nothing comes any more, and that nobody ends, is noticed so late at most.
pub const UNHEARD: Duration = PING_INTERVAL.saturating_add(COMMAND_TIMEOUT);

/// Commands that are read in one write: other clients of Redis come in between.
const READ_COMMANDS: usize = 64;

/// Those of which none begins with another: Redis refuses to track prefixes that overlap.
pub fn shortest(mut prefixes: Vec<Bytes>) -> Vec<Bytes> {
    // Sorted, what begins with a prefix stands behind it.
    prefixes.sort_unstable();
    prefixes.dedup_by(|next, kept| next.starts_with(kept));
    prefixes
}

/// Who asks a connection whether all is handed on.
type Asked = mpsc::Sender<oneshot::Sender<()>>;

/// One connection on which Redis announces what is written.
struct Followed {
    node: Arc<Node>,
    asked: Asked,
}

impl Followed {
    /// Starts to track; the future hands on what is announced until the connection or an announcement is lost.
    ///
    /// # Errors
    /// The node's: nothing is tracked.
    async fn start(
        node: Node,
        prefixes: &[Bytes],
        announced: impl Fn(&[Bytes]) + Send + 'static,
    ) -> Result<(Followed, impl Future<Output = ()> + Send + 'static), NodeError> {
        let invalidations = node.invalidations();
        let mut args = ["TRACKING", "ON", "BCAST"].map(Bytes::from).to_vec();
        for prefix in prefixes {
            args.extend([Bytes::from_static(b"PREFIX"), prefix.clone()]);
        }
        node.call(Command::new("CLIENT", args)).await?;
        let node = Arc::new(node);
        let (asked, questions) = mpsc::channel(1);
        let follow = follow(Arc::clone(&node), invalidations, announced, questions);
        Ok((Followed { node, asked }, follow))
    }

    /// Waits until everything is handed on that was acknowledged to its writer before the call.
    async fn catch_up(&self) -> Result<(), NodeError> {
        // Redis announces at the end of a turn of its event loop, and answers first: the second answer is of a later
        // turn.
        for _ in 0..2 {
            self.node.call(ping()).await?;
        }
        let (done, handed_on) = oneshot::channel();
        // A follower that has ended drops the question.
        let _ = self.asked.send(done).await;
        handed_on.await.map_err(|_| ended())
    }
}

async fn follow(
    node: Arc<Node>,
    mut invalidations: Invalidations,
    announced: impl Fn(&[Bytes]),
    mut questions: mpsc::Receiver<oneshot::Sender<()>>,
) {
    let mut interval = tokio::time::interval(PING_INTERVAL);
    loop {
        tokio::select! {
            // Whoever asks is answered when nothing is left that came before.
            biased;
            keys = invalidations.next() => match keys {
                Some(keys) => announced(&keys),
                None => return,
            },
            () = node.closed() => return,
            Some(done) = questions.recv() => drop(done.send(())),
            _ = interval.tick() => {
                if node.call(ping()).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn ping() -> Command {
    Command::fixed("PING", &[])
}

fn ended() -> NodeError {
    NodeError::Disconnected("the connection on which it announces was lost".to_owned())
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
    nodes: HashMap<Address, Followed>,
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
        Ok(Tracker::track(way, &shortest(prefixes), announced).await?)
    }

    /// As [`start`](Tracker::start) with [`shortest`] prefixes, and with the node that cannot be tracked.
    pub(super) async fn track(
        way: &Way,
        prefixes: &[Bytes],
        announced: impl Fn(&[Bytes]) + Clone + Send + 'static,
    ) -> Result<Tracker, Trouble> {
        let mut changes = way.topology.clone();
        let topology = changes.borrow_and_update().clone();
        let mut tracker = Tracker { nodes: HashMap::new(), topology, changes, follows: JoinSet::new() };
        for address in tracker.topology.masters() {
            let trouble = |error| Trouble { address: address.clone(), error };
            let node = Node::connect_tracking(&address, &way.login, way.database).await.map_err(trouble)?;
            let (followed, follow) =
                Followed::start(node, prefixes, announced.clone()).await.map_err(trouble)?;
            tracker.follows.spawn(follow);
            tracker.nodes.insert(address, followed);
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

    /// A master of which something that was written may not have been announced, as far as it is known.
    pub(super) fn lost(&self) -> Option<Trouble> {
        let lost = self.nodes.iter().find(|(_, followed)| followed.asked.is_closed());
        lost.map(|(address, _)| Trouble { address: address.clone(), error: ended() })
    }

    /// Waits until everything is handed on that was acknowledged to its writer before the call.
    ///
    /// # Errors
    /// The first node that does not answer, or on which something was lost.
    pub(super) async fn catch_up(&self) -> Result<(), Trouble> {
        let all = self.nodes.iter().map(async |(address, followed)| {
            followed.catch_up().await.map_err(|error| Trouble { address: address.clone(), error })
        });
        futures_util::future::try_join_all(all).await.map(drop)
    }

    /// The tracked masters and the connections to them, always in the same order.
    pub(super) fn masters(&self) -> impl Iterator<Item = (Address, &Node)> {
        let masters = self.topology.masters().into_iter();
        masters.filter_map(|address| self.nodes.get(&address).map(|each| (address, each.node.as_ref())))
    }

    /// How to compare over these connections.
    pub fn reader(&self) -> TrackedReader {
        let node = |(address, each): (&Address, &Followed)| (address.clone(), Arc::clone(&each.node));
        TrackedReader { nodes: self.nodes.iter().map(node).collect(), topology: self.topology.clone() }
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
        let pings = self.nodes.values().map(|node| node.call(ping()));
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
