//! The masters: whether each is read and written, and how many keys it holds.
//!
//! Both are asked for by people and by what watches over the machines, as often as they like: an answer is used for a
//! while, and whoever comes meanwhile waits for the same one.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::join_all;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::{BALANCE_CACHE, Inspector, USER_CACHE};
use crate::balance::time::commit_iso;
use crate::error::{Error, Fault};
use crate::keyplan::{KeyMap, KeyTemplate, escape_glob};
use crate::pgoutput::PgTime;
use crate::sink::slots::Address;

/// How long it is believed that the masters work, or do not.
const PROBED: Duration = Duration::from_secs(1);
/// How long a master may take for a read and a write.
const PROBE: Duration = Duration::from_secs(1);
/// How long a count is used.
const COUNTED: Duration = Duration::from_secs(10);
/// Longest time for a count. Between two steps of a SCAN Redis is left alone for as long as the step took.
const COUNT: Duration = Duration::from_secs(5);

/// What was found last, and when.
#[derive(Default)]
pub(super) struct Nodes {
    probed: Mutex<Option<(Instant, Probe)>>,
    counted: Mutex<Option<(Instant, NodeKeys)>>,
}

/// Whether Redis works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Whether every master answers.
    pub is_connected: bool,
    /// What keeps a master from being read and written.
    pub fault: Option<Fault>,
}

/// How many keys the masters hold.
#[derive(Debug, Clone, Serialize)]
pub struct NodeKeys {
    nodes: Vec<OfNode>,
    total_keys: u64,
    user_config_keys: u64,
    balance_cache_keys: u64,
    /// Whether every key was counted; not where time ran out, or a master was away.
    complete: bool,
}

#[derive(Debug, Clone, Serialize)]
struct OfNode {
    host: String,
    port: u16,
    /// `connected`, `incomplete` (time ran out) or `unreachable`.
    status: &'static str,
    keys: u64,
    user_configs: u64,
    balance_caches: u64,
}

/// What is counted: two templates, and what all of their keys begin with.
struct Counted<'m> {
    user_cache: Option<&'m KeyTemplate>,
    balance_cache: Option<&'m KeyTemplate>,
    glob: Bytes,
}

impl Inspector {
    /// Reads and writes a key of ours on every master.
    pub async fn probe(&self) -> Probe {
        let mut probed = self.0.nodes.probed.lock().await;
        if let Some((_, probe)) = probed.as_ref().filter(|(at, _)| at.elapsed() < PROBED) {
            return probe.clone();
        }
        let masters = self.0.beside.masters();
        let faults = join_all(masters.iter().map(|address| self.probe_node(address))).await;
        let probe = Probe {
            is_connected: faults.iter().flatten().all(|(answers, _)| *answers),
            fault: faults.into_iter().flatten().next().map(|(_, fault)| fault),
        };
        *probed = Some((Instant::now(), probe.clone()));
        probe
    }

    /// What keeps one from working, and whether it answers all the same.
    async fn probe_node(&self, address: &Address) -> Option<(bool, Fault)> {
        let beside = &self.0.beside;
        let fault = match timeout(PROBE, beside.probe(address)).await {
            Ok(Ok(())) => return None,
            Ok(Err(error)) => error,
            Err(_) => {
                beside.forget(address);
                return Some((
                    false,
                    Fault { fact: format!("redis {address} did not answer in time"), cure: String::new() },
                ));
            }
        };
        let answers = matches!(timeout(PROBE, beside.answers(address)).await, Ok(true));
        Some((answers, fault.fault().clone()))
    }

    /// Counts the keys of users on every master.
    pub async fn count(&self) -> NodeKeys {
        let mut known = self.0.nodes.counted.lock().await;
        if let Some((_, keys)) = known.as_ref().filter(|(at, _)| at.elapsed() < COUNTED) {
            return keys.clone();
        }
        let counted = Counted::new(&self.0.reader.key_map);
        let masters = self.0.beside.masters();
        let nodes = join_all(masters.iter().map(|address| self.count_node(address, &counted))).await;
        let sum = |of: fn(&OfNode) -> u64| nodes.iter().map(of).sum();
        let keys = NodeKeys {
            total_keys: sum(|node| node.keys),
            user_config_keys: sum(|node| node.user_configs),
            balance_cache_keys: sum(|node| node.balance_caches),
            complete: nodes.iter().all(|node| node.status == "connected"),
            nodes,
        };
        *known = Some((Instant::now(), keys.clone()));
        keys
    }

    async fn count_node(&self, address: &Address, counted: &Counted<'_>) -> OfNode {
        let mut node = OfNode {
            host: address.host.clone(),
            port: address.port,
            status: "incomplete",
            keys: 0,
            user_configs: 0,
            balance_caches: 0,
        };
        match timeout(COUNT, self.scan_node(address, counted, &mut node)).await {
            Ok(Ok(())) => node.status = "connected",
            Ok(Err(_)) => node.status = "unreachable",
            // One that answered once is only large.
            Err(_) if node.keys > 0 => {}
            Err(_) => {
                self.0.beside.forget(address);
                node.status = "unreachable";
            }
        }
        node
    }

    async fn scan_node(
        &self,
        address: &Address,
        counted: &Counted<'_>,
        node: &mut OfNode,
    ) -> Result<(), Error> {
        let mut cursor = None;
        loop {
            let began = Instant::now();
            let (next, keys) = self.0.beside.scan(address, &counted.glob, cursor).await?;
            let took = began.elapsed();
            for key in keys {
                let fits = |template: Option<&KeyTemplate>| {
                    let parsed =
                        std::str::from_utf8(&key).ok().zip(template).and_then(|(key, t)| t.parse_key(key));
                    u64::from(parsed.is_some())
                };
                node.user_configs += fits(counted.user_cache);
                node.balance_caches += fits(counted.balance_cache);
            }
            node.keys = node.user_configs + node.balance_caches;
            cursor = match next {
                Some(next) => Some(next),
                None => return Ok(()),
            };
            tokio::time::sleep(took).await;
        }
    }
}

impl Counted<'_> {
    /// The default key map's keys; of another map the first hash and the first string that it writes.
    fn new(key_map: &KeyMap) -> Counted<'_> {
        let named = |text: &str| key_map.templates().iter().find(|template| template.text() == text);
        let (hash, string) = key_map.first_written();
        let (user_cache, balance_cache) = (named(USER_CACHE).or(hash), named(BALANCE_CACHE).or(string));
        let heads: Vec<&str> =
            [user_cache, balance_cache].into_iter().flatten().map(KeyTemplate::literal_head).collect();
        let glob = escape_glob(&common_head(&heads)) + "*";
        Counted { user_cache, balance_cache, glob: glob.into() }
    }
}

/// The time on this machine, ISO-8601 UTC.
pub fn now_iso() -> String {
    // What the server counts from: 2000-01-01.
    const EPOCH: Duration = Duration::from_secs(946_684_800);
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + EPOCH).unwrap_or_default();
    event_time(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// A time in microseconds as the server counts them, ISO-8601 UTC.
pub fn event_time(micros: i64) -> String {
    commit_iso(PgTime(micros)).to_string()
}

/// What all texts begin with.
fn common_head(texts: &[&str]) -> String {
    let Some((first, rest)) = texts.split_first() else { return String::new() };
    let same = |(at, c): &(usize, char)| {
        rest.iter().all(|text| text.get(*at..).is_some_and(|text| text.starts_with(*c)))
    };
    first.char_indices().take_while(same).map(|(_, c)| c).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{KeyMapSpec, TableSpec};

    #[test]
    fn keys_are_found_by_what_all_of_them_begin_with() {
        assert_eq!(common_head(&["user:{", "user_balance:"]), "user");
        assert_eq!(common_head(&["a:", "b:"]), "");
        assert_eq!(common_head(&["äb", "äc"]), "ä");
        assert_eq!(common_head(&["only"]), "only");
        assert_eq!(common_head(&[]), "");
    }

    #[test]
    fn of_a_map_without_the_default_keys_the_first_hash_and_string_are_counted() {
        let counted = |toml: &str| {
            let map = KeyMap::compile(&KeyMapSpec::from_toml(toml).unwrap(), &TableSpec::defaults()).unwrap();
            let counted = Counted::new(&map);
            let text = |template: Option<&KeyTemplate>| template.map(|template| template.text().to_owned());
            (text(counted.user_cache), text(counted.balance_cache), counted.glob.clone())
        };
        assert_eq!(
            counted(crate::config::keys::BUILT_IN),
            (Some(USER_CACHE.into()), Some(BALANCE_CACHE.into()), "user*".into())
        );
        let own = "[[keys]]\nhash = 'a[:$type:$id'\nfields = { b = '$balance' }\n[[keys]]\nstring = 'a[b:$type:$id'\nvalue = '$balance'";
        assert_eq!(counted(own), (Some("a[:$type:$id".into()), Some("a[b:$type:$id".into()), "a\\[*".into()));
    }
}
