//! A world under load with a witness, into which faults are injected one after the other.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use crate::harness::witness::Verdict;
use crate::harness::workload::{Dice, Workload};
use crate::harness::{
    Cluster, Lockstep, On, Postgres, Proxy, Redis, RedisLines, Setup, Store, Witness, World, eventually,
};

pub use crate::harness::Line;

/// Users whom the platform moves.
pub const USERS: u32 = 24;
/// Of these, so many are watched in every key: all but those whom applications write by hand.
pub const WATCHED: u32 = 20;
/// Users whom nobody moves but the faults.
pub const QUIET: RangeInclusive<u32> = 101..=105;
const WRITERS: u64 = 2;
/// CONTRACT: memory is bounded; this is the bound.
const MEMORY_BYTES: u64 = 64 << 20;
/// What an application writes within a grace of a change is as old as that: also on a machine that stands still for a second.
const CONFIG: &str = "[audit]\ngrace = \"3s\"\n";
/// How long an instance that another one replaces may take to be seen as gone.
const SILENCE_PATIENCE: Duration = Duration::from_secs(60);

/// An instance and the lines it reaches its servers by.
#[derive(Debug)]
pub struct Instance {
    pub lockstep: Lockstep,
    pub lines: Lines,
}

#[derive(Debug)]
pub struct Lines {
    pub postgres: Proxy,
    pub redis: RedisLines,
}

/// What came of one fault, or of many.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub verdict: Verdict,
    pub differences: Vec<String>,
    /// From the end of the fault to a Redis that holds all that is committed, under load.
    pub slowest_heal: Duration,
    pub peak_bytes: u64,
}

impl Report {
    pub fn add(&mut self, other: Report) {
        self.verdict.add(other.verdict);
        self.differences.extend(other.differences);
        self.slowest_heal = self.slowest_heal.max(other.slowest_heal);
        self.peak_bytes = self.peak_bytes.max(other.peak_bytes);
    }

    pub fn is_kept(&self) -> bool {
        self.verdict.is_clean()
            && self.verdict.leased > 0
            && self.differences.is_empty()
            && self.peak_bytes < MEMORY_BYTES
    }

    /// # Panics
    /// When a promise was broken.
    pub fn assert_kept(&self) {
        self.verdict.assert_clean();
        assert!(self.verdict.leased > 0, "nobody looked behind a lease");
        assert!(self.differences.is_empty(), "{:#?}", self.differences);
        assert!(self.peak_bytes < MEMORY_BYTES, "{} bytes of memory", self.peak_bytes);
    }
}

/// The parts end in this order.
#[derive(Debug)]
pub struct Trial {
    pub world: World,
    pub lines: Lines,
    pub dice: Dice,
    witness: Witness,
    workload: Workload,
    peak_bytes: u64,
    /// What was counted as published again before this round; `None`: by an instance that has ended since.
    republished: Option<f64>,
}

impl Trial {
    /// Loaded, streaming and under load. `seed` decides what faults leave to chance.
    pub async fn start(on: On, seed: u64) -> Trial {
        let mut world = World::set_up(Setup::on(on)).await;
        world.lockstep.init().await;
        let Instance { lockstep, lines } = instance(&world).await;
        world.lockstep = lockstep;
        for (first, last) in [(1, USERS), QUIET.into_inner()] {
            let users = format!("SELECT n, 'live', 1000 FROM generate_series({first}, {last}) n");
            world.sql(&format!("INSERT INTO users (id, user_type, wallet_balance) {users}")).await;
        }
        world.lockstep.run().await;
        world.caught_up().await;
        let witness = Witness::start(&world, 1..WATCHED + 1).await;
        for id in 1..=WATCHED {
            // An application wrote it: from here on it follows.
            let portfolio = format!("user:{{live:{id}}}:portfolio");
            world.store.hset(&portfolio, "wallet_balance", "1000").await;
            world.store.hset(&portfolio, "balance_updated_at", "2026-01-15T10:30:00.000Z").await;
        }
        let workload = Workload::start(&world.postgres, WRITERS, 1, USERS).await;
        Trial {
            world,
            lines,
            dice: Dice(seed.max(1)),
            witness,
            workload,
            peak_bytes: 0,
            republished: Some(0.0),
        }
    }

    /// Waits until the platform has done so many transactions more.
    pub async fn progress(&self, transactions: u64) {
        self.workload.progress(transactions).await;
    }

    /// A number from `least` to `most`, by the seed.
    pub fn some(&mut self, least: u64, most: u64) -> u64 {
        least + self.dice.below(most - least + 1)
    }

    /// Another instance, with lines of its own, that waits for the slot.
    pub async fn second(&self) -> Instance {
        let second = instance(&self.world).await;
        second.lockstep.spawn(&["run"]);
        second.lockstep.is_not_ready_because("another instance holds the slot").await;
        second
    }

    /// Waits until the other instance leads.
    pub async fn takes_over(&self, second: &Instance) {
        second.lockstep.wait_ready_within(SILENCE_PATIENCE).await;
    }

    /// The second is the one from here on; the first has ended or ends now.
    pub fn goes_on_with(&mut self, second: Instance) {
        self.republished = None;
        self.world.lockstep = second.lockstep;
        self.lines = second.lines;
    }

    pub fn kill_9(&mut self) {
        self.note_end();
        self.world.lockstep.kill9();
    }

    /// Waits until it has ended in an orderly way.
    pub async fn sigterm(&mut self) {
        self.note_end();
        assert_eq!(self.world.lockstep.sigterm().await.code(), Some(0));
    }

    /// The instance is another one from here on.
    fn note_end(&mut self) {
        self.note_memory();
        self.republished = None;
    }

    fn note_memory(&mut self) {
        self.peak_bytes = self.peak_bytes.max(self.world.lockstep.peak_resident_bytes());
    }

    pub fn cluster(&self) -> &Cluster {
        self.world.store.cluster()
    }

    /// The nodes that are masters; 0 on a single Redis.
    pub async fn masters(&self) -> Vec<usize> {
        match &self.world.store {
            Store::Single(_) => vec![0],
            Store::Cluster(cluster) => cluster.masters().await,
        }
    }

    /// One of the masters, by the seed.
    pub async fn some_master(&mut self) -> usize {
        let masters = self.masters().await;
        masters[self.dice.below(masters.len() as u64) as usize]
    }

    pub fn redis(&self, node: usize) -> &Redis {
        match &self.world.store {
            Store::Single(redis) => redis,
            Store::Cluster(cluster) => cluster.node(node),
        }
    }

    /// Waits until the leader knows that a node does not do what it is asked.
    pub async fn redis_is_missed(&self) {
        let connected = async || self.world.lockstep.metric("lockstep_redis_connected").await;
        eventually("it is noticed", async || (connected().await == 0.0).then_some(())).await;
    }

    /// How often Redis lacked what it had held, and got it again or is about to.
    pub async fn heals(&self) -> f64 {
        let by = async |by| self.world.lockstep.metric(&format!("lockstep_heals_total{{by=\"{by}\"}}")).await;
        by("replay").await + by("load").await
    }

    /// What this node serves may come back older, and twice: Redis loses it.
    pub async fn redis_loses(&self, node: usize) {
        let slots = Witness::slots_of(&self.world.store, node).await;
        self.witness.redis_loses(slots);
    }

    /// It has lost it.
    pub async fn redis_has_lost(&self) {
        self.witness.redis_has_lost(&self.world).await;
    }

    /// Waits until the platform rests, and Redis holds all that it did.
    pub async fn platform_rests(&mut self) {
        self.workload.rest().await;
        self.world.caught_up().await;
    }

    pub async fn platform_goes_on(&mut self) {
        self.workload = Workload::start(&self.world.postgres, WRITERS, 1, USERS).await;
    }

    /// From here on everybody finds another server where the database was.
    pub fn database_is(&mut self, other: Postgres) {
        self.lines.postgres.leads_to(other.port());
        self.witness.database_is(&other);
        self.world.postgres = other;
    }

    /// From here on everybody finds another Redis where the only one was, which has ended.
    pub fn redis_is(&mut self, other: Redis) {
        self.lines.redis.node(0).leads_to(other.port());
        self.world.store = Store::Single(other);
        self.witness.redis_is(&self.world.store);
    }

    /// Changes may reach the keys without an event.
    pub fn stream_has_a_gap(&self) {
        self.witness.stream_has_a_gap();
    }

    /// Keys may be deleted where they cannot be written.
    pub fn keys_may_go(&self) {
        self.witness.keys_may_go();
    }

    /// The witness hears what is published from here on, on every node that runs.
    pub async fn is_listened_to(&self) {
        self.witness.listens(&self.world.store).await;
    }

    /// Waits until Redis follows again, lets the platform rest, judges, and lets it go on.
    pub async fn judge(&mut self) -> Report {
        let report = self.rest_and_judge().await;
        self.platform_goes_on().await;
        report
    }

    /// The last judgement.
    pub async fn end(mut self) -> Report {
        self.rest_and_judge().await
    }

    async fn rest_and_judge(&mut self) -> Report {
        let fault_is_over = Instant::now();
        self.world.lockstep.wait_ready_within(SILENCE_PATIENCE).await;
        self.world.caught_up().await;
        let slowest_heal = fault_is_over.elapsed();
        self.workload.rest().await;
        self.world.caught_up().await;
        self.witness.is_leased().await;
        let mut differences = self.world.differences_at_last().await;
        let verdict = self.witness.verdict(&self.world).await;
        let republished = self.world.lockstep.metric("lockstep_republished_total").await;
        let counted = self.republished.replace(republished).map(|before| republished - before);
        // Each on two channels.
        let uncounted = counted.filter(|counted| verdict.doubled_by_loss as f64 > counted * 2.0);
        differences.extend(uncounted.map(|counted| format!("{counted} events counted as published again")));
        self.note_memory();
        Report { verdict, differences, slowest_heal, peak_bytes: self.peak_bytes }
    }
}

/// An instance that is not started yet.
async fn instance(world: &World) -> Instance {
    let (postgres_url, postgres) = world.line_to_database().await;
    let redis = RedisLines::to(&world.store).await;
    let lockstep = Lockstep::new(&postgres_url, redis.urls(), CONFIG);
    Instance { lockstep, lines: Lines { postgres, redis } }
}
