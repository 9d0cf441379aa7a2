//! Preconditions on Redis' side.

use std::collections::BTreeSet;

use super::{Item, Verdict, durability};
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
    let wanted: Vec<Vec<String>> = wanted(&config.key_map, &config.tables, sink.is_cluster())
        .into_iter()
        .chain(durability::command(config.redis.durability))
        .collect();
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
        wanted.extend(key_map.steps.iter().flat_map(|step| of_step(&step.action, user_type)));
    }
    let constants = tables.iter().filter_map(|table| match &table.user_type {
        UserType::Constant(user_type) => Some(user_type.as_str()),
        UserType::Column(_) => None,
    });
    // Channels are granted by name, so none is made up: what a row fills in is seen when it is published.
    let scopes: Vec<Vec<(&str, &str)>> = constants.map(with_type).chain([Vec::new()]).collect();
    let channels = key_map.steps.iter().filter_map(|step| match &step.action {
        ActionSpec::Publish { channel, .. } => Some(channel),
        _ => None,
    });
    for channel in channels {
        let named = scopes.iter().filter_map(|values| filled(channel, values));
        wanted.extend(named.map(|channel| words(&["PUBLISH", &channel, "x"])));
    }
    wanted
}

fn with_type(user_type: &str) -> Vec<(&'static str, &str)> {
    vec![("type", user_type), ("user_type", user_type)]
}

/// The commands of a step on the keys of one user.
fn of_step(action: &ActionSpec, user_type: &str) -> Vec<Vec<String>> {
    let mut values = with_type(user_type);
    values.push(("id", "1"));
    let on = |key: &str, commands: &[&[&str]]| {
        let key = filled(key, &values);
        let command = |key: &str, words: &[&str]| {
            words
                .iter()
                .map(|word| if *word == "KEY" { key.to_owned() } else { (*word).to_owned() })
                .collect()
        };
        key.iter().flat_map(|key| commands.iter().map(|words| command(key, words))).collect::<Vec<_>>()
    };
    match action {
        ActionSpec::Hash { key, .. } => {
            let writes: [&[&str]; 3] =
                [&["HSET", "KEY", "f", "v"], &["HDEL", "KEY", "f"], &["UNLINK", "KEY"]];
            let reads: [&[&str]; 5] = [
                &["HGET", "KEY", "f"],
                &["HMGET", "KEY", "f"],
                &["HLEN", "KEY"],
                &["EXISTS", "KEY"],
                &["TTL", "KEY"],
            ];
            on(key, &[writes.as_slice(), reads.as_slice()].concat())
        }
        ActionSpec::String { key, .. } => {
            let commands: [&[&str]; 5] = [
                &["SET", "KEY", "v"],
                &["GET", "KEY"],
                &["EXISTS", "KEY"],
                &["TTL", "KEY"],
                &["UNLINK", "KEY"],
            ];
            on(key, &commands)
        }
        ActionSpec::Delete { keys } => {
            let commands: [&[&str]; 3] = [&["EXISTS", "KEY"], &["UNLINK", "KEY"], &["TTL", "KEY"]];
            keys.iter().flat_map(|key| on(key, &commands)).collect()
        }
        ActionSpec::DeletePattern { key } => on(&key.replace('*', "x"), &[&["UNLINK", "KEY"]]),
        ActionSpec::Publish { .. } => Vec::new(),
    }
}

/// A template with these placeholders filled; `None` where it has others, which only a row can fill.
fn filled(template: &str, values: &[(&str, &str)]) -> Option<String> {
    let (mut text, mut rest) = (String::new(), template);
    while let Some((before, after)) = rest.split_once('$') {
        text.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            text.push('$');
            rest = after;
            continue;
        }
        let end = after.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(after.len());
        let (name, after) = after.split_at_checked(end)?;
        text.push_str(values.iter().find(|(known, _)| *known == name)?.1);
        rest = after;
    }
    text.push_str(rest);
    Some(text)
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
            replicas: 0,
            append_only: false,
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

    #[test]
    fn only_what_the_configuration_names_is_filled_in() {
        let values = with_type("live");
        assert_eq!(filled("a.$type.$$b", &values).as_deref(), Some("a.live.$b"));
        assert_eq!(filled("$user_type", &values).as_deref(), Some("live"));
        for of_a_row in ["$typed", "a.$group", "$abs(margin)", "$id"] {
            assert_eq!(filled(of_a_row, &values), None, "{of_a_row}");
        }
    }

    #[test]
    fn a_channel_of_the_user_type_is_asked_for_where_the_type_is_a_constant() {
        let map = KeyMapSpec::from_toml("[[keys]]\npublish = \"$type\"").unwrap();
        let channels = |tables: &[TableSpec]| {
            let wanted = wanted(&map, tables, false).into_iter().filter(|words| words[0] == "PUBLISH");
            wanted.map(|words| words[1].clone()).collect::<Vec<_>>()
        };
        let mut tables = TableSpec::defaults();
        assert_eq!(channels(&tables), [] as [&str; 0]);
        tables[0].user_type = UserType::Constant("demo".into());
        assert_eq!(channels(&tables), ["demo"]);
    }
}
