//! The connections to all masters, each made again when it breaks, and the slot map.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::sync::watch;

use super::node::{Command, Login, Node};
use super::reply::{NodeError, Reply};
use super::script::Scripts;
use super::seeds::{self, Role, cluster_slots};
use super::slots::{Address, Topology};
use super::tracking::Way;
use crate::config;
use crate::error::{Error, Result};
use crate::metrics::SinkMetrics;

/// A connection whose node knows the scripts.
pub struct Lane {
    /// The connection.
    pub node: Node,
    /// Hashes of the scripts there.
    pub scripts: Scripts,
}

/// A node's error and the node it came from.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// Where.
    pub address: Address,
    /// What.
    pub error: NodeError,
}

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Error {
        trouble.error.at(&trouble.address)
    }
}

/// Every connection.
pub struct Lanes {
    login: Login,
    database: u8,
    seeds: Vec<Address>,
    topology: Topology,
    lanes: HashMap<Address, Lane>,
    generation: u64,
    doubts: u64,
    /// Why no master could be found among the seeds, when it was last looked for.
    leaderless: Option<Error>,
    /// Who the masters are, for those who look beside.
    told: watch::Sender<Topology>,
    metrics: SinkMetrics,
}

impl Lanes {
    /// Asks the seeds in turn what there is, and connects to every master.
    ///
    /// # Errors
    /// The last seed's, or the first that no other seed can cure.
    pub async fn connect(redis: &config::Redis, login: Login, metrics: SinkMetrics) -> Result<Lanes> {
        let seeds: Vec<Address> =
            redis.seeds.iter().map(|(host, port)| Address::new(host.clone(), *port)).collect();
        let mut last = Error::definite("redis.url names no server", "give it at least one");
        for seed in &seeds {
            match seeds::topology(seed, &seeds, &login).await {
                Ok(topology) => {
                    let (told, _) = watch::channel(topology.clone());
                    let mut lanes = Lanes {
                        told,
                        login,
                        database: redis.database,
                        seeds,
                        topology,
                        lanes: HashMap::new(),
                        generation: 0,
                        doubts: 0,
                        leaderless: None,
                        metrics,
                    };
                    lanes.check_database()?;
                    lanes.connect_all().await?;
                    return Ok(lanes);
                }
                Err(error) if error.is_transient() => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    fn check_database(&self) -> Result<()> {
        match (&self.topology, self.database) {
            (Topology::Cluster { .. }, 1..) => Err(Error::definite(
                format!("a redis cluster has no database {}", self.database),
                "leave the number out of redis.url",
            )),
            _ => Ok(()),
        }
    }

    /// Grows with every connection made to a master, every change of the slot map and every [`doubt`](Lanes::doubt).
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Grows with every connection made to a master, every change of who they are and every [`doubt`](Lanes::doubt):
    /// with all that may come with a loss. Slots that move from one to another lose nothing.
    pub fn doubts(&self) -> u64 {
        self.doubts
    }

    /// What was learned over these connections no longer holds.
    pub fn doubt(&mut self) {
        self.doubts += 1;
        self.generation += 1;
    }

    /// Why there is no master to write to, where several servers could be it.
    pub fn leaderless(&self) -> Option<&Error> {
        self.leaderless.as_ref()
    }

    /// Who owns what.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// How to reach the masters beside these connections.
    pub fn way(&self) -> Way {
        Way { login: self.login.clone(), database: self.database, topology: self.told.subscribe() }
    }

    /// Connects to every master that has no connection yet.
    ///
    /// # Errors
    /// The first node that cannot be reached.
    pub async fn connect_all(&mut self) -> std::result::Result<(), Trouble> {
        let masters = self.topology.masters();
        self.lanes.retain(|address, _| masters.contains(address));
        for address in masters {
            self.open(&address).await?;
        }
        Ok(())
    }

    /// The connection to `address`, made now if there is none.
    ///
    /// # Errors
    /// The node cannot be reached or does not take the scripts.
    pub async fn open(&mut self, address: &Address) -> std::result::Result<&Lane, Trouble> {
        let trouble = |error| Trouble { address: address.clone(), error };
        if !self.lanes.contains_key(address) {
            let node = Node::connect(address, &self.login, self.database).await.map_err(trouble)?;
            let scripts = Scripts::load(&node).await.map_err(trouble)?;
            if self.generation > 0 {
                self.refuse_replica(&node).await.map_err(trouble)?;
                self.metrics.reconnects.inc();
            }
            let is_master = u64::from(self.topology.masters().contains(address));
            self.generation += is_master;
            self.doubts += is_master;
            self.leaderless = None;
            self.lanes.insert(address.clone(), Lane { node, scripts });
        }
        self.lanes.get(address).ok_or_else(|| trouble(NodeError::TimedOut))
    }

    /// A server without cluster mode that takes no writes is not connected again before it does: what it holds by then
    /// is another's.
    async fn refuse_replica(&self, node: &Node) -> std::result::Result<(), NodeError> {
        match self.topology.is_cluster() || Role::of(node).await?.master {
            true => Ok(()),
            false => Err(NodeError::ReadOnly),
        }
    }

    /// The connection to `address`, if there is one.
    pub fn get(&self, address: &Address) -> Option<&Lane> {
        self.lanes.get(address)
    }

    /// Sends one command to the owner of `key`, following the slot map only.
    ///
    /// # Errors
    /// As [`ask`](Lanes::ask).
    pub async fn call(&mut self, key: &[u8], command: Command) -> std::result::Result<Reply, Trouble> {
        let slot = self.topology.slot(key);
        match self.topology.owner(slot).cloned() {
            Some(address) => self.ask(&address, command).await,
            None => {
                let trouble = self.unowned();
                self.recover(&trouble).await;
                Err(trouble)
            }
        }
    }

    /// Sends one command to a node.
    ///
    /// # Errors
    /// The node's; what can be done about it at once was done, so that another try may succeed.
    pub async fn ask(&mut self, address: &Address, command: Command) -> std::result::Result<Reply, Trouble> {
        let trouble = |error| Trouble { address: address.clone(), error };
        let reply = match self.open(address).await {
            Ok(lane) => lane.node.call(command).await.map_err(trouble),
            Err(trouble) => Err(trouble),
        };
        if let Err(trouble) = &reply {
            self.recover(trouble).await;
        }
        reply
    }

    /// Puts a record, or none where it is empty, over `before` and over no other; what is there where that is another one.
    ///
    /// # Errors
    /// As [`ask`](Lanes::ask).
    pub async fn keep(
        &mut self,
        key: &Bytes,
        before: Bytes,
        record: Bytes,
    ) -> std::result::Result<Reply, Trouble> {
        let owner = self.topology.owner(self.topology.slot(key)).cloned();
        let Some(address) = owner else {
            let trouble = self.unowned();
            self.recover(&trouble).await;
            return Err(trouble);
        };
        let command = match self.open(&address).await {
            Ok(lane) => lane.scripts.keep(key.clone(), before, record),
            // The node may be gone for good, and another one its successor.
            Err(trouble) => {
                self.recover(&trouble).await;
                return Err(trouble);
            }
        };
        self.ask(&address, command).await
    }

    /// Gives up the connection that is of no more use, and reads the slot map again where it is in doubt.
    pub async fn recover(&mut self, trouble: &Trouble) {
        let demoted = trouble.error == NodeError::ReadOnly && !self.topology.is_cluster();
        if trouble.error.ends_connection() || trouble.error == NodeError::NoScript || demoted {
            self.lanes.remove(&trouble.address);
        }
        if trouble.error.doubts_topology() {
            self.refresh().await;
        }
    }

    /// The trouble of a slot that no node owns.
    pub fn unowned(&self) -> Trouble {
        let address = self.topology.masters().into_iter().next().or_else(|| self.seeds.first().cloned());
        Trouble { address: address.unwrap_or_else(|| Address::new("", 0)), error: NodeError::ClusterDown }
    }

    /// Asks the seeds again who is the master.
    async fn look_for_master(&mut self) {
        if self.seeds.len() < 2 {
            return;
        }
        let found = seeds::master(&self.seeds, &self.login).await;
        self.leaderless = found.as_ref().err().cloned();
        let Ok(found) = found else { return };
        let now = Topology::Single(found.clone());
        if now != self.topology {
            tracing::info!(master = %found, "another redis server is the master now");
            self.told.send_replace(now.clone());
            self.topology = now;
            self.generation += 1;
            self.doubts += 1;
            self.lanes.clear();
        }
    }

    /// Reads the slot map again, from any node that still answers.
    pub async fn refresh(&mut self) {
        if !self.topology.is_cluster() {
            return self.look_for_master().await;
        }
        let mut ask: Vec<Address> = self.topology.masters();
        ask.extend(self.seeds.iter().filter(|seed| !self.lanes.contains_key(*seed)).cloned());
        for address in ask {
            let reply = match self.lanes.get(&address) {
                Some(lane) => lane.node.call(cluster_slots()).await,
                None => match Node::connect(&address, &self.login, 0).await {
                    Ok(node) => node.call(cluster_slots()).await,
                    Err(error) => Err(error),
                },
            };
            match reply {
                // The same map as before: another node may know of a failover already.
                Ok(reply) => {
                    if self.learn(&reply, &address) {
                        return;
                    }
                }
                Err(error) if error.ends_connection() => drop(self.lanes.remove(&address)),
                Err(_) => {}
            }
        }
    }

    /// Goes on with what a node answered to [`cluster_slots`], where that is whole and another map; whether it is.
    fn learn(&mut self, reply: &Reply, from: &Address) -> bool {
        let found = Topology::from_cluster_slots(reply, from);
        if !matches!(found, Topology::Cluster { complete: true, .. }) || found == self.topology {
            return false;
        }
        tracing::info!(masters = found.masters().len(), "redis cluster topology changed");
        self.doubts += u64::from(!found.has_masters_of(&self.topology));
        self.told.send_replace(found.clone());
        self.topology = found;
        self.generation += 1;
        let masters = self.topology.masters();
        self.lanes.retain(|address, _| masters.contains(address));
        true
    }

    /// Asks for the slot map and for signs of life: a server with a `timeout`, or a proxy, would close what nothing is
    /// sent over.
    ///
    /// # Errors
    /// As [`ask`](Lanes::ask).
    pub async fn keep_alive(&mut self) -> std::result::Result<(), Trouble> {
        // One that is cut off from the others has a map of its own: always the same is believed.
        if self.topology.is_cluster()
            && let Some(first) = self.topology.masters().first()
        {
            let reply = self.ask(first, cluster_slots()).await?;
            self.learn(&reply, first);
        }
        for master in self.topology.masters() {
            let is_alive = match self.open(&master).await {
                Ok(_) => self.sign_of_life(&master).await,
                Err(trouble) => Err(trouble),
            };
            if let Err(trouble) = is_alive {
                self.recover(&trouble).await;
                return Err(trouble);
            }
        }
        Ok(())
    }

    /// Of a server without cluster mode, that it takes writes.
    async fn sign_of_life(&self, address: &Address) -> std::result::Result<(), Trouble> {
        let Some(lane) = self.lanes.get(address) else { return Ok(()) };
        let sign = match self.topology.is_cluster() {
            true => lane.node.call(Command::fixed("PING", &[])).await.map(drop),
            false => self.refuse_replica(&lane.node).await,
        };
        sign.map_err(|error| Trouble { address: address.clone(), error })
    }
}
