//! Whether the lease is true: what a reader finds behind it, held against what the database had committed.
//!
//! Every so often it is noted what the database shows, and then where its WAL ends and what time it is. A lease that says
//! as much or more promises that what was shown is in Redis.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::harness::postgres::{self, Door};
use crate::harness::subscriber::lsn;
use crate::harness::{LOOK_EVERY, eventually};

/// The key of the default slot.
pub const KEY: &str = "lockstep:lease";
/// Between two samples.
const PAUSE: Duration = Duration::from_millis(50);
/// README: what a lease that is there says is no older.
const END_AND_TIME: &str =
    "SELECT pg_current_wal_insert_lsn(), iso(clock_timestamp()), iso(clock_timestamp() - interval '5 s')";

/// What a lease promises: everything before this position, and everything that was committed before this time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promise {
    pub position: u64,
    /// ISO-8601, as everything here: texts in their order.
    pub as_of: String,
}

impl Promise {
    /// # Panics
    /// Where the key holds no lease.
    pub fn read(text: &str) -> Promise {
        let lease: serde_json::Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
        let position = lease["position"].as_str().and_then(lsn).expect("a position");
        Promise { position, as_of: lease["as_of"].as_str().expect("a time").to_owned() }
    }
}

/// What the database showed, before its WAL ended there and it was that late.
#[derive(Debug)]
struct Sample {
    position: u64,
    time: String,
    /// By user the number of his last note.
    last: HashMap<String, i64>,
}

#[derive(Debug)]
struct State {
    door: Door,
    samples: VecDeque<Sample>,
    /// What a lease may say at least that is read from now on.
    oldest: String,
}

/// Takes samples until dropped.
#[derive(Debug)]
pub struct Samples {
    state: Arc<Mutex<State>>,
    sampler: JoinHandle<()>,
}

impl Samples {
    /// Of these users. Returns once there is one.
    pub async fn start(door: Door, users: &[String]) -> Samples {
        let state = State { door, samples: VecDeque::new(), oldest: String::new() };
        let state = Arc::new(Mutex::new(state));
        let sampler = tokio::spawn(take_samples(users.join(","), Arc::clone(&state)));
        let samples = Samples { state, sampler };
        eventually("the database is looked at", async || (!samples.oldest().is_empty()).then_some(())).await;
        samples
    }

    /// What a lease may say at least that is asked for from now on.
    pub fn oldest(&self) -> String {
        self.state.lock().unwrap().oldest.clone()
    }

    /// From another server, of the same history.
    pub fn go_to(&self, door: Door) {
        self.state.lock().unwrap().door = door;
    }

    /// Waits until what is committed now has been noted.
    pub async fn take(&self) {
        // One that is being taken may be older.
        for _ in 0..2 {
            let before = self.oldest();
            eventually("a sample is taken", async || (self.oldest() > before).then_some(())).await;
        }
    }

    /// When the last sample was taken.
    pub fn time(&self) -> String {
        self.state.lock().unwrap().samples.back().map_or_else(String::new, |sample| sample.time.clone())
    }

    /// The number of the user's last note that is promised.
    pub fn promised(&self, promise: &Promise, who: &str) -> Option<i64> {
        let state = self.state.lock().unwrap();
        let is_promised =
            |sample: &&Sample| sample.position <= promise.position || sample.time < promise.as_of;
        state.samples.iter().rev().find(is_promised).and_then(|sample| sample.last.get(who).copied())
    }

    /// What is promised later is not less than what is noted now: earlier samples are of no more use.
    pub fn forget(&self) {
        let mut state = self.state.lock().unwrap();
        let old = state.samples.len().saturating_sub(1);
        state.samples.drain(..old);
    }
}

impl Drop for Samples {
    fn drop(&mut self) {
        self.sampler.abort();
    }
}

async fn take_samples(users: String, state: Arc<Mutex<State>>) {
    let last = format!(
        "SELECT who, (SELECT max(seq) FROM history WHERE history.who = users.who) \
         FROM unnest(string_to_array('{users}', ',')) AS users (who)"
    );
    let mut client: Option<Client> = None;
    loop {
        match &client {
            Some(known) if !known.is_closed() => match sample(known, &last).await {
                Ok((sample, oldest)) => {
                    let mut state = state.lock().unwrap();
                    state.samples.push_back(sample);
                    state.oldest = oldest;
                }
                Err(_) => client = None,
            },
            _ => {
                let door = state.lock().unwrap().door.clone();
                client = door.client().await.ok();
            }
        }
        tokio::time::sleep(if client.is_some() { PAUSE } else { LOOK_EVERY }).await;
    }
}

async fn sample(client: &Client, last: &str) -> Result<(Sample, String), tokio_postgres::Error> {
    let text = |row: &[Option<String>], at: usize| row[at].clone().expect("a value");
    let shown = postgres::try_rows(client, last).await?;
    let last = shown.iter().map(|row| (text(row, 0), text(row, 1).parse().expect("a number"))).collect();
    let end = &postgres::try_rows(client, END_AND_TIME).await?[0];
    let sample = Sample { position: lsn(&text(end, 0)).expect("an LSN"), time: text(end, 1), last };
    Ok((sample, text(end, 2)))
}
