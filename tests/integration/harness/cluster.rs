//! A private Redis Cluster: three masters, three replicas.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::redis::{Redis, RedisOptions, pairs};
use super::resp::{Reply, slot_of};
use super::{eventually, eventually_ok};

const NODES: usize = 6;
const MASTERS: usize = 3;

/// Six nodes; killed and removed on drop.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Redis>,
}

impl Cluster {
    pub async fn start() -> Cluster {
        Cluster::start_with(RedisOptions::default()).await
    }

    /// Every node with the same options.
    pub async fn start_with(options: RedisOptions) -> Cluster {
        let options = RedisOptions { cluster: true, ..options };
        let start = |_| Redis::start(options.clone());
        let cluster = Cluster { nodes: futures_util::future::join_all((0..NODES).map(start)).await };
        let addresses: Vec<String> =
            cluster.nodes.iter().map(|n| format!("127.0.0.1:{}", n.port())).collect();
        let mut arguments = vec!["--cluster", "create"];
        arguments.extend(addresses.iter().map(String::as_str));
        arguments.extend(["--cluster-replicas", "1", "--cluster-yes"]);
        cluster.nodes[0].cli(&arguments);
        cluster.eventually_whole().await;
        cluster
    }

    /// Waits until every running node sees every slot served, at the same masters and none on its way, and every replica,
    /// and is linked if it is one: a master that dies before its replica has heard of a slot takes the slot with it.
    pub async fn eventually_whole(&self) {
        let whole = eventually_ok(async || {
            let running: Vec<&Redis> = self.nodes.iter().filter(|node| node.is_running()).collect();
            let mut views = Vec::new();
            for node in &running {
                views.push(whole_view(node, running.len()).await?);
            }
            match views.windows(2).all(|two| two[0] == two[1]) {
                true => Ok(()),
                false => Err(format!("{views:?}")),
            }
        });
        whole.await.unwrap_or_else(|sees| panic!("the cluster does not become whole: {sees}"));
    }

    pub fn node(&self, index: usize) -> &Redis {
        &self.nodes[index]
    }

    pub fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// Seeds for the configuration, the cluster's scheme on each.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.url().replacen("redis", "redis-cluster", 1)).collect()
    }

    /// The running nodes that call themselves master.
    pub async fn masters(&self) -> Vec<usize> {
        let mut masters = Vec::new();
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.is_running()) {
            if node.call(&["ROLE"]).await.items().first() == Some(&Reply::Text("master".into())) {
                masters.push(index);
            }
        }
        masters
    }

    /// The node that serves the key.
    pub async fn master_of(&self, key: &str) -> usize {
        self.master_of_slot(slot_of(key)).await
    }

    pub async fn master_of_slot(&self, slot: u16) -> usize {
        let what = format!("slot {slot} is served");
        let master = eventually(&what, async || {
            let served = self.slots().await;
            served.into_iter().find(|(range, _)| range.contains(&slot)).map(|(_, node)| node)
        });
        master.await
    }

    /// Ranges of slots with the nodes that serve them, as the first running node sees it.
    pub async fn slots(&self) -> Vec<(RangeInclusive<u16>, usize)> {
        let asked = self.nodes.iter().find(|node| node.is_running()).expect("a running node");
        let ranges = asked.call(&["CLUSTER", "SLOTS"]).await;
        ranges.items().iter().filter_map(|range| self.range(range)).collect()
    }

    fn range(&self, range: &Reply) -> Option<(RangeInclusive<u16>, usize)> {
        let [Reply::Integer(first), Reply::Integer(last), master, ..] = range.items() else { return None };
        let port = master.items().get(1)?.text()?;
        let node = self.nodes.iter().position(|node| node.port().to_string() == port)?;
        Some((u16::try_from(*first).ok()?..=u16::try_from(*last).ok()?, node))
    }

    pub async fn get(&self, key: &str) -> Option<String> {
        self.call(key, &["GET", key]).await.text()
    }

    pub async fn hash(&self, key: &str) -> BTreeMap<String, String> {
        pairs(&self.call(key, &["HGETALL", key]).await)
    }

    /// One command on the master of `key`.
    pub async fn call(&self, key: &str, command: &[&str]) -> Reply {
        let master = self.master_of(key).await;
        self.nodes[master].call(command).await
    }

    /// Moves a slot with its keys to another master while clients use it.
    pub async fn move_slot(&self, slot: u16, to: usize) {
        let from = self.begin_move(slot, to).await;
        self.migrate_keys(slot, from, to).await;
        self.finish_move(slot, from, to).await;
    }

    /// Opens the slot: from now on its master answers ASK for keys it does not hold. Returns that master.
    pub async fn begin_move(&self, slot: u16, to: usize) -> usize {
        let from = self.master_of_slot(slot).await;
        let slot = slot.to_string();
        let (source, target) = (self.id(from).await, self.id(to).await);
        self.nodes[to].call(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source]).await;
        self.nodes[from].call(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target]).await;
        from
    }

    /// Moves every key of an open slot.
    pub async fn migrate_keys(&self, slot: u16, from: usize, to: usize) {
        let (slot, port) = (slot.to_string(), self.nodes[to].port().to_string());
        loop {
            let keys = self.nodes[from].call(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]).await.texts();
            if keys.is_empty() {
                return;
            }
            let mut migrate = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            migrate.extend(keys.iter().map(String::as_str));
            self.nodes[from].call(&migrate).await;
        }
    }

    /// Gives an open, emptied slot to its new master.
    pub async fn finish_move(&self, slot: u16, from: usize, to: usize) {
        let (number, target) = (slot.to_string(), self.id(to).await);
        let others = self.masters().await.into_iter().filter(|n| *n != from && *n != to);
        for node in [to, from].into_iter().chain(others) {
            let told =
                self.nodes[node].client().await.call(&["CLUSTER", "SETSLOT", &number, "NODE", &target]).await;
            match told.expect("an answer") {
                // A master that has given its last slot away becomes a replica of who took it, and knows already.
                Reply::Error(refused) if refused.contains("only with masters") => {}
                Reply::Error(refused) => panic!("slot {number} on node {node}: {refused}"),
                _ => {}
            }
        }
    }

    /// Makes a replica of this master the master, in agreement; returns it.
    pub async fn failover(&self, master: usize) -> usize {
        let replica = self.replica_of(master).await;
        self.nodes[replica].call(&["CLUSTER", "FAILOVER"]).await;
        self.eventually_master(replica).await;
        replica
    }

    /// Kills a master and waits until a replica has taken over; returns it.
    pub async fn lose_master(&self, master: usize) -> usize {
        let replica = self.replica_of(master).await;
        self.nodes[master].kill9();
        self.eventually_master(replica).await;
        replica
    }

    /// Waits until a master's replica holds everything that was written to it.
    pub async fn replica_has_all_of(&self, master: usize) {
        let replica = self.replica_of(master).await;
        let offset = async |node: usize| {
            let info = self.nodes[node].call(&["INFO", "replication"]).await.text()?;
            info.lines().find(|line| line.starts_with("master_repl_offset:")).map(str::to_owned)
        };
        eventually("the replica holds everything", async || {
            (offset(master).await? == offset(replica).await?).then_some(())
        })
        .await;
    }

    async fn eventually_master(&self, index: usize) {
        eventually("a replica becomes master", async || self.masters().await.contains(&index).then_some(()))
            .await;
    }

    /// Takes a replica out of the cluster and lets it join anew as a master without slots.
    pub async fn becomes_an_empty_master(&self, node: usize) {
        self.leave_and_join(node).await;
        eventually("every node knows the new master", async || {
            let id = self.id(node).await;
            let serves = self.nodes[node].call(&["CLUSTER", "INFO"]).await.text()?;
            if !serves.contains("cluster_state:ok") {
                return None;
            }
            for other in &self.nodes {
                let known = other.call(&["CLUSTER", "NODES"]).await.text()?;
                let line = known.lines().find(|line| line.starts_with(&id))?;
                if !line.contains("master") || line.contains("handshake") || !line.contains(" connected") {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }

    /// Takes a master without slots out of the cluster and lets it join anew as a replica.
    pub async fn becomes_a_replica(&self, node: usize, of: usize) {
        self.becomes_an_empty_master(node).await;
        let master = self.id(of).await;
        self.nodes[node].call(&["CLUSTER", "REPLICATE", &master]).await;
    }

    async fn leave_and_join(&self, node: usize) {
        let left = self.id(node).await;
        // An empty node may be reset whatever it is; a new name keeps the old one's ban from hitting it.
        self.nodes[node].call(&["CLUSTER", "RESET", "HARD"]).await;
        let others = || self.nodes.iter().enumerate().filter(|(index, _)| *index != node);
        for (_, other) in others() {
            other.call(&["CLUSTER", "FORGET", &left]).await;
        }
        for (_, other) in others() {
            let port = other.port().to_string();
            self.nodes[node].call(&["CLUSTER", "MEET", "127.0.0.1", &port]).await;
        }
    }

    pub async fn replica_of(&self, master: usize) -> usize {
        let id = self.id(master).await;
        let nodes = self.nodes[master].call(&["CLUSTER", "NODES"]).await.text().unwrap_or_default();
        let line = nodes.lines().find(|line| line.split(' ').nth(3) == Some(&id)).expect("a replica");
        let address = line.split(' ').nth(1).and_then(|address| address.split('@').next());
        let is_it = |node: &Redis| address == Some(format!("127.0.0.1:{}", node.port()).as_str());
        self.nodes.iter().position(is_it).expect("a node of ours")
    }

    async fn id(&self, index: usize) -> String {
        self.nodes[index].call(&["CLUSTER", "MYID"]).await.text().expect("a node id")
    }
}

/// Who serves what, as this node sees it in a whole cluster of so many; else all that it sees.
async fn whole_view(node: &Redis, running: usize) -> Result<BTreeMap<String, Vec<String>>, String> {
    let ask = async |command: &[&str]| node.call(command).await.text().unwrap_or_default();
    let (info, nodes) = (ask(&["CLUSTER", "INFO"]).await, ask(&["CLUSTER", "NODES"]).await);
    let replication = ask(&["INFO", "replication"]).await;
    let replicas = nodes.lines().filter(|line| line.contains("slave") && !line.contains("fail")).count();
    let served = info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384");
    let linked = replication.contains("role:master") || replication.contains("master_link_status:up");
    let on_its_way = nodes.contains("->-") || nodes.contains("-<-");
    if served && on_its_way {
        end_finished_moves(node, &nodes).await;
    }
    if !(served && linked && !on_its_way && replicas + MASTERS == running) {
        return Err(format!("{} of {running} nodes sees\n{info}{nodes}{replication}", node.port()));
    }
    // Id, address, flags, master, ping, pong, epoch, link; then what it serves.
    let words = nodes.lines().map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>());
    Ok(words.filter(|words| words.len() > 8).map(|words| (words[0].clone(), words[8..].to_vec())).collect())
}

/// A slot that a node has given away is open there again after it was killed: where its file of the cluster is older than
/// the end of the move, or its dump still has keys of the slot. `redis-cli --cluster fix` ends both, the latter by
/// taking the old keys for the slot's own; here they go.
async fn end_finished_moves(node: &Redis, nodes: &str) {
    let words = nodes.lines().filter(|line| line.contains("myself")).flat_map(|line| line.split(' ').skip(8));
    let (open, served): (Vec<&str>, Vec<&str>) = words.partition(|word| word.starts_with('['));
    let serves = |slot: u32| {
        served.iter().any(|range| {
            let (first, last) = range.split_once('-').unwrap_or((*range, *range));
            (first.parse().unwrap_or(u32::MAX)..=last.parse().unwrap_or(0)).contains(&slot)
        })
    };
    for word in open.iter().filter_map(|word| word.strip_prefix('[')) {
        let Some((slot, _)) = word.split_once("->-").or_else(|| word.split_once("-<-")) else { continue };
        if !serves(slot.parse().expect("a slot")) {
            delete_keys(node, slot).await;
            node.call(&["CLUSTER", "SETSLOT", slot, "STABLE"]).await;
        }
    }
}

/// Of a slot that another node serves; only `ASKING` reaches them.
async fn delete_keys(node: &Redis, slot: &str) {
    let mut client = node.client().await;
    for key in node.call(&["CLUSTER", "GETKEYSINSLOT", slot, "10000"]).await.texts() {
        let _ = client.call(&["ASKING"]).await;
        let _ = client.call(&["UNLINK", &key]).await;
    }
}
