//! What an instance knows of itself and of both sides, without a word about any user.

use std::time::Duration;

use prometheus::Histogram;
use prometheus::core::Collector;
use serde::{Deserialize, Serialize};

use super::Looked;
use crate::health::recent::Happened;
use crate::health::{self, StreamState};
use crate::inspect::{Masters, event_time, now_iso};
use crate::lsn::Lsn;
use crate::metrics::Metrics;

/// Everything `GET /api/lockstep/state` says, and `lockstep status` shows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// Of the program.
    pub version: String,
    /// Now, ISO-8601 UTC.
    pub timestamp: String,
    /// Since the start; what rates are counted over.
    pub uptime_seconds: f64,
    /// `ready`, `not_ready`, or `standby` where another instance streams.
    pub state: String,
    /// Why it is not ready; empty when it is.
    pub reasons: Vec<String>,
    /// Those of the reasons that do not pass by themselves: nobody loads, starts or stands by.
    pub faults: Vec<String>,
    /// The database.
    pub postgres: Postgres,
    /// The replication slot.
    pub slot: Slot,
    /// The replication stream of this instance.
    pub stream: Stream,
    /// The other side.
    pub redis: Redis,
    /// The first load, resyncs and repairs.
    pub load: Load,
    /// What was done since the start.
    pub counts: Counts,
    /// Commit to Redis acknowledgement since the start.
    pub latency: Latency,
    /// The latest events, the latest first.
    pub recent: Vec<RecentEvent>,
}

/// The database.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Postgres {
    /// Whether it answered just now.
    pub reachable: bool,
    /// Why it did not.
    pub fault: Option<String>,
    /// Reconnects since the start.
    pub reconnects: u64,
}

/// The replication slot, as the database tells of it; `null` where that cannot be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Slot {
    /// As configured.
    pub name: String,
    /// Whether it is there.
    pub exists: Option<bool>,
    /// Whether somebody streams from it.
    pub active: Option<bool>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Why it is of no more use.
    pub lost_because: Option<String>,
    /// Oldest WAL that it needs.
    pub restart_lsn: Option<String>,
    /// Position up to which everything was acknowledged.
    pub confirmed_flush_lsn: Option<String>,
    /// WAL that it keeps, as far as anybody has heard.
    pub retained_bytes: u64,
    /// WAL that it may keep: `postgres.retained_wal_max`.
    pub retained_max_bytes: u64,
    /// Positions that were given up since the start.
    pub given_up: u64,
}

/// The replication stream of this instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stream {
    /// `starting`, `standby`, `making_slot`, `streaming` or `reconnecting`.
    pub state: String,
    /// Age of the oldest commit that Redis does not hold.
    pub lag_seconds: f64,
    /// WAL that Redis does not hold.
    pub lag_bytes: u64,
    /// Above this lag the instance is not ready.
    pub ready_lag_seconds: f64,
    /// Last position received.
    pub received_lsn: String,
    /// Last position that Redis holds.
    pub applied_lsn: String,
    /// Last position that PostgreSQL may forget.
    pub confirmed_lsn: String,
    /// Events sent and not yet acknowledged.
    pub in_flight: u64,
}

/// The other side.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Redis {
    /// Whether it takes what it is sent.
    pub connected: bool,
    /// Why it does not.
    pub fault: Option<String>,
    /// Reconnects since the start.
    pub reconnects: u64,
    /// The masters; `null` before Redis was reached for the first time.
    pub masters: Option<Masters>,
}

/// The first load, resyncs and repairs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Load {
    /// Whether Redis holds every user.
    pub loaded: bool,
    /// What is running: `load`, `resync`, `repair`.
    pub running: Vec<String>,
    /// Users read so far by the running or last load.
    pub users: u64,
    /// Users that the database expects; 0 where it does not know.
    pub users_expected: u64,
}

/// What was done since the start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Counts {
    /// Events by type.
    pub events: std::collections::BTreeMap<String, u64>,
    /// Transactions received.
    pub transactions: u64,
    /// Bytes of the stream received.
    pub received_bytes: u64,
    /// Events that a fence had seen already.
    pub skipped_by_fence: u64,
    /// Events that could not be applied as written.
    pub quarantined: u64,
    /// Entries of the quarantine that are open.
    pub quarantine_open: u64,
    /// Users whose keys were wrong and were written again.
    pub healed: u64,
    /// Users that the continuous audit compared.
    pub audited: u64,
    /// Those of them that were wrong.
    pub mismatches: u64,
}

/// A histogram.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Latency {
    /// Upper bound of each bucket in seconds.
    pub bounds: Vec<f64>,
    /// Events within each bound; those beyond the last are in `count` only.
    pub within: Vec<u64>,
    /// All events.
    pub count: u64,
}

/// An event without whom and how much.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecentEvent {
    /// As published.
    pub event_type: String,
    /// When it committed, ISO-8601 UTC.
    pub committed_at: String,
    /// Where.
    pub commit_lsn: String,
}

/// What the metrics keep as signed numbers.
fn positive(gauge: i64) -> u64 {
    u64::try_from(gauge).unwrap_or(0)
}

impl State {
    /// As of now.
    pub(super) fn read(facts: &super::super::Facts, looked: Looked, masters: Option<Masters>) -> State {
        let (now, metrics, bound) = (facts.health.facts(), &facts.metrics, facts.ready_lag);
        let reasons = now.not_ready_because(bound);
        let state = match (&now.stream, reasons.is_empty()) {
            (StreamState::Standby, _) => "standby",
            (_, true) => "ready",
            (_, false) => "not_ready",
        };
        State {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            timestamp: now_iso(),
            uptime_seconds: facts.console.uptime().as_secs_f64(),
            state: state.to_owned(),
            faults: lasting(now.clone(), bound),
            reasons,
            postgres: Postgres {
                reachable: looked.fault.is_none(),
                fault: looked.fault,
                reconnects: metrics.stream.reconnects.get(),
            },
            slot: Slot { given_up: metrics.stream.given_up.get(), ..looked.slot },
            stream: stream(&now, metrics, bound),
            redis: Redis {
                connected: masters.is_some() && now.redis_fault.is_none(),
                fault: now.redis_fault,
                reconnects: metrics.sink.reconnects.get(),
                masters,
            },
            load: load(now.loaded, metrics),
            counts: counts(metrics),
            latency: latency(&metrics.sink.apply_latency),
            recent: facts.health.recent().latest().iter().map(RecentEvent::of).collect(),
        }
    }
}

/// Reasons that somebody has to do something about.
fn lasting(facts: health::Facts, bound: Duration) -> Vec<String> {
    let stream = match facts.stream {
        StreamState::Reconnecting { fault } => StreamState::Reconnecting { fault },
        _ => StreamState::Streaming,
    };
    health::Facts { stream, loaded: true, replaying: false, ..facts }.not_ready_because(bound)
}

fn stream(now: &health::Facts, metrics: &Metrics, bound: Duration) -> Stream {
    let lsn = |gauge: &prometheus::IntGauge| Lsn(positive(gauge.get())).to_string();
    Stream {
        state: super::super::status::word(&now.stream).to_owned(),
        lag_seconds: metrics.stream.lag_seconds.get(),
        lag_bytes: positive(metrics.stream.lag_bytes.get()),
        ready_lag_seconds: bound.as_secs_f64(),
        received_lsn: lsn(&metrics.stream.received_lsn),
        applied_lsn: lsn(&metrics.stream.applied_lsn),
        confirmed_lsn: lsn(&metrics.stream.confirmed_lsn),
        in_flight: positive(metrics.sink.in_flight.get()),
    }
}

fn load(loaded: bool, metrics: &Metrics) -> Load {
    let running = ["load", "resync", "repair"].into_iter();
    let running = running.filter(|kind| metrics.load.running.with_label_values(&[*kind]).get() > 0);
    Load {
        loaded,
        running: running.map(str::to_owned).collect(),
        users: positive(metrics.load.users.get()),
        users_expected: positive(metrics.load.users_expected.get()),
    }
}

fn counts(metrics: &Metrics) -> Counts {
    let types = ["balance_change", "user_update", "user_created", "user_deleted"];
    let events = types.map(|name| (name.to_owned(), metrics.sink.events.with_label_values(&[name]).get()));
    Counts {
        events: events.into(),
        transactions: metrics.stream.transactions.get(),
        received_bytes: metrics.stream.received_bytes.get(),
        skipped_by_fence: metrics.sink.skipped_by_fence.get(),
        quarantined: metrics.sink.quarantined.get(),
        quarantine_open: positive(metrics.sink.quarantine_open.get()),
        healed: metrics.sink.healed.get(),
        audited: metrics.audit.audited.get(),
        mismatches: metrics.audit.mismatches.get(),
    }
}

fn latency(histogram: &Histogram) -> Latency {
    let (mut bounds, mut within) = (Vec::new(), Vec::new());
    for family in histogram.collect() {
        for metric in family.get_metric() {
            let buckets = metric.get_histogram().get_bucket().iter();
            for bucket in buckets.filter(|bucket| bucket.upper_bound().is_finite()) {
                bounds.push(bucket.upper_bound());
                within.push(bucket.cumulative_count());
            }
        }
    }
    Latency { bounds, within, count: histogram.get_sample_count() }
}

impl RecentEvent {
    fn of(happened: &Happened) -> RecentEvent {
        RecentEvent {
            event_type: happened.event_type.to_owned(),
            committed_at: event_time(happened.committed),
            commit_lsn: happened.commit_lsn.to_string(),
        }
    }
}
