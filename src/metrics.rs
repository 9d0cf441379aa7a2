//! Every metric: name, help and labels in one place, held as handles.
//!
//! Base units, `_total` on counters, prefix `lockstep_`; labels have few, fixed values.

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::error::{Error, Result};

/// Commit-to-acknowledgement buckets in seconds: 250 us to about 2 minutes.
const LATENCY_BUCKETS_SECONDS: &[f64] = &[
    0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 2.0, 4.0,
    16.0, 64.0, 128.0,
];

/// Values of the label `type` of events.
const EVENT_TYPES: &[&str] = &["balance_change", "user_update", "user_created", "user_deleted"];
/// Values of the label `kind` of redirects.
const REDIRECTS: &[&str] = &["moved", "ask", "tryagain", "clusterdown"];
/// Values of the label `kind` of loads.
const LOADS: &[&str] = &["load", "resync", "repair"];

/// All metrics of one running instance.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    /// What comes from PostgreSQL.
    pub stream: StreamMetrics,
    /// What goes to Redis.
    pub sink: SinkMetrics,
    /// The first load and re-reads.
    pub load: LoadMetrics,
    /// Writes of other programs.
    pub audit: AuditMetrics,
}

/// What comes from PostgreSQL.
#[derive(Clone)]
pub struct StreamMetrics {
    /// 1 while this instance holds the slot.
    pub leader: IntGauge,
    /// Bytes between the server's end of WAL and what Redis holds.
    pub lag_bytes: IntGauge,
    /// Age of the oldest commit that Redis does not hold yet; 0 when there is none.
    pub lag_seconds: Gauge,
    /// Last WAL position received.
    pub received_lsn: IntGauge,
    /// Last WAL position that Redis holds.
    pub applied_lsn: IntGauge,
    /// Last WAL position reported to PostgreSQL as flushed.
    pub confirmed_lsn: IntGauge,
    /// WAL that the slot keeps the server from removing.
    pub slot_retained_bytes: IntGauge,
    /// What it may keep before its position is given up.
    pub slot_retained_max_bytes: IntGauge,
    /// Slots that were made because the last one was gone or of no more use.
    pub slots_made: IntCounter,
    /// Positions that were given up because the slot retained too much WAL.
    pub given_up: IntCounter,
    /// Bytes of the stream received.
    pub received_bytes: IntCounter,
    /// Transactions received (those that touch followed tables).
    pub transactions: IntCounter,
    /// Reconnects to PostgreSQL.
    pub reconnects: IntCounter,
    /// When the data loop turned last, in seconds after 1970; 0: it did not yet.
    pub turned: Gauge,
    /// 1 for every followed table or column that the stream no longer carries.
    pub mapping_gaps: IntGaugeVec,
    /// Followed tables that the publication does not carry.
    pub unpublished_tables: IntGauge,
}

/// What goes to Redis.
#[derive(Clone)]
pub struct SinkMetrics {
    /// Events by `type` as published: `balance_change`, `user_update`, `user_created`, `user_deleted`.
    pub events: IntCounterVec,
    /// Redis operations by `outcome`: `ok`, or the kind of error.
    pub operations: IntCounterVec,
    /// Plans that a fence stopped, because the key held that commit or a later one.
    pub skipped_by_fence: IntCounter,
    /// Events that were published again, because Redis had lost the fence.
    pub republished: IntCounter,
    /// Times that Redis was found to lack what it held or should hold, `by` what brought it back: `replay` or `load`.
    pub heals: IntCounterVec,
    /// 1 while what it lacks is being brought back.
    pub healing: IntGauge,
    /// From noticing the last of these to equality.
    pub heal_seconds: Gauge,
    /// Events that could not be applied as written.
    pub quarantined: IntCounter,
    /// Entries of the quarantine that are open.
    pub quarantine_open: IntGauge,
    /// Entries that were dropped while they were open, because the list was full.
    pub quarantine_forgotten: IntCounter,
    /// Users whose keys were wrong and were written again.
    pub healed: IntCounter,
    /// Users whose balance was changed by a load after a gap: no event told of it.
    pub unpublished: IntCounter,
    /// Keys that had another type than the key map says and were replaced.
    pub retyped: IntCounter,
    /// Users whose keys were deleted because Redis was out of memory.
    pub deleted_out_of_memory: IntCounter,
    /// Commit to Redis acknowledgement.
    pub apply_latency: Histogram,
    /// Events sent and not yet acknowledged.
    pub in_flight: IntGauge,
    /// 1 while every Redis node answers.
    pub connected: IntGauge,
    /// Reconnects to Redis nodes.
    pub reconnects: IntCounter,
    /// Redirects by `kind`: `moved`, `ask`, `tryagain`, `clusterdown`.
    pub redirects: IntCounterVec,
    /// Keys in the index of keys that are deleted by pattern.
    pub derived_keys: IntGauge,
    /// Sweeps (SCANs) that replaced the index where it was over its bound.
    pub derived_sweeps: IntCounter,
    /// Renewals of the lease by which readers see that Redis is fresh.
    pub lease_renewals: IntCounter,
}

/// The first load and re-reads.
#[derive(Clone)]
pub struct LoadMetrics {
    /// 1 while users are being loaded or read again, by `kind`: `load`, `resync`, `repair`.
    pub running: IntGaugeVec,
    /// Users read so far by the running or last load.
    pub users: IntGauge,
    /// Users the planner of the database expects (`reltuples`); 0 when it does not know.
    pub users_expected: IntGauge,
    /// Users whose keys were removed because the database does not hold them.
    pub users_removed: IntCounter,
    /// 1 once Redis holds the marker of a finished load for this slot.
    pub loaded: IntGauge,
}

/// Writes of other programs.
#[derive(Clone)]
pub struct AuditMetrics {
    /// Users whose keys were compared after a foreign write, by `verdict`: `harmless`, `healed`, `observed`, and
    /// `absent` where a hash was gone.
    pub foreign_writes: IntCounterVec,
    /// 1 while every write to a followed key is announced.
    pub watching: IntGauge,
    /// Times that this ended: watching was suspended, or Redis could not be heard.
    pub unwatched: IntCounter,
    /// Users and keys that were too many to be remembered, and are left to the audit.
    pub overflows: IntCounter,
    /// Derived keys that were written from an older reading and deleted again.
    pub stale_refills: IntCounter,
    /// Users that the continuous audit compared.
    pub audited: IntCounter,
    /// Users of whom it found that they were wrong.
    pub mismatches: IntCounter,
}

impl StreamMetrics {
    /// Another instance streams: what this one knew of how far behind Redis is, is old.
    pub fn forget_lag(&self) {
        self.lag_seconds.set(0.0);
        self.lag_bytes.set(0);
        self.slot_retained_bytes.set(0);
    }
}

impl Metrics {
    /// A fresh set in a registry of its own.
    pub fn new() -> Result<Metrics> {
        let registry = Registry::new();
        let metrics = build(&registry).map_err(internal)?;
        let info = Opts::new("lockstep_build_info", "Version of the running program; always 1.")
            .const_label("version", env!("CARGO_PKG_VERSION"));
        let info = IntGauge::with_opts(info).map_err(internal)?;
        info.set(1);
        register(&registry, info).map_err(internal)?;
        let process = prometheus::process_collector::ProcessCollector::for_self();
        registry.register(Box::new(process)).map_err(internal)?;
        Ok(metrics)
    }

    /// The exposition text that Prometheus scrapes.
    pub fn render(&self) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).map_err(internal)?;
        Ok(text)
    }
}

/// A WAL position as a gauge: positions pass 2^63 after eight exabytes of WAL.
pub fn lsn_gauge(gauge: &IntGauge, lsn: crate::lsn::Lsn) {
    gauge.set(i64::try_from(lsn.0).unwrap_or(i64::MAX));
}

/// A count or a number of bytes as a gauge.
pub fn count_gauge(gauge: &IntGauge, count: u64) {
    gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
}

fn internal(error: prometheus::Error) -> Error {
    Error::definite(format!("metrics cannot be kept: {error}"), "report this as a bug")
}

fn build(registry: &Registry) -> prometheus::Result<Metrics> {
    Ok(Metrics {
        registry: registry.clone(),
        stream: stream_metrics(&Names { registry })?,
        sink: sink_metrics(&Names { registry })?,
        load: load_metrics(&Names { registry })?,
        audit: audit_metrics(&Names { registry })?,
    })
}

fn stream_metrics(names: &Names<'_>) -> prometheus::Result<StreamMetrics> {
    Ok(StreamMetrics {
        leader: names.gauge("leader", "1 while this instance holds the replication slot.")?,
        lag_bytes: names.gauge("replication_lag_bytes", "WAL that Redis does not hold yet.")?,
        lag_seconds: names
            .seconds("replication_lag_seconds", "Age of the oldest commit Redis does not hold yet.")?,
        received_lsn: names.gauge("received_lsn", "Last WAL position received.")?,
        applied_lsn: names.gauge("applied_lsn", "Last WAL position that Redis holds.")?,
        confirmed_lsn: names.gauge("confirmed_lsn", "Last WAL position PostgreSQL may forget.")?,
        slot_retained_bytes: names
            .gauge("slot_retained_wal_bytes", "WAL that the slot retains on the server.")?,
        slot_retained_max_bytes: names.gauge(
            "slot_retained_wal_max_bytes",
            "WAL that the slot may retain before its position is given up.",
        )?,
        slots_made: names
            .counter("slots_made_total", "Slots made because the last one was gone or of no more use.")?,
        given_up: names.counter(
            "position_given_up_total",
            "Positions given up because the slot retained more WAL than it may.",
        )?,
        received_bytes: names.counter("received_bytes_total", "Bytes of the replication stream.")?,
        transactions: names
            .counter("transactions_total", "Transactions received that touch followed tables.")?,
        reconnects: names.counter("postgres_reconnects_total", "Reconnects to PostgreSQL.")?,
        turned: names.seconds("turned_timestamp_seconds", "When the data loop turned last.")?,
        mapping_gaps: names.gauges(
            "mapping_gap",
            "Followed column that the stream does not carry.",
            "column",
            &[],
        )?,
        unpublished_tables: names
            .gauge("unpublished_tables", "Followed tables that the publication does not carry.")?,
    })
}

fn sink_metrics(names: &Names<'_>) -> prometheus::Result<SinkMetrics> {
    let latency = HistogramOpts::new("lockstep_apply_latency_seconds", "Commit to Redis acknowledgement.")
        .buckets(LATENCY_BUCKETS_SECONDS.to_vec());
    Ok(SinkMetrics {
        events: names.counters("events_total", "Events by type.", "type", EVENT_TYPES)?,
        operations: names.counters(
            "redis_operations_total",
            "Redis operations by outcome.",
            "outcome",
            &["ok"],
        )?,
        skipped_by_fence: names.counter("skipped_by_fence_total", "Events that a fence had already seen.")?,
        republished: names
            .counter("republished_total", "Events published again because Redis had lost their fence.")?,
        heals: names.counters(
            "heals_total",
            "Times that Redis was found to lack something, by what brings it back.",
            "by",
            &["replay", "load"],
        )?,
        healing: names.gauge("healing", "1 while what Redis lacks is being brought back.")?,
        heal_seconds: names.seconds("heal_seconds", "Time from noticing the last of these to equality.")?,
        quarantined: names.counter("quarantined_total", "Events that could not be applied as written.")?,
        quarantine_open: names
            .gauge("quarantine_open", "Entries of the quarantine that are not healed yet.")?,
        quarantine_forgotten: names.counter(
            "quarantine_forgotten_total",
            "Entries dropped from the full quarantine before they were healed.",
        )?,
        healed: names.counter("healed_total", "Users whose keys were wrong and were written again.")?,
        unpublished: names
            .counter("unpublished_total", "Users whose balance changed inside a gap, without an event.")?,
        retyped: names.counter("retyped_keys_total", "Keys of a wrong type that were replaced.")?,
        deleted_out_of_memory: names.counter(
            "deleted_out_of_memory_total",
            "Users whose keys were deleted because Redis was full.",
        )?,
        apply_latency: register(names.registry, Histogram::with_opts(latency)?)?,
        in_flight: names.gauge("in_flight_events", "Events sent to Redis and not yet acknowledged.")?,
        connected: names.gauge("redis_connected", "1 while every Redis node answers.")?,
        reconnects: names.counter("redis_reconnects_total", "Reconnects to Redis nodes.")?,
        redirects: names.counters(
            "redis_redirects_total",
            "Cluster redirects by kind.",
            "kind",
            REDIRECTS,
        )?,
        derived_keys: names.gauge("derived_keys", "Keys known to the index of keys deleted by pattern.")?,
        derived_sweeps: names.counter("derived_sweeps_total", "SCANs made because that index was full.")?,
        lease_renewals: names.counter("lease_renewals_total", "Renewals of the lease in Redis.")?,
    })
}

fn load_metrics(names: &Names<'_>) -> prometheus::Result<LoadMetrics> {
    Ok(LoadMetrics {
        running: names.gauges("load_running", "1 while users are read from the database.", "kind", LOADS)?,
        users: names.gauge("load_users", "Users read by the running or last load.")?,
        users_expected: names.gauge("load_users_expected", "Users that the load expects; an estimate.")?,
        users_removed: names.counter(
            "load_users_removed_total",
            "Users whose keys were removed: the database has none such.",
        )?,
        loaded: names.gauge("loaded", "1 once Redis holds every user of this slot.")?,
    })
}

fn audit_metrics(names: &Names<'_>) -> prometheus::Result<AuditMetrics> {
    Ok(AuditMetrics {
        foreign_writes: names.counters(
            "foreign_writes_total",
            "Users compared after a write by another program, by verdict.",
            "verdict",
            &["harmless", "healed", "observed", "absent"],
        )?,
        watching: names
            .gauge("foreign_writes_watched", "1 while every write to a followed key is announced.")?,
        unwatched: names.counter(
            "foreign_writes_unwatched_total",
            "Times that writes were no longer announced: watching was suspended, or Redis could not be heard.",
        )?,
        overflows: names
            .counter("audit_overflows_total", "Users and keys too many to be watched, left to the audit.")?,
        stale_refills: names
            .counter("stale_refills_total", "Derived keys written from an older reading, deleted again.")?,
        audited: names.counter("audit_users_total", "Users that the continuous audit compared.")?,
        mismatches: names.counter("audit_mismatches_total", "Users whom the audit found to be wrong.")?,
    })
}

struct Names<'a> {
    registry: &'a Registry,
}

impl Names<'_> {
    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        register(self.registry, IntGauge::with_opts(opts(name, help))?)
    }

    fn seconds(&self, name: &str, help: &str) -> prometheus::Result<Gauge> {
        register(self.registry, Gauge::with_opts(opts(name, help))?)
    }

    fn gauges(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: &[&str],
    ) -> prometheus::Result<IntGaugeVec> {
        let gauges = register(self.registry, IntGaugeVec::new(opts(name, help), &[label])?)?;
        values.iter().for_each(|value| drop(gauges.with_label_values(&[value])));
        Ok(gauges)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        register(self.registry, IntCounter::with_opts(opts(name, help))?)
    }

    /// The values that are known stand at 0 from the beginning: a rate does not see a counter that begins at 1.
    fn counters(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        let counters = register(self.registry, IntCounterVec::new(opts(name, help), &[label])?)?;
        values.iter().for_each(|value| drop(counters.with_label_values(&[value])));
        Ok(counters)
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("lockstep")
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> prometheus::Result<C> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exposition_names_units_and_the_build() {
        let metrics = Metrics::new().unwrap();
        metrics.sink.events.with_label_values(&["balance_change"]).inc();
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        for line in [
            "lockstep_events_total{type=\"balance_change\"} 1",
            "lockstep_leader 0",
            "# TYPE lockstep_apply_latency_seconds histogram",
            concat!("lockstep_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "process_resident_memory_bytes",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
