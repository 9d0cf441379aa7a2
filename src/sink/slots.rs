//! Which node owns which hash slot.

use std::fmt;

use super::reply::Reply;

/// Hash slots of a cluster (`CLUSTER_SLOTS` in cluster.h).
pub const SLOTS: u16 = 16_384;

/// Where a Redis server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Host name or IP address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Address {
    /// An address of its parts.
    pub fn new(host: impl Into<String>, port: u16) -> Address {
        Address { host: host.into(), port }
    }

    /// `host:port` as redirects print it; IPv6 hosts have no brackets there. `None` without a host:
    /// `MOVED 866 :7000` means "the host you asked".
    pub fn parse(text: &str) -> Option<Address> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        match host {
            "" | "?" => None,
            host => Some(Address::new(host, port.parse().ok()?)),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// A master and what it owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Master {
    /// Where it listens.
    pub address: Address,
    /// Its node id (`CLUSTER MYID`); empty on a server without cluster mode.
    pub id: String,
    /// First and last slot of each range.
    pub ranges: Vec<(u16, u16)>,
}

impl Master {
    /// A hash tag whose slot this node owns, always the same for the same ranges.
    pub fn tag(&self) -> Option<String> {
        (0..u32::from(SLOTS) * 64)
            .map(|n| n.to_string())
            .find(|tag| self.owns(super::node::keyslot(tag.as_bytes())))
    }

    fn owns(&self, slot: u16) -> bool {
        self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&slot))
    }
}

/// The servers and their slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    /// One Redis owns every key.
    Single(Address),
    /// A cluster.
    Cluster {
        /// Masters with at least one slot, by address.
        masters: Vec<Master>,
        /// Whether every slot has an owner.
        complete: bool,
    },
}

impl Topology {
    /// Reads the reply of `CLUSTER SLOTS`, sent to `asked`: a list of first slot, last slot, and nodes
    /// (host, port, id, ...) with the master first.
    pub fn from_cluster_slots(reply: &Reply, asked: &Address) -> Topology {
        let mut masters: Vec<Master> = Vec::new();
        let mut covered = 0;
        for entry in reply.list() {
            let [first, last, master, ..] = entry.list() else { continue };
            let bound = |reply: &Reply| reply.int().and_then(|slot| u16::try_from(slot).ok());
            let (Some(first), Some(last), [host, port, rest @ ..]) =
                (bound(first), bound(last), master.list())
            else {
                continue;
            };
            let Some(port) = bound(port) else { continue };
            // An empty or null host means the one that was asked.
            let host = host.utf8().filter(|host| !host.is_empty() && *host != "?").unwrap_or(&asked.host);
            let address = Address::new(host, port);
            let id = rest.first().and_then(Reply::utf8).unwrap_or_default();
            covered += u32::from(last.saturating_sub(first)) + 1;
            match masters.iter_mut().find(|known| known.address == address) {
                Some(known) => known.ranges.push((first, last)),
                None => masters.push(Master { address, id: id.to_owned(), ranges: vec![(first, last)] }),
            }
        }
        for master in &mut masters {
            master.ranges.sort_unstable();
        }
        masters.sort_by(|a, b| a.address.cmp(&b.address));
        Topology::Cluster { masters, complete: covered == u32::from(SLOTS) }
    }

    /// The owner of a slot.
    pub fn owner(&self, slot: u16) -> Option<&Address> {
        match self {
            Topology::Single(address) => Some(address),
            Topology::Cluster { masters, .. } => {
                masters.iter().find(|master| master.owns(slot)).map(|master| &master.address)
            }
        }
    }

    /// Every master's address.
    pub fn masters(&self) -> Vec<Address> {
        match self {
            Topology::Single(address) => vec![address.clone()],
            Topology::Cluster { masters, .. } => {
                masters.iter().map(|master| master.address.clone()).collect()
            }
        }
    }

    /// Whether both have the same masters, whatever slots these have.
    pub fn has_masters_of(&self, other: &Topology) -> bool {
        let names = |topology: &Topology| match topology {
            Topology::Single(address) => vec![(address.clone(), String::new())],
            Topology::Cluster { masters, .. } => {
                masters.iter().map(|master| (master.address.clone(), master.id.clone())).collect()
            }
        };
        names(self) == names(other)
    }

    /// Whether keys of different slots may not share a call.
    pub fn is_cluster(&self) -> bool {
        matches!(self, Topology::Cluster { .. })
    }

    /// The slot that routes `key`; on a single Redis all keys share one.
    pub fn slot(&self, key: &[u8]) -> u16 {
        match self {
            Topology::Single(_) => 0,
            Topology::Cluster { .. } => super::node::keyslot(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: &'static str, port: i64, id: &'static str) -> Reply {
        let text = |text: &'static str| Reply::Text(text.as_bytes().into());
        Reply::List(vec![text(host), Reply::Int(port), text(id), Reply::List(vec![])])
    }

    fn slots(ranges: &[(i64, i64, Reply)]) -> Topology {
        let entries = ranges
            .iter()
            .map(|(a, b, n)| Reply::List(vec![Reply::Int(*a), Reply::Int(*b), n.clone()]))
            .collect();
        Topology::from_cluster_slots(&Reply::List(entries), &Address::new("asked", 7000))
    }

    #[test]
    fn every_slot_finds_its_master() {
        let map = slots(&[
            (0, 5460, node("", 7000, "a")),
            (5461, 10922, node("b", 7001, "b")),
            (10923, 16383, node("c", 7002, "c")),
        ]);
        assert_eq!(map.owner(0), Some(&Address::new("asked", 7000)));
        assert_eq!(map.owner(5461), Some(&Address::new("b", 7001)));
        assert_eq!(map.owner(16383), Some(&Address::new("c", 7002)));
        let Topology::Cluster { masters, complete } = map else { panic!() };
        assert!(complete);
        for master in masters {
            let tag = master.tag().unwrap();
            assert!(master.owns(super::super::node::keyslot(format!("x:{{{tag}}}").as_bytes())));
        }
    }

    #[test]
    fn a_hole_in_the_map_is_no_owner() {
        let map = slots(&[(0, 5460, node("a", 7000, "a"))]);
        assert_eq!(map.owner(6000), None);
        assert!(matches!(map, Topology::Cluster { complete: false, .. }));
    }

    #[test]
    fn addresses_read_as_redirects_print_them() {
        assert_eq!(Address::parse("::1:7000"), Some(Address::new("::1", 7000)));
        assert_eq!(Address::parse("host:7000"), Some(Address::new("host", 7000)));
        assert_eq!(Address::parse(":7000"), None);
        assert_eq!(Address::new("::1", 7000).to_string(), "[::1]:7000");
    }
}
