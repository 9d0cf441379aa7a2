//! A real subscriber of both channels that keeps everything it hears.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::resp::Reply;
use super::{Redis, eventually, eventually_ok};

pub const USER_UPDATES: &str = "user_updates";
pub const BALANCE_UPDATES: &str = "balance_updates";

/// What no event says: all that was published before it has been heard.
const THE_END: &str = "the end";

/// One message.
#[derive(Debug, Clone)]
pub struct Heard {
    pub channel: String,
    /// The text as it came: numbers keep their digits.
    pub payload: String,
    pub json: Value,
}

impl Heard {
    pub fn text(&self, name: &str) -> &str {
        self.json[name].as_str().unwrap_or_default()
    }

    pub fn event_type(&self) -> &str {
        self.text("event_type")
    }

    /// `T:U`
    pub fn user(&self) -> String {
        let id = match &self.json["user_id"] {
            Value::String(id) => id.clone(),
            other => other.to_string(),
        };
        format!("{}:{id}", self.text("user_type"))
    }

    /// `commit_lsn` as a number.
    pub fn commit_lsn(&self) -> u64 {
        lsn(self.text("commit_lsn")).unwrap_or_else(|| panic!("no commit_lsn: {}", self.payload))
    }

    /// `transaction_id` of each completed row.
    pub fn transaction_ids(&self) -> Vec<String> {
        let rows = self.json["transactions"].as_array().cloned().unwrap_or_default();
        rows.iter().filter_map(|row| Some(row["transaction_id"].as_str()?.to_owned())).collect()
    }
}

/// `X/X` as PostgreSQL prints an LSN.
pub fn lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    Some(u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?)
}

/// Listens until dropped.
#[derive(Debug)]
pub struct Subscriber {
    heard: Arc<Mutex<Vec<Heard>>>,
    /// Every end that was heard, once for each channel and node that called it.
    ends: Arc<Mutex<Vec<String>>>,
    channels: Vec<String>,
    task: tokio::task::JoinHandle<()>,
}

impl Subscriber {
    /// Subscribes to both channels; every later publish is heard.
    pub async fn start(redis: &Redis) -> Subscriber {
        Subscriber::to(redis, &[USER_UPDATES, BALANCE_UPDATES]).await
    }

    pub async fn to(redis: &Redis, channels: &[&str]) -> Subscriber {
        let mut connection = redis.client().await;
        let mut command = vec!["SUBSCRIBE"];
        command.extend(channels);
        connection.send(&command).await.unwrap();
        for _ in channels {
            connection.receive().await.expect("the confirmation of a subscription");
        }
        let (heard, ends) = (Arc::<Mutex<Vec<Heard>>>::default(), Arc::<Mutex<Vec<String>>>::default());
        let (ear, ended) = (Arc::clone(&heard), Arc::clone(&ends));
        let task = tokio::spawn(async move {
            while let Ok(message) = connection.receive().await {
                match parse(&message) {
                    Some(heard) if heard.payload.starts_with(THE_END) => {
                        ended.lock().unwrap().push(heard.payload)
                    }
                    heard => ear.lock().unwrap().extend(heard),
                }
            }
        });
        let channels = channels.iter().map(|channel| (*channel).to_owned()).collect();
        Subscriber { heard, ends, channels, task }
    }

    /// What `nodes` have published on its channels before now.
    ///
    /// The bus of a cluster keeps the order of each node's messages only: every node that publishes calls the end.
    pub async fn heard_until_now(&self, nodes: &[&Redis]) -> Vec<Heard> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let end = format!("{THE_END} {}", NEXT.fetch_add(1, Ordering::Relaxed));
        for node in nodes {
            for channel in &self.channels {
                node.call(&["PUBLISH", channel, &end]).await;
            }
        }
        let calls = nodes.len() * self.channels.len();
        eventually("the end is heard from each node on each channel", async || {
            let heard = self.ends.lock().unwrap().iter().filter(|heard| **heard == end).count();
            (heard == calls).then_some(())
        })
        .await;
        self.heard()
    }

    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// What one channel said of a user (`live:7`), in order.
    pub fn of(&self, channel: &str, user: &str) -> Vec<Heard> {
        let heard = self.heard.lock().unwrap();
        heard.iter().filter(|h| h.channel == channel && h.user() == user).cloned().collect()
    }

    /// Waits for at least `count` events of a user on a channel.
    pub async fn wait_for(&self, channel: &str, user: &str, count: usize) -> Vec<Heard> {
        let waited = eventually_ok(async || {
            let heard = self.of(channel, user);
            if heard.len() >= count { Ok(heard) } else { Err(heard) }
        });
        let complain = |heard| panic!("{channel} of {user}: not {count} events but {heard:#?}");
        waited.await.unwrap_or_else(complain)
    }

    /// No `event_id` twice on a channel.
    pub fn assert_each_once(&self) {
        let mut seen = BTreeSet::new();
        for heard in self.heard() {
            let id = heard.text("event_id").to_owned();
            assert!(!id.is_empty(), "no event_id: {}", heard.payload);
            assert!(seen.insert((heard.channel.clone(), id)), "published twice: {}", heard.payload);
        }
    }

    /// The commits of a user never go back on a channel.
    pub fn assert_commit_order(&self) {
        let mut last: BTreeMap<(String, String), u64> = BTreeMap::new();
        for heard in self.heard() {
            let commit = heard.commit_lsn();
            let before = last.insert((heard.channel.clone(), heard.user()), commit);
            assert!(before.is_none_or(|before| before <= commit), "out of order: {}", heard.payload);
        }
    }

    /// How often each completed row was told on a channel.
    pub fn transactions_told(&self, channel: &str) -> BTreeMap<String, usize> {
        let mut told = BTreeMap::new();
        for heard in self.heard().iter().filter(|heard| heard.channel == channel) {
            for id in heard.transaction_ids() {
                *told.entry(id).or_insert(0) += 1;
            }
        }
        told
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) fn parse(message: &Reply) -> Option<Heard> {
    let [kind, channel, payload] = message.items() else { return None };
    if kind.text()? != "message" {
        return None;
    }
    let payload = payload.text()?;
    let json = serde_json::from_str(&payload).unwrap_or(Value::Null);
    Some(Heard { channel: channel.text()?, payload, json })
}
