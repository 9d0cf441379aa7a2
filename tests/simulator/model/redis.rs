//! Redis servers, single or a cluster, and the connections to them: commands and replies wait in sockets.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use lockstep::sink::node::keyslot;
use lockstep::sink::reply::{NodeError, Reply};
use lockstep::sink::slots::{Address, SLOTS};
use tokio::sync::{mpsc, oneshot};

use super::keyspace::{CHECKPOINT, Keyspace};
use crate::lua;
use crate::mutants::Mutant;

/// The first words of the script that applies plans.
const APPLY: &str = "-- Applies the plans";
/// Begin of the fences of keys that are in a slot of their own.
const OWN_FENCE: &[u8] = b"lockstep:fence:{user_balance:";
/// Host of every server.
const HOST: &str = "model";
/// Port of the first server; that of a replica differs by a bit.
const FIRST_PORT: u16 = 1;
const REPLICA: u16 = 64;

/// Every server that may be a master of a cluster of so many.
pub fn urls(nodes: usize) -> String {
    let ports = (0..nodes as u16).map(|number| FIRST_PORT + number);
    let replicas = if nodes > 1 { ports.clone().map(|port| port ^ REPLICA).collect() } else { Vec::new() };
    let urls: Vec<String> = ports.chain(replicas).map(|port| format!("redis://{HOST}:{port}")).collect();
    urls.join(",")
}

/// A server.
pub struct Node {
    pub address: Address,
    id: String,
    pub space: Keyspace,
    scripts: BTreeMap<Bytes, Arc<str>>,
    pub up: bool,
    pub out_of_memory: bool,
    /// The error with which the next script is answered.
    pub fails: Option<&'static str>,
    /// How often another process has taken its place.
    lives: u32,
}

/// A command in a socket.
struct Question {
    name: &'static str,
    args: Vec<Bytes>,
    answer: oneshot::Sender<Result<Reply, NodeError>>,
}

/// What a server wrote.
enum Written {
    Reply(oneshot::Sender<Result<Reply, NodeError>>, Result<Reply, NodeError>),
    Announced(Vec<Bytes>),
}

/// A connection.
pub struct Conn {
    pub instance: usize,
    pub node: usize,
    inbox: VecDeque<Question>,
    outbox: VecDeque<Written>,
    tracked: Vec<Bytes>,
    announced: Option<mpsc::UnboundedSender<Vec<Bytes>>>,
    /// Whether the client is still there, and the way to it.
    open: bool,
    /// Scripts that a mutant answered and did not run, and whether a checkpoint went before them.
    held: Vec<(Arc<str>, Vec<Bytes>, Vec<Bytes>)>,
    overtaken: bool,
}

/// What a command did.
#[derive(Debug, Default)]
pub struct Executed {
    pub node: usize,
    /// Who asked for it; `None`: somebody else.
    pub instance: Option<usize>,
    /// For whoever reads a trace.
    pub what: String,
    pub touched: Vec<Bytes>,
    pub published: Vec<(Bytes, Bytes)>,
}

/// All servers.
pub struct Redis {
    pub nodes: Vec<Node>,
    pub conns: BTreeMap<u64, Conn>,
    next_conn: u64,
    mutant: Option<Mutant>,
    /// Whether somebody wants to read what commands did.
    traced: bool,
}

impl Redis {
    pub fn new(nodes: usize, mutant: Option<Mutant>, traced: bool) -> Redis {
        let node = |number: usize| Node {
            address: Address::new(HOST, FIRST_PORT + number as u16),
            id: format!("node-{number}"),
            space: Keyspace::default(),
            scripts: BTreeMap::new(),
            up: true,
            out_of_memory: false,
            fails: None,
            lives: 0,
        };
        let nodes = (0..nodes).map(node).collect();
        Redis { nodes, conns: BTreeMap::new(), next_conn: 1, mutant, traced }
    }

    fn is_cluster(&self) -> bool {
        self.nodes.len() > 1
    }

    /// Index of the node that owns a key.
    pub fn owner(&self, key: &[u8]) -> usize {
        usize::from(keyslot(key)) * self.nodes.len() / usize::from(SLOTS)
    }

    pub fn connect(&mut self, instance: usize, address: &Address) -> Result<u64, NodeError> {
        let found = self.nodes.iter().position(|node| node.address == *address && node.up);
        let node = found.ok_or_else(|| NodeError::Disconnected("connection refused".into()))?;
        let conn = self.next_conn;
        self.next_conn += 1;
        self.conns.insert(
            conn,
            Conn {
                instance,
                node,
                inbox: VecDeque::new(),
                outbox: VecDeque::new(),
                tracked: Vec::new(),
                announced: None,
                open: true,
                held: Vec::new(),
                overtaken: false,
            },
        );
        Ok(conn)
    }

    pub fn ask(
        &mut self,
        conn: u64,
        name: &'static str,
        args: &[Bytes],
    ) -> oneshot::Receiver<Result<Reply, NodeError>> {
        let (answer, answered) = oneshot::channel();
        if let Some(conn) = self.conns.get_mut(&conn).filter(|conn| conn.open) {
            conn.inbox.push_back(Question { name, args: args.to_vec(), answer });
        }
        answered
    }

    pub fn announce(&mut self, conn: u64) -> mpsc::UnboundedReceiver<Vec<Bytes>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        if let Some(conn) = self.conns.get_mut(&conn).filter(|conn| conn.open) {
            conn.announced = Some(sender);
        }
        receiver
    }

    /// The client is gone, or the way to it. What it has written may still arrive.
    pub fn close(&mut self, conn: u64) {
        let Some(closed) = self.conns.get_mut(&conn) else { return };
        closed.open = false;
        closed.announced = None;
        closed.outbox.clear();
        closed.held.clear();
        // Whoever waits for an answer learns that there will be none.
        for question in &mut closed.inbox {
            question.answer = oneshot::channel().0;
        }
        self.forget_if_done(conn);
    }

    /// The server never gets more of it than so many commands.
    pub fn truncate(&mut self, conn: u64, commands: usize) {
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.inbox.truncate(commands);
        }
        self.forget_if_done(conn);
    }

    fn forget_if_done(&mut self, conn: u64) {
        if self.conns.get(&conn).is_some_and(|conn| !conn.open && conn.inbox.is_empty()) {
            self.conns.remove(&conn);
        }
    }

    /// Every connection to a node ends, and what is in the sockets is lost.
    pub fn cut_all(&mut self, node: usize) {
        let of_node: Vec<u64> =
            self.conns.iter().filter(|(_, conn)| conn.node == node).map(|(id, _)| *id).collect();
        for conn in of_node {
            self.close(conn);
            self.truncate(conn, 0);
        }
    }

    /// A replica that lacks the last commands takes over: the keys that changed.
    pub fn fail_over(&mut self, node: usize, lost: usize) -> Vec<Bytes> {
        self.cut_all(node);
        let is_cluster = self.is_cluster();
        let failed = &mut self.nodes[node];
        failed.scripts.clear();
        failed.lives += 1;
        failed.up = true;
        failed.out_of_memory = false;
        if is_cluster {
            // Master and replica change places.
            failed.address.port ^= REPLICA;
            failed.id = format!("node-{}", failed.address.port);
        }
        failed.space.lose(lost)
    }

    /// Connections with commands that the server has not executed.
    pub fn executable(&self) -> Vec<u64> {
        self.conns.iter().filter(|(_, conn)| self.waits(conn)).map(|(id, _)| *id).collect()
    }

    /// Whether a connection is one of them.
    pub fn is_executable(&self, id: u64) -> bool {
        self.conns.get(&id).is_some_and(|conn| self.waits(conn))
    }

    fn waits(&self, conn: &Conn) -> bool {
        self.nodes[conn.node].up && !conn.inbox.is_empty()
    }

    /// Connections with replies that the client has not seen.
    pub fn deliverable(&self) -> Vec<u64> {
        let waits = |conn: &Conn| conn.open && !conn.outbox.is_empty();
        self.conns.iter().filter(|(_, conn)| waits(conn)).map(|(id, _)| *id).collect()
    }

    /// The client sees what the server has written, up to so many replies; who it is, and the keys of which it hears.
    pub fn deliver(&mut self, conn: u64, replies: usize) -> Option<(usize, Vec<Bytes>)> {
        let conn = self.conns.get_mut(&conn)?;
        let mut heard = Vec::new();
        for _ in 0..replies {
            match conn.outbox.pop_front() {
                // Whoever asked may not wait any more.
                Some(Written::Reply(answer, reply)) => drop(answer.send(reply)),
                Some(Written::Announced(keys)) => {
                    if let Some(announced) = &conn.announced {
                        heard.extend_from_slice(&keys);
                        let _ = announced.send(keys);
                    }
                }
                None => break,
            }
        }
        Some((conn.instance, heard))
    }

    /// The server executes the next command of a connection.
    pub fn execute_next(&mut self, id: u64) -> Executed {
        let Some(conn) = self.conns.get_mut(&id) else { return Executed::default() };
        let (node, instance) = (conn.node, conn.instance);
        let Some(question) = conn.inbox.pop_front() else { return Executed::default() };
        let Question { name, args, answer } = question;
        self.nodes[node].space.full = self.nodes[node].out_of_memory;
        let reply = self.answer(id, name, &args);
        self.nodes[node].space.full = false;
        let what = self.traced.then(|| {
            let (instance, address) = (self.conns[&id].instance, &self.nodes[node].address);
            format!("{instance} at {address}: {name} {} -> {}", subject(name, &args), short(&reply))
        });
        let reply = reply.map_err(|line| NodeError::parse(&line));
        if let Some(conn) = self.conns.get_mut(&id).filter(|conn| conn.open) {
            conn.outbox.push_back(Written::Reply(answer, reply));
        }
        self.forget_if_done(id);
        self.finish(node, Some(instance), what.unwrap_or_default())
    }

    /// Somebody else changes keys.
    pub fn write_as_another(&mut self, node: usize, write: impl FnOnce(&mut Keyspace)) -> Executed {
        write(&mut self.nodes[node].space);
        self.finish(node, None, "another writer".into())
    }

    fn finish(&mut self, node: usize, instance: Option<usize>, what: String) -> Executed {
        let space = &mut self.nodes[node].space;
        let touched = space.end_command();
        let published = std::mem::take(&mut space.published);
        for conn in self.conns.values_mut().filter(|conn| conn.node == node && conn.announced.is_some()) {
            let followed = |key: &&Bytes| conn.tracked.iter().any(|prefix| key.starts_with(prefix));
            let keys: Vec<Bytes> = touched.iter().filter(followed).cloned().collect();
            if !keys.is_empty() {
                conn.outbox.push_back(Written::Announced(keys));
            }
        }
        Executed { node, instance, what, touched, published }
    }

    fn answer(&mut self, id: u64, name: &'static str, args: &[Bytes]) -> Result<Reply, String> {
        let text = |text: &str| Ok(Reply::Text(Bytes::copy_from_slice(text.as_bytes())));
        let node = self.conns[&id].node;
        match (name, args) {
            ("INFO", _) => text(&self.info(node)),
            ("CLUSTER", _) => Ok(self.slots()),
            ("CLIENT", [_, _, _, prefixes @ ..]) => {
                let prefixes = prefixes.chunks(2).map(|pair| pair[1].clone()).collect();
                if let Some(conn) = self.conns.get_mut(&id) {
                    conn.tracked = prefixes;
                }
                text("OK")
            }
            ("SCRIPT", [_, script]) => {
                let script = std::str::from_utf8(script).unwrap();
                let script = self.mutant.map_or_else(|| script.to_owned(), |mutant| mutant.script(script));
                let mut hasher = DefaultHasher::new();
                script.hash(&mut hasher);
                let hash = format!("{:016x}", hasher.finish());
                self.nodes[node].scripts.insert(hash.clone().into(), script.into());
                text(&hash)
            }
            ("EVALSHA", [hash, count, rest @ ..]) => {
                let count: usize = std::str::from_utf8(count).unwrap().parse().unwrap();
                let (keys, args) = rest.split_at(count);
                let Some(script) = self.nodes[node].scripts.get(hash).cloned() else {
                    return Err("NOSCRIPT No matching script.".into());
                };
                self.evaluate(id, script, keys, args)
            }
            (_, keys) => {
                if !args.first().is_some_and(|key| key.starts_with(CHECKPOINT)) {
                    self.flush_held(id);
                }
                let keys = match name {
                    "SCAN" | "PING" => &[],
                    "GET" | "SET" | "HGET" => &keys[..1],
                    _ => keys,
                };
                self.redirected(node, keys)?;
                self.nodes[node].space.execute(name, args)
            }
        }
    }

    fn evaluate(
        &mut self,
        id: u64,
        script: Arc<str>,
        keys: &[Bytes],
        args: &[Bytes],
    ) -> Result<Reply, String> {
        let node = self.conns[&id].node;
        self.redirected(node, keys)?;
        // The records about loads, terms and checkpoints would take it first, and so would keys in slots of their own; this
        // bug shows where an event is published.
        let publishes =
            script.starts_with(APPLY) && !keys.first().is_some_and(|key| key.starts_with(OWN_FENCE));
        let spared = self.mutant == Some(Mutant::RetryOutOfOrder) && !publishes;
        if !spared && let Some(error) = self.nodes[node].fails.take() {
            return Err(error.into());
        }
        if self.mutant == Some(Mutant::CheckpointBeforeData) && script.starts_with(APPLY) {
            if self.conns[&id].overtaken {
                self.flush_held(id);
            }
            let held = self.conns.get_mut(&id).map(|conn| {
                conn.held.push((Arc::clone(&script), keys.to_vec(), args.to_vec()));
                conn.held.clone()
            });
            let mut space = self.nodes[node].space.clone();
            let mut reply = Ok(Reply::Nil);
            for (script, keys, args) in held.unwrap_or_default() {
                reply = lua::run(&script, &keys, &args, &mut space);
            }
            return reply;
        }
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.overtaken = keys.first().is_some_and(|key| key.starts_with(CHECKPOINT));
        }
        lua::run(&script, keys, args, &mut self.nodes[node].space)
    }

    fn flush_held(&mut self, id: u64) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.overtaken = false;
        let (node, held) = (conn.node, std::mem::take(&mut conn.held));
        for (script, keys, args) in held {
            let _ = lua::run(&script, &keys, &args, &mut self.nodes[node].space);
        }
    }

    /// Whether a node has to send the client elsewhere.
    fn redirected(&self, node: usize, keys: &[Bytes]) -> Result<(), String> {
        if !self.is_cluster() {
            return Ok(());
        }
        let Some(first) = keys.first() else { return Ok(()) };
        let slot = keyslot(first);
        if keys.iter().any(|key| keyslot(key) != slot) {
            return Err("CROSSSLOT Keys in request don't hash to the same slot".into());
        }
        let owner = self.owner(first);
        match owner == node {
            true => Ok(()),
            false => Err(format!("MOVED {slot} {}", self.nodes[owner].address)),
        }
    }

    /// All that is asked for, whatever the section. A replica that took over remembers whose it was.
    fn info(&self, node: usize) -> String {
        let (cluster, lives) = (u8::from(self.is_cluster()), self.nodes[node].lives);
        let before = lives.checked_sub(1).map_or_else(|| "0".repeat(40), |before| format!("{node}-{before}"));
        format!(
            "redis_version:7.0.15\r\ncluster_enabled:{cluster}\r\nrun_id:{node}-{lives}\r\nrole:master\r\n\
             connected_slaves:1\r\nmaster_replid:{node}-{lives}\r\nmaster_replid2:{before}\r\n"
        )
    }

    /// CLUSTER SLOTS.
    fn slots(&self) -> Reply {
        let text = |text: &str| Reply::Text(Bytes::copy_from_slice(text.as_bytes()));
        let (count, all) = (self.nodes.len(), usize::from(SLOTS));
        let range = |(number, node): (usize, &Node)| {
            let first = (number * all).div_ceil(count);
            let last = ((number + 1) * all).div_ceil(count) - 1;
            let host = vec![text(&node.address.host), Reply::Int(node.address.port.into()), text(&node.id)];
            Reply::List(vec![Reply::Int(first as i64), Reply::Int(last as i64), Reply::List(host)])
        };
        Reply::List(self.nodes.iter().enumerate().map(range).collect())
    }
}

/// What a command is about.
fn subject(name: &str, args: &[Bytes]) -> String {
    let keys = match name {
        "EVALSHA" => args.get(2..).unwrap_or_default(),
        _ => args,
    };
    let words =
        keys.iter().take(4).map(|key| String::from_utf8_lossy(key).chars().take(120).collect::<String>());
    words.collect::<Vec<_>>().join(" ")
}

fn short(reply: &Result<Reply, String>) -> String {
    match reply {
        Ok(Reply::List(items)) => {
            let words: Vec<&str> = items.iter().filter_map(Reply::utf8).collect();
            words.join(" ")
        }
        Ok(Reply::Nil) => "nil".into(),
        Ok(Reply::Int(number)) => number.to_string(),
        Ok(Reply::Text(text)) => String::from_utf8_lossy(text).chars().take(60).collect(),
        Err(line) => line.clone(),
    }
}
