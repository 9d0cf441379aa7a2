//! Preconditions on Redis' side.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Item, Verdict};
use crate::config::keys::ActionSpec;
use crate::config::{Config, KeyMapSpec};
use crate::error::Result;
use crate::sink::NodeFacts;
use crate::sink::node::{Command, Login, Node};
use crate::sink::slots::Address;

/// Commands on no key that Lockstep sends, with arguments that only `ACL DRYRUN` sees.
const KEYLESS: [&[&str]; 8] = [
    &["PING"],
    &["INFO"],
    &["SCAN", "0"],
    &["SCRIPT", "LOAD", "return 1"],
    &["EVALSHA", "0", "0"],
    &["CLIENT", "TRACKING", "ON"],
    &["CLUSTER", "INFO"],
    &["CLUSTER", "SLOTS"],
];

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

/// Whether this user may do on a node what Lockstep does, by `ACL DRYRUN` (Redis 7).
pub(super) async fn permissions(config: &Config, address: &Address) -> Result<Item> {
    let topic = format!("redis {address} ACL");
    let login = Login::new(&config.redis)?;
    let node =
        Node::connect(address, &login, config.redis.database).await.map_err(|error| error.at(address))?;
    let unknown = |why: &str| {
        let fact = format!("the permissions of this user cannot be looked at ({why})");
        Item::new(Verdict::Warning, &topic, fact, "compare them with the ACL that the README lists")
    };
    let user = match node.call(Command::fixed("ACL", &["WHOAMI"])).await {
        Ok(reply) => reply.utf8().unwrap_or("default").to_owned(),
        Err(error) => return Ok(unknown(error.label())),
    };
    let mut denied = BTreeSet::new();
    for words in wanted(&config.key_map) {
        let mut args = vec![Bytes::from_static(b"DRYRUN"), Bytes::from(user.clone())];
        args.extend(words.iter().map(|word| Bytes::from(word.clone())));
        match node.call(Command::new("ACL", args)).await {
            Ok(reply) if reply.utf8() == Some("OK") => {}
            Ok(_) => {
                denied.insert(words.iter().take(2).map(String::as_str).collect::<Vec<_>>().join(" "));
            }
            Err(error) => return Ok(unknown(error.label())),
        }
    }
    Ok(match denied.is_empty() {
        true => Item::pass(topic, format!("user {user:?} may do all that Lockstep does")),
        false => Item::new(
            Verdict::Obstacle,
            topic,
            format!("user {user:?} may not: {}", denied.into_iter().collect::<Vec<_>>().join(", ")),
            "grant these with ACL SETUSER, as the README lists them",
        ),
    })
}

/// Every kind of command on every key of the map, for one user.
fn wanted(key_map: &KeyMapSpec) -> BTreeSet<Vec<String>> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mut wanted: BTreeSet<_> = KEYLESS.iter().map(|command| words(command)).collect();
    for command in
        [&["SET", "lockstep:check", "x"][..], &["GET", "lockstep:check"], &["UNLINK", "lockstep:check"]]
    {
        wanted.insert(words(command));
    }
    for step in &key_map.steps {
        match &step.action {
            ActionSpec::Hash { key, .. } => {
                let key = sample(key);
                wanted.insert(words(&["HSET", &key, "f", "v"]));
                wanted.insert(words(&["HDEL", &key, "f"]));
                wanted.insert(words(&["UNLINK", &key]));
            }
            ActionSpec::String { key, .. } => {
                wanted.insert(words(&["SET", &sample(key), "v"]));
                wanted.insert(words(&["UNLINK", &sample(key)]));
            }
            ActionSpec::Delete { keys } => {
                wanted.extend(keys.iter().map(|key| words(&["UNLINK", &sample(key)])));
            }
            ActionSpec::DeletePattern { key } => {
                wanted.insert(words(&["UNLINK", &sample(key).replace('*', "x")]));
            }
            ActionSpec::Publish { channel, .. } => {
                wanted.insert(words(&["PUBLISH", &sample(channel), "x"]));
            }
        }
    }
    wanted
}

/// A template as it stands for the user 1 of the type live.
fn sample(template: &str) -> String {
    template.replace("$type", "live").replace("$id", "1")
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let wanted = wanted(&KeyMapSpec::from_toml(crate::config::keys::BUILT_IN).unwrap());
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
