//! Who sees to the promises while faults happen: every key of a set of users is read on its master the whole time, and
//! before it the lease, every event is counted on every node, and all of it is held against what the database has committed.
//!
//! What no promise covers is told apart until the next verdict. Whoever makes Redis lose something says so with
//! [`Witness::redis_loses`]: it may come back older, and twice. Whoever makes a gap in the stream, or takes the room that keys
//! need, says so too.

mod audience;
mod history;
mod lease;
mod selftest;
mod watch;

pub use audience::Audience;
pub use history::History;
pub use watch::Watch;

use std::ops::RangeInclusive;
use std::sync::{Arc, RwLock};

use super::resp::slot_of;
use super::{Postgres, Redis, Store, World};

/// Every hash slot; a single Redis has them all.
pub const EVERY_SLOT: RangeInclusive<u16> = 0..=16383;

/// What was lost since the last verdict.
#[derive(Debug, Clone, Default)]
pub struct Losses(Arc<RwLock<Lost>>);

#[derive(Debug, Default)]
struct Lost {
    /// By Redis, all or some of what they hold.
    slots: Vec<RangeInclusive<u16>>,
    /// When they had lost it, by the database's clock.
    since: Option<String>,
    /// By the stream, changes.
    in_a_gap: bool,
    /// For want of room, keys.
    for_room: bool,
}

impl Losses {
    fn note(&self, loss: impl FnOnce(&mut Lost)) {
        loss(&mut self.0.write().unwrap());
    }

    fn forget(&self) {
        self.note(|lost| *lost = Lost::default());
    }

    fn cover(&self, key: &str) -> bool {
        let slot = slot_of(key);
        self.0.read().unwrap().slots.iter().any(|slots| slots.contains(&slot))
    }

    /// Whether a lease need not be true for this key: one that is of before the loss is renewed no more.
    fn cover_lease(&self, key: &str, as_of: &str) -> bool {
        self.cover(key) && self.0.read().unwrap().since.as_deref().is_none_or(|since| as_of < since)
    }

    /// Whether the stream does not carry every change.
    fn are_in_a_gap(&self) -> bool {
        self.0.read().unwrap().in_a_gap
    }

    /// Whether nobody need be told of a change of this user.
    fn cover_event(&self, who: &str) -> bool {
        self.are_in_a_gap() || self.cover(&format!("{{{who}}}"))
    }

    /// Whether this key need not be there.
    fn cover_absence(&self, key: &str) -> bool {
        self.0.read().unwrap().for_room || self.cover(key)
    }
}

/// What was seen between two verdicts.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// Changes of users that the database has committed: so many events were due.
    pub committed: u64,
    /// Events that were heard, each once for each channel.
    pub events: u64,
    /// Values of keys that were read.
    pub looks: u64,
    /// Values that were read behind a lease.
    pub leased: u64,
    /// Moves backwards, torn pairs, values that were never committed, and leases that are not true.
    pub wrong_values: Vec<String>,
    /// The same where Redis had lost the key.
    pub older_by_loss: u64,
    pub doubled: Vec<String>,
    /// The same where Redis had lost the fence.
    pub doubled_by_loss: u64,
    pub lost: Vec<String>,
    /// The same where Redis had lost the user: his keys came by resync.
    pub lost_by_loss: u64,
}

impl Verdict {
    pub fn is_clean(&self) -> bool {
        self.wrong_values.is_empty() && self.doubled.is_empty() && self.lost.is_empty()
    }

    /// # Panics
    /// When a promise was broken.
    pub fn assert_clean(&self) {
        const SHOWN: usize = 20;
        let shown = |what: &[String]| what.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("\n  ");
        assert!(
            self.is_clean(),
            "{} wrong values:\n  {}\n{} events doubled:\n  {}\n{} events lost:\n  {}",
            self.wrong_values.len(),
            shown(&self.wrong_values),
            self.doubled.len(),
            shown(&self.doubled),
            self.lost.len(),
            shown(&self.lost)
        );
        assert!(self.looks > 0, "nobody looked");
    }

    /// Both together.
    pub fn add(&mut self, other: Verdict) {
        self.committed += other.committed;
        self.events += other.events;
        self.looks += other.looks;
        self.leased += other.leased;
        self.older_by_loss += other.older_by_loss;
        self.doubled_by_loss += other.doubled_by_loss;
        self.lost_by_loss += other.lost_by_loss;
        self.wrong_values.extend(other.wrong_values);
        self.doubled.extend(other.doubled);
        self.lost.extend(other.lost);
    }
}

fn nodes(store: &Store) -> Vec<&Redis> {
    match store {
        Store::Single(redis) => vec![redis],
        Store::Cluster(cluster) => cluster.nodes().iter().collect(),
    }
}

/// Where every node is.
#[derive(Debug, Clone)]
pub struct Ports(Arc<RwLock<Vec<u16>>>);

impl Ports {
    fn those_of(store: &Store) -> Vec<u16> {
        nodes(store).iter().map(|node| node.port()).collect()
    }

    fn all(&self) -> Vec<u16> {
        self.0.read().unwrap().clone()
    }

    fn of(&self, node: usize) -> u16 {
        self.0.read().unwrap()[node]
    }
}

/// History, watch and audience of one world.
#[derive(Debug)]
pub struct Witness {
    ports: Ports,
    history: History,
    watch: Watch,
    audience: Audience,
    losses: Losses,
}

impl Witness {
    /// From here on everything is seen of the users `live:FIRST..LAST`, who exist; the events of all users are counted.
    /// Nobody may write while it starts.
    pub async fn start(world: &World, watched: std::ops::Range<u32>) -> Witness {
        let losses = Losses::default();
        let history = History::begin(world).await;
        let ports = Ports(Arc::new(RwLock::new(Ports::those_of(&world.store))));
        let audience = Audience::start(&world.store, ports.clone(), losses.clone()).await;
        let users: Vec<String> = watched.map(|id| format!("live:{id}")).collect();
        let watch = Watch::start((&world.store, ports.clone()), &world.postgres, users, losses.clone()).await;
        Witness { ports, history, watch, audience, losses }
    }

    /// A node of these slots loses, now or in what follows, some or all of what it holds.
    pub fn redis_loses(&self, slots: impl IntoIterator<Item = RangeInclusive<u16>>) {
        self.losses.note(|lost| lost.slots.extend(slots));
    }

    /// What was to be lost is lost: leases from now on have to be true.
    pub async fn redis_has_lost(&self, world: &World) {
        let now = world.postgres.value("SELECT iso(clock_timestamp())").await;
        self.losses.note(|lost| lost.since = now);
    }

    /// The stream does not carry every change, now or in what follows.
    pub fn stream_has_a_gap(&self) {
        self.losses.note(|lost| lost.in_a_gap = true);
    }

    /// Redis has no room, now or in what follows.
    pub fn keys_may_go(&self) {
        self.losses.note(|lost| lost.for_room = true);
    }

    /// The history goes on at another server.
    pub fn database_is(&self, other: &Postgres) {
        self.watch.database_is(other);
    }

    /// The only Redis is this one; nobody is connected to the one before.
    pub fn redis_is(&self, other: &Store) {
        assert!(matches!(other, Store::Single(_)), "who serves what is asked of the nodes of the beginning");
        *self.ports.0.write().unwrap() = Ports::those_of(other);
        self.audience.is_elsewhere();
    }

    /// The slots of one node of a cluster, or all.
    pub async fn slots_of(store: &Store, node: usize) -> Vec<RangeInclusive<u16>> {
        match store {
            Store::Single(_) => vec![EVERY_SLOT],
            Store::Cluster(cluster) => {
                let served = cluster.slots().await.into_iter();
                served.filter(|(_, server)| *server == node).map(|(range, _)| range).collect()
            }
        }
    }

    /// Waits until a lease says that Redis holds what is committed now.
    pub async fn is_leased(&self) {
        self.watch.is_leased().await;
    }

    /// Waits until every node that runs is listened to: what it publishes from now on is heard.
    pub async fn listens(&self, store: &Store) {
        self.audience.listens(store).await;
    }

    /// Judges all that was seen since the last time. The writers must rest, and Redis must equal the database.
    pub async fn verdict(&mut self, world: &World) -> Verdict {
        self.audience.settle(&world.store).await;
        let mut verdict = Verdict::default();
        // The last values are among what was seen.
        verdict.wrong_values.extend(self.watch.look().await.err());
        let seen = self.watch.take();
        let changes = self.history.read(world).await;
        verdict.committed = changes.len() as u64;
        self.watch.judge(seen, &self.history, self.losses.are_in_a_gap(), &mut verdict);
        self.audience.judge(&changes, &mut verdict);
        self.losses.forget();
        verdict
    }
}
