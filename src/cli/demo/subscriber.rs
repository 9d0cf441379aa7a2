//! A subscriber as the applications have one, which remembers every event that reached it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use fred::clients::Client;
use fred::interfaces::{EventInterface, PubsubInterface};
use serde_json::Value;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinHandle;

use super::super::throwaway::cluster::{RedisSide, redis};
use super::amount::Micros;
use crate::error::Result;

/// The two channels of the contract.
pub const CHANNELS: [&str; 2] = ["user_updates", "balance_updates"];

/// One event as it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Index into [`CHANNELS`].
    pub channel: usize,
    /// The database transaction it tells of.
    pub xid: u64,
    /// The user.
    pub user: i32,
    /// Its balance, read from the text of the payload.
    pub balance: Option<Micros>,
    /// Its commit's position in the WAL.
    pub commit_lsn: u64,
    /// When it arrived.
    pub at: Instant,
}

/// What has arrived so far.
#[derive(Debug, Default)]
pub struct Heard {
    /// Events in the order of their arrival.
    pub arrivals: Mutex<Vec<Arrival>>,
    /// How many those are.
    pub count: AtomicU64,
    /// Messages that are no event of the contract.
    pub unreadable: AtomicU64,
    /// Messages that fred dropped because the demo was too slow to take them.
    pub dropped: AtomicU64,
}

/// A live subscription to both channels; ends on drop.
#[derive(Debug)]
pub struct Subscriber {
    _client: Client,
    task: JoinHandle<()>,
    /// Filled live.
    pub heard: Arc<Heard>,
}

impl Subscriber {
    /// Subscribes; what is published from now on is heard.
    pub async fn start(side: &RedisSide) -> Result<Subscriber> {
        let client = side.listener().await?;
        let mut messages = client.message_rx();
        client.subscribe(CHANNELS.to_vec()).await.map_err(redis)?;
        let heard: Arc<Heard> = Arc::default();
        let hears = Arc::clone(&heard);
        let task = tokio::spawn(async move {
            loop {
                match messages.recv().await {
                    Ok(message) => hears.take(&message.channel, message.value.as_bytes(), Instant::now()),
                    Err(RecvError::Lagged(count)) => {
                        hears.dropped.fetch_add(count, Ordering::Relaxed);
                    }
                    Err(RecvError::Closed) => return,
                }
            }
        });
        Ok(Subscriber { _client: client, task, heard })
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Heard {
    fn take(&self, channel: &str, payload: Option<&[u8]>, at: Instant) {
        let Some(arrival) = payload.and_then(|payload| read(channel, payload, at)) else {
            self.unreadable.fetch_add(1, Ordering::Relaxed);
            return;
        };
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).push(arrival);
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}

fn read(channel: &str, payload: &[u8], at: Instant) -> Option<Arrival> {
    let channel = CHANNELS.iter().position(|known| *known == channel)?;
    let text = std::str::from_utf8(payload).ok()?;
    let event: Value = serde_json::from_str(text).ok()?;
    let (high, low) = event.get("commit_lsn")?.as_str()?.split_once('/')?;
    let commit_lsn = u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?;
    Some(Arrival {
        channel,
        xid: integer(event.get("xid")?)?,
        user: i32::try_from(integer(event.get("user_id")?)?).ok()?,
        balance: balance(text),
        commit_lsn,
        at,
    })
}

/// Integers that a double cannot carry come as text.
fn integer(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// The balance's own text: a JSON parser would make a float of it.
fn balance(payload: &str) -> Option<Micros> {
    let (_, rest) = payload.split_once("\"wallet_balance\":")?;
    let end = rest.find([',', '}'])?;
    Micros::parse(rest.get(..end)?.trim().trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read_with_its_exact_balance() {
        let payload = br#"{"user_id":123,"user_type":"live","updated_fields":{"id":123,
            "wallet_balance":10000.5,"balance":10000.5},"event_type":"balance_change","source":"cdc",
            "commit_lsn":"1/A0","xid":"742"}"#;
        let at = Instant::now();
        let arrival = read("balance_updates", payload, at).unwrap();
        let balance = Some(Micros(10_000_500_000));
        let expected = Arrival { channel: 1, xid: 742, user: 123, balance, commit_lsn: 0x1_0000_00A0, at };
        assert_eq!(arrival, expected);
        assert_eq!(read("other", payload, at), None);
        assert_eq!(read("user_updates", b"{}", at), None);
    }
}
