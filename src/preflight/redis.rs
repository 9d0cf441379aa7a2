//! Preconditions on Redis' side.

use std::collections::BTreeSet;

use super::{Item, Verdict};
use crate::config::keys::ActionSpec;
use crate::config::{Config, KeyMapSpec, TableSpec, UserType};
use crate::error::Result;
use crate::sink::{NodeFacts, Sink};

/// Commands on no key that Lockstep sends, with arguments that nobody executes.
const KEYLESS: [&[&str]; 6] = [
    &["PING"],
    &["INFO"],
    &["SCAN", "0"],
    &["SCRIPT", "LOAD", "return 1"],
    &["EVALSHA", "0", "0"],
    &["CLIENT", "TRACKING", "ON"],
];
/// The same, on a cluster only.
const CLUSTER: [&[&str]; 3] = [&["CLUSTER", "INFO"], &["CLUSTER", "SLOTS"], &["ASKING"]];
/// Commands on Lockstep's own keys.
const OWN: [&[&str]; 6] = [
    &["MSET", "lockstep:check", "x"],
    &["MGET", "lockstep:check"],
    &["SET", "lockstep:check", "x"],
    &["GET", "lockstep:check"],
    &["DEL", "lockstep:check"],
    &["UNLINK", "lockstep:check"],
];
/// Stands for the user type in keys where a column tells it.
const SAMPLE_TYPE: &str = "live";

/// What `INFO` said of every master.
pub(super) fn judge(nodes: &[NodeFacts]) -> Vec<Item> {
    nodes.iter().flat_map(judge_node).collect()
}

fn judge_node(node: &NodeFacts) -> Vec<Item> {
    let topic = format!("redis {}", node.address);
    let item = |verdict, fact: String, cure: &str| Item::new(verdict, &topic, fact, cure);
    // An older one than 6.2 was refused when it was connected.
    let mut items = vec![Item::pass(&topic, format!("Redis {}, {}", node.version, node.role))];
    if node.role != "master" {
        let fact = format!("it is a {}, which takes no writes", node.role);
        items.push(item(Verdict::Obstacle, fact, "name the master in redis.url"));
    }
    if let Some(state) = node.cluster_state.as_deref().filter(|state| *state != "ok") {
        let fact = format!("cluster_state is {state}: some hash slots are not served");
        items.push(item(Verdict::Failure, fact, "run \"redis-cli --cluster check\" and mend the cluster"));
    }
    items.push(match node.eviction_policy.as_str() {
        _ if node.max_memory_bytes == 0 => Item::pass(&topic, "maxmemory is not set: nothing is evicted"),
        "noeviction" => Item::pass(&topic, "maxmemory_policy is noeviction"),
        policy if policy.starts_with("volatile") => item(
            Verdict::Warning,
            format!("maxmemory-policy is {policy}: keys with a TTL (user_balance) may vanish early, which readers take for absent"),
            "set maxmemory-policy noeviction if they must not",
        ),
        policy => item(
            Verdict::Failure,
            format!("maxmemory-policy is {policy}: any key may vanish, the fences that keep the order too"),
            "run CONFIG SET maxmemory-policy noeviction, and CONFIG REWRITE",
        ),
    });
    items
}

/// Whether this user may do all that Lockstep does. A publish that is denied only when it is reached comes after
/// another that was not, and would be repeated with it at every retry.
pub(super) async fn permissions(sink: &mut Sink, config: &Config) -> Result<Item> {
    let topic = "redis ACL";
    let user = config.redis.username.as_deref().unwrap_or("default");
    let wanted: Vec<Vec<String>> =
        wanted(&config.key_map, &config.tables, sink.is_cluster()).into_iter().collect();
    let Some(denied) = sink.denied(&wanted).await? else {
        let fact = format!("Redis before 7.0 cannot tell what user {user:?} may do");
        return Ok(Item::new(
            Verdict::Warning,
            topic,
            fact,
            "compare its rules with those that the README lists",
        ));
    };
    let denied: BTreeSet<String> =
        denied.into_iter().map(|words| words.get(..2).unwrap_or(words).join(" ")).collect();
    Ok(match denied.is_empty() {
        true => Item::pass(topic, format!("user {user:?} may do all that Lockstep does")),
        false => Item::new(
            Verdict::Obstacle,
            topic,
            format!("redis user {user:?} may not: {}", denied.into_iter().collect::<Vec<_>>().join(", ")),
            "grant these with ACL SETUSER, as the README lists them",
        ),
    })
}

/// Every kind of command on every key and channel of the map, for one user of each type.
fn wanted(key_map: &KeyMapSpec, tables: &[TableSpec], cluster: bool) -> BTreeSet<Vec<String>> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let fixed = KEYLESS.iter().chain(&OWN).chain(CLUSTER.iter().filter(|_| cluster));
    let mut wanted: BTreeSet<_> = fixed.map(|command| words(command)).collect();
    let types: BTreeSet<&str> = tables
        .iter()
        .map(|table| match &table.user_type {
            UserType::Constant(user_type) => user_type.as_str(),
            UserType::Column(_) => SAMPLE_TYPE,
        })
        .collect();
    for user_type in types {
        let sample = |template: &str| template.replace("$type", user_type).replace("$id", "1");
        for step in &key_map.steps {
            let commands: Vec<Vec<String>> = match &step.action {
                ActionSpec::Hash { key, .. } => {
                    let key = sample(key);
                    [&["HSET", &key, "f", "v"][..], &["HDEL", &key, "f"], &["HGET", &key, "f"]]
                        .into_iter()
                        .chain([&["HLEN", &key][..], &["EXISTS", &key], &["UNLINK", &key]])
                        .map(words)
                        .collect()
                }
                ActionSpec::String { key, .. } => {
                    let key = sample(key);
                    [&["SET", &key, "v"][..], &["GET", &key], &["UNLINK", &key]].map(words).into()
                }
                ActionSpec::Delete { keys } => {
                    keys.iter().map(|key| words(&["UNLINK", &sample(key)])).collect()
                }
                ActionSpec::DeletePattern { key } => vec![words(&["UNLINK", &sample(key).replace('*', "x")])],
                ActionSpec::Publish { channel, .. } => vec![words(&["PUBLISH", &sample(channel), "x"])],
            };
            wanted.extend(commands);
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::slots::Address;

    fn node() -> NodeFacts {
        NodeFacts {
            address: Address::new("127.0.0.1", 6379),
            version: "7.0.15".into(),
            role: "master".into(),
            eviction_policy: "noeviction".into(),
            max_memory_bytes: 1 << 30,
            cluster_state: Some("ok".into()),
        }
    }

    fn verdicts(node: NodeFacts) -> Vec<Verdict> {
        judge(&[node])
            .into_iter()
            .map(|item| item.verdict)
            .filter(|verdict| *verdict != Verdict::Pass)
            .collect()
    }

    #[test]
    fn each_fault_of_a_node_is_told_from_what_is_sound() {
        assert_eq!(verdicts(node()), []);
        assert_eq!(verdicts(NodeFacts { role: "slave".into(), ..node() }), [Verdict::Obstacle]);
        assert_eq!(verdicts(NodeFacts { cluster_state: Some("fail".into()), ..node() }), [Verdict::Failure]);
        assert_eq!(
            verdicts(NodeFacts { eviction_policy: "allkeys-lru".into(), ..node() }),
            [Verdict::Failure]
        );
        assert_eq!(
            verdicts(NodeFacts { eviction_policy: "volatile-lru".into(), ..node() }),
            [Verdict::Warning]
        );
        let unbounded = NodeFacts { eviction_policy: "allkeys-lru".into(), max_memory_bytes: 0, ..node() };
        assert_eq!(verdicts(unbounded), []);
    }

    #[test]
    fn the_built_in_map_asks_for_every_key_and_channel() {
        let built_in = KeyMapSpec::from_toml(crate::config::keys::BUILT_IN).unwrap();
        let wanted = wanted(&built_in, &TableSpec::defaults(), false);
        for command in [
            ["HSET", "user:{live:1}:config"],
            ["UNLINK", "financial_summary:live:1:x"],
            ["PUBLISH", "balance_updates"],
        ] {
            assert!(
                wanted.iter().any(|words| words.starts_with(&command.map(str::to_owned))),
                "{command:?} is not in {wanted:?}"
            );
        }
        assert!(wanted.iter().flatten().all(|word| !word.contains('$')), "{wanted:?}");
    }
}
