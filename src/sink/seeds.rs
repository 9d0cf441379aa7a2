//! What there is, as the servers in `redis.url` say: a cluster, one server, or which of several is the master.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::node::{Command, Login, Node};
use super::reply::{NodeError, info_field};
use super::slots::{Address, Topology};
use crate::error::{Error, Result};

/// Oldest Redis that has every command used here (`GETEX`-era ACL, `CLIENT TRACKING`, `UNLINK` in scripts).
const OLDEST_VERSION: (u32, u32) = (6, 2);

/// Longest time that one seed may take: a host that is gone must not hide the one that took over.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// What a server says of its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Role {
    /// Whether it takes writes.
    pub master: bool,
    /// Replicas that are connected to it.
    pub replicas: u32,
}

impl Role {
    /// Asks a server that is connected.
    ///
    /// # Errors
    /// The node's.
    pub async fn of(node: &Node) -> std::result::Result<Role, NodeError> {
        let info = node.call(Command::fixed("INFO", &["REPLICATION"])).await?;
        let replicas = info_field(&info, "connected_slaves").and_then(|count| count.parse().ok());
        Ok(Role { master: info_field(&info, "role") == Some("master"), replicas: replicas.unwrap_or(0) })
    }
}

/// What there is, as `seed` says; of several servers without cluster mode the master alone.
///
/// # Errors
/// Transient where a server is away, or the cluster not whole; definite where the version or the login is wrong.
pub async fn topology(seed: &Address, seeds: &[Address], login: &Login) -> Result<Topology> {
    match discover(seed, login).await? {
        Topology::Single(_) if seeds.len() > 1 => discover(&master(seeds, login).await?, login).await,
        topology => Ok(topology),
    }
}

/// What `seed` belongs to, once its version is known to be new enough.
async fn discover(seed: &Address, login: &Login) -> Result<Topology> {
    let at = |error: NodeError| error.at(seed);
    let node = Node::connect(seed, login, 0).await.map_err(at)?;
    let info = node.call(Command::fixed("INFO", &["SERVER"])).await.map_err(at)?;
    let version = info_field(&info, "redis_version").unwrap_or_default();
    if parse_version(version).is_none_or(|version| version < OLDEST_VERSION) {
        let (major, minor) = OLDEST_VERSION;
        return Err(Error::definite(
            format!("redis {seed} is version {version:?}"),
            format!("run {major}.{minor} or newer"),
        ));
    }
    let cluster = node.call(Command::fixed("INFO", &["CLUSTER"])).await.map_err(at)?;
    if info_field(&cluster, "cluster_enabled") != Some("1") {
        return Ok(Topology::Single(seed.clone()));
    }
    let slots = node.call(cluster_slots()).await.map_err(at)?;
    match Topology::from_cluster_slots(&slots, seed) {
        topology @ Topology::Cluster { complete: true, .. } => Ok(topology),
        _ => Err(Error::transient(
            format!("the redis cluster at {seed} has slots without a master"),
            "see \"redis-cli --cluster check\"",
        )),
    }
}

/// Asks a node who owns which slots.
pub fn cluster_slots() -> Command {
    Command::fixed("CLUSTER", &["SLOTS"])
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

/// Asks all seeds at the same time which of them is the master.
///
/// # Errors
/// Transient where none is, or where two are that cannot be told apart; definite where no seed can be logged in to.
pub async fn master(seeds: &[Address], login: &Login) -> Result<Address> {
    let asked = join_all(seeds.iter().map(|seed| async move {
        let asked = timeout(ASK_TIMEOUT, async { Role::of(&Node::connect(seed, login, 0).await?).await });
        asked.await.unwrap_or(Err(NodeError::TimedOut)).map_err(|error| error.at(seed))
    }));
    choose(seeds, asked.await)
}

/// Of several masters the one that has the most replicas is it: one that came back from the dead has none.
fn choose(seeds: &[Address], roles: Vec<Result<Role>>) -> Result<Address> {
    let mut masters: Vec<(u32, &Address)> = Vec::new();
    let (mut fault, mut replica) = (None, None);
    for (seed, role) in seeds.iter().zip(roles) {
        match role {
            Ok(Role { master: true, replicas }) => masters.push((replicas, seed)),
            Ok(_) => replica = replica.or(Some(seed)),
            Err(error) => fault = fault.or(Some(error)),
        }
    }
    masters.sort_by_key(|(replicas, _)| std::cmp::Reverse(*replicas));
    match masters.as_slice() {
        [(most, first), (next, second), ..] if most == next => Err(Error::transient(
            format!("redis {first} and {second} both say that they are the master"),
            "make one of them the other's replica (REPLICAOF)",
        )),
        [(_, master), ..] => Ok((*master).clone()),
        [] => Err(match (replica, fault) {
            (None, Some(fault)) => fault,
            _ => Error::transient(
                "none of the servers in redis.url that answer is a master",
                "promote one (REPLICAOF NO ONE), or bring the master back",
            ),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_master_is_the_one_that_replicas_follow() {
        let seeds = [1, 2, 3].map(|port| Address::new("h", port));
        let master = |replicas| Ok(Role { master: true, replicas });
        let replica = || Ok(Role { master: false, replicas: 0 });
        let away = || Err(Error::transient("h:1 is away", ""));
        let chosen = |roles| choose(&seeds, roles).map(|address| address.port);
        assert_eq!(chosen(vec![replica(), master(0), away()]), Ok(2));
        assert_eq!(chosen(vec![master(0), replica(), master(1)]), Ok(3), "the first came back alone");
        for (roles, words) in [
            (vec![master(0), replica(), master(0)], "h:1 and h:3 both"),
            (vec![replica(), replica(), replica()], "none of the servers"),
            (vec![away(), replica(), replica()], "none of the servers"),
            (vec![away(), away(), away()], "h:1 is away"),
        ] {
            let fault = chosen(roles).unwrap_err();
            assert!(fault.is_transient() && fault.to_string().contains(words), "{fault}");
        }
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(parse_version("6.0.16").unwrap() < OLDEST_VERSION);
        assert!(parse_version("10.1.0").unwrap() > OLDEST_VERSION);
        assert_eq!(parse_version("seven"), None);
    }
}
