//! Whether every node can keep what is written as `redis.durability` asks.

use super::{Item, Verdict};
use crate::config::Durability;
use crate::sink::NodeFacts;

/// The first Redis that knows `WAITAOF`; Valkey says that it is this one.
const WAITAOF_SINCE: (u32, u32) = (7, 2);

/// What `INFO` said of every master, where more is asked than that the master has it in memory.
pub(super) fn judge(nodes: &[NodeFacts], durability: Durability) -> Vec<Item> {
    nodes.iter().filter_map(|node| judge_node(node, durability)).collect()
}

fn judge_node(node: &NodeFacts, durability: Durability) -> Option<Item> {
    const OTHER: &str = "set redis.durability to \"replicated(1)\" or \"applied\"";
    let topic = format!("redis {}", node.address);
    let asked = format!("redis.durability is {durability}");
    Some(match durability {
        Durability::Applied => return None,
        Durability::Replicated(wanted) if node.replicas < u32::from(wanted) => Item::new(
            Verdict::Failure,
            topic,
            format!(
                "{asked}, and {} replicas are connected: the slot would keep its position",
                node.replicas
            ),
            "bring its replicas up, or ask for fewer",
        ),
        Durability::Fsynced if is_before(&node.version, WAITAOF_SINCE) => Item::new(
            Verdict::Obstacle,
            topic,
            format!("{asked}, and Redis {} does not know WAITAOF", node.version),
            format!("run Redis 7.2 or newer, or {OTHER}"),
        ),
        Durability::Fsynced if !node.append_only => Item::new(
            Verdict::Obstacle,
            topic,
            format!("{asked}, and appendonly is off"),
            format!("run CONFIG SET appendonly yes, and CONFIG REWRITE, or {OTHER}"),
        ),
        Durability::Replicated(_) | Durability::Fsynced => Item::pass(topic, asked),
    })
}

/// The command that it takes, for the question whether this user may run it.
pub(super) fn command(durability: Durability) -> Option<Vec<String>> {
    let words: &[&str] = match durability {
        Durability::Applied => return None,
        Durability::Replicated(_) => &["WAIT", "0", "1"],
        Durability::Fsynced => &["WAITAOF", "0", "0", "1"],
    };
    Some(words.iter().map(|word| (*word).to_owned()).collect())
}

fn is_before(version: &str, (major, minor): (u32, u32)) -> bool {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < (major, minor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::slots::Address;

    #[test]
    fn what_a_node_cannot_keep_is_told_with_its_cure() {
        let judged = |version: &str, replicas, append_only, durability| {
            let node = NodeFacts {
                address: Address::new("127.0.0.1", 6379),
                version: version.into(),
                role: "master".into(),
                eviction_policy: "noeviction".into(),
                max_memory_bytes: 0,
                replicas,
                append_only,
                cluster_state: None,
            };
            judge(&[node], durability).pop().map(|item| (item.verdict, item.fact))
        };
        assert_eq!(judged("7.0.15", 0, false, Durability::Applied), None);
        let (verdict, fact) = judged("7.0.15", 1, false, Durability::Replicated(2)).unwrap();
        assert!(verdict == Verdict::Failure && fact.contains("1 replicas"), "{fact}");
        assert_eq!(judged("7.0.15", 2, false, Durability::Replicated(2)).unwrap().0, Verdict::Pass);
        let (verdict, fact) = judged("7.0.15", 0, true, Durability::Fsynced).unwrap();
        assert!(verdict == Verdict::Obstacle && fact.contains("7.0.15 does not know WAITAOF"), "{fact}");
        let (verdict, fact) = judged("7.2.4", 0, false, Durability::Fsynced).unwrap();
        assert!(verdict == Verdict::Obstacle && fact.contains("appendonly"), "{fact}");
        assert_eq!(judged("10.0.1", 0, true, Durability::Fsynced).unwrap().0, Verdict::Pass);
    }
}
