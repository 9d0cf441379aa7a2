//! The keys of one Redis server, the commands that Lockstep and its scripts use, and a journal that a failover takes back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use lockstep::sink::reply::Reply;

/// Begin of the names of checkpoints.
pub const CHECKPOINT: &[u8] = b"lockstep:checkpoint:";
/// Commands that a replica may be behind.
const JOURNAL: usize = 48;
const OUT_OF_MEMORY: &str = "OOM command not allowed when used memory > 'maxmemory'.";
const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Text(Bytes),
    Hash(BTreeMap<Bytes, Bytes>),
}

/// What a command replaced, by key.
pub type Undo = Vec<(Bytes, Option<Arc<Value>>)>;

/// The keys.
#[derive(Debug, Clone, Default)]
pub struct Keyspace {
    pub keys: BTreeMap<Bytes, Arc<Value>>,
    /// Of the command that runs.
    current: Undo,
    /// Of the last commands, which replicas may not have.
    journal: VecDeque<Undo>,
    /// What the command that runs published: channel and message.
    pub published: Vec<(Bytes, Bytes)>,
    /// A command or script runs out of memory: it may delete, and what takes memory is refused until it has.
    pub full: bool,
}

impl Keyspace {
    pub fn text(&self, key: &[u8]) -> Option<&Bytes> {
        match self.keys.get(key).map(|value| &**value) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub fn hash(&self, key: &[u8]) -> Option<&BTreeMap<Bytes, Bytes>> {
        match self.keys.get(key).map(|value| &**value) {
            Some(Value::Hash(fields)) => Some(fields),
            _ => None,
        }
    }

    /// What a key holds, for people.
    pub fn show(&self, key: &[u8]) -> String {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        match self.keys.get(key).map(|value| &**value) {
            None => "(nothing)".into(),
            Some(Value::Text(value)) => text(value),
            Some(Value::Hash(fields)) => {
                let pairs = fields.iter().map(|(field, value)| format!("{}={}", text(field), text(value)));
                pairs.collect::<Vec<_>>().join(" ")
            }
        }
    }

    pub fn put(&mut self, key: &Bytes, value: Option<Value>) {
        let old = match value {
            Some(value) => self.keys.insert(key.clone(), Arc::new(value)),
            None => self.keys.remove(key),
        };
        self.current.push((key.clone(), old));
    }

    /// The checkpoints are gone.
    pub fn forget_checkpoints(&mut self) {
        let is_checkpoint = |key: &&Bytes| key.starts_with(CHECKPOINT);
        let checkpoints: Vec<Bytes> = self.keys.keys().filter(is_checkpoint).cloned().collect();
        checkpoints.iter().for_each(|key| self.put(key, None));
    }

    /// Ends a command: the keys it touched, each once.
    pub fn end_command(&mut self) -> Vec<Bytes> {
        if self.current.is_empty() {
            return Vec::new();
        }
        let undo = std::mem::take(&mut self.current);
        let mut touched: Vec<Bytes> = undo.iter().map(|(key, _)| key.clone()).collect();
        touched.sort_unstable();
        touched.dedup();
        self.journal.push_back(undo);
        if self.journal.len() > JOURNAL {
            self.journal.pop_front();
        }
        touched
    }

    /// Commands that can be taken back.
    pub fn behind(&self) -> usize {
        self.journal.len()
    }

    /// A replica that lacks the last commands takes over: the keys that changed.
    pub fn lose(&mut self, commands: usize) -> Vec<Bytes> {
        let mut changed = Vec::new();
        for _ in 0..commands {
            let Some(undo) = self.journal.pop_back() else { break };
            for (key, old) in undo.into_iter().rev() {
                match old {
                    Some(old) => self.keys.insert(key.clone(), old),
                    None => self.keys.remove(&key),
                };
                changed.push(key);
            }
        }
        self.journal.clear();
        changed.sort_unstable();
        changed.dedup();
        changed
    }

    /// FLUSHALL: the keys that were there.
    pub fn flush(&mut self) -> Vec<Bytes> {
        self.journal.clear();
        std::mem::take(&mut self.keys).into_keys().collect()
    }

    /// Runs one command of data.
    pub fn execute(&mut self, name: &str, args: &[Bytes]) -> Result<Reply, String> {
        let ok = || Ok(Reply::Text(Bytes::from_static(b"OK")));
        match name {
            "SET" | "MSET" | "HSET" if self.full => return Err(OUT_OF_MEMORY.into()),
            "DEL" | "UNLINK" | "HDEL" => self.full = false,
            _ => {}
        }
        match (name, args) {
            ("GET", [key]) => match self.keys.get(key).map(|value| &**value) {
                None => Ok(Reply::Nil),
                Some(Value::Text(text)) => Ok(Reply::Text(text.clone())),
                Some(Value::Hash(_)) => Err(WRONG_TYPE.into()),
            },
            ("SET", [key, value, options @ ..]) if options.is_empty() || options[0] == "PX" => {
                self.put(key, Some(Value::Text(value.clone())));
                ok()
            }
            ("MGET", keys) => {
                let get = |key| self.text(key).map_or(Reply::Nil, |text| Reply::Text(text.clone()));
                Ok(Reply::List(keys.iter().map(|key| get(key)).collect()))
            }
            ("MSET", pairs) => {
                for pair in pairs.chunks(2) {
                    self.put(&pair[0], Some(Value::Text(pair[1].clone())));
                }
                ok()
            }
            ("DEL" | "UNLINK", keys) => {
                let mut gone = 0;
                for key in keys {
                    if self.keys.contains_key(key) {
                        self.put(key, None);
                        gone += 1;
                    }
                }
                Ok(Reply::Int(gone))
            }
            ("EXISTS", [key]) => Ok(Reply::Int(self.keys.contains_key(key).into())),
            ("HSET" | "HDEL" | "HLEN" | "HGET", [key, rest @ ..]) => self.execute_hash(name, key, rest),
            ("PUBLISH", [channel, message]) => {
                self.published.push((channel.clone(), message.clone()));
                Ok(Reply::Int(1))
            }
            ("SCAN", [_, _, glob, ..]) => Ok(self.scan(glob)),
            ("PING", []) => Ok(Reply::Text(Bytes::from_static(b"PONG"))),
            _ => panic!("the model of redis does not know {name} with {} arguments", args.len()),
        }
    }

    fn execute_hash(&mut self, name: &str, key: &Bytes, rest: &[Bytes]) -> Result<Reply, String> {
        let mut fields = match self.keys.get(key).map(|value| &**value) {
            None => BTreeMap::new(),
            Some(Value::Hash(fields)) => match name {
                "HLEN" => return Ok(Reply::Int(fields.len() as i64)),
                "HGET" => {
                    return Ok(fields.get(&rest[0]).map_or(Reply::Nil, |text| Reply::Text(text.clone())));
                }
                _ => fields.clone(),
            },
            Some(Value::Text(_)) => return Err(WRONG_TYPE.into()),
        };
        let before = fields.len();
        match name {
            "HSET" => {
                let pairs = rest.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone()));
                fields.extend(pairs);
            }
            "HDEL" => rest.iter().for_each(|field| drop(fields.remove(field))),
            "HLEN" => return Ok(Reply::Int(0)),
            _ => return Ok(Reply::Nil),
        }
        let changed = before.abs_diff(fields.len());
        if name == "HSET" || changed > 0 {
            self.put(key, (!fields.is_empty()).then_some(Value::Hash(fields)));
        }
        Ok(Reply::Int(changed as i64))
    }

    /// All at once: cursor 0.
    fn scan(&self, glob: &[u8]) -> Reply {
        let glob = String::from_utf8_lossy(glob).replace('\\', "");
        let mut parts = glob.split('*');
        let head = parts.next().unwrap_or_default();
        let rest: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
        let fits = |key: &Bytes| {
            let key = std::str::from_utf8(key).unwrap_or_default();
            let Some(mut tail) = key.strip_prefix(head) else { return false };
            rest.iter().all(|part| match tail.find(part) {
                Some(at) => {
                    tail = &tail[at + part.len()..];
                    true
                }
                None => false,
            })
        };
        let found = self.keys.keys().filter(|key| fits(key)).map(|key| Reply::Text(key.clone())).collect();
        Reply::List(vec![Reply::Text(Bytes::from_static(b"0")), Reply::List(found)])
    }
}
