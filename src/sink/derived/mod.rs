//! Which keys a pattern matches, without a SCAN per event.
//!
//! One SCAN of each master, beside the flights, finds the keys that exist; from before it on, `CLIENT TRACKING` in
//! broadcast mode announces every key under the prefixes that anybody writes or deletes. So the set is a superset of
//! what exists, and deleting an absent key is harmless. Our own deletions are announced too: such a
//! key is deleted once more, as absent, which announces nothing, and is gone from the set.
//!
//! A plan's keys leave the set before it is applied, for a key that is announced afterwards is another one; and
//! come back where the plan did not delete them.

mod complete;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::group::matches;
use super::key_set::KeySet;
use super::lanes::{Lanes, Trouble};
use super::node::{Command, Node};
use super::reply::{NodeError, Reply};
use super::tracking::shortest;
use crate::keyplan::{Guard, KeyMap, KeyPlan, Step, escape_glob};
use crate::metrics::SinkMetrics;
use complete::Watch;

/// Keys that are remembered; beyond, every flight with a pattern sweeps with one SCAN of each master.
pub const MAX_KEYS: usize = 2_000_000;
/// Keys that one SCAN step looks at: well under a millisecond of Redis' time.
const SCAN_COUNT: &str = "1000";

/// The index.
pub struct Derived {
    prefixes: Vec<Bytes>,
    shared: Arc<Shared>,
    watch: Watch,
    /// Whether keys were taken for a flight that has not come to its end.
    taken: bool,
    /// Whether it was told that there are too many keys.
    sweeps: bool,
    /// Whether a sweep found that there are not too many any more.
    has_room: bool,
    /// Whether the next flight has to wait for what was announced before it.
    behind: bool,
    /// Whether a key may have been written that the index did not hear of while flights left.
    misheard: bool,
    metrics: SinkMetrics,
}

/// What became of the keys that were taken for a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// They may all still be there: the plan was skipped or refused.
    Unknown,
    /// Those of patterns with a guard may still be there.
    GuardedKept,
    /// They are gone.
    Deleted,
}

struct Shared {
    keys: Mutex<KeySet>,
    bound: usize,
    overflowed: AtomicBool,
    /// Whether a flight waits until the set is complete.
    awaited: watch::Sender<bool>,
    of: Option<Arc<KeyMap>>,
}

impl Derived {
    /// An index of all keys that begin with one of `prefixes`, and are of users whom the key map follows; as many as
    /// `bound`.
    pub fn new(prefixes: Vec<Bytes>, of: Option<Arc<KeyMap>>, bound: usize, metrics: SinkMetrics) -> Derived {
        Derived {
            prefixes: shortest(prefixes),
            shared: Shared::new(of, bound),
            watch: Watch::Stale,
            taken: false,
            sweeps: false,
            has_room: false,
            behind: true,
            misheard: false,
            metrics,
        }
    }

    /// Others may have applied flights up to this moment: the next one waits for what was announced before it.
    pub fn fall_behind(&mut self) {
        self.begin();
        self.behind = true;
    }

    /// Whether flights may have left keys that the index did not hear of, since it was asked last.
    pub fn take_misheard(&mut self) -> bool {
        std::mem::take(&mut self.misheard)
    }

    /// A flight begins. One that was dropped half-way took keys that nobody may have deleted.
    pub fn begin(&mut self) {
        if std::mem::replace(&mut self.taken, false) {
            self.watch = Watch::Stale;
        }
    }

    /// The flight is acknowledged.
    pub fn finish(&mut self) {
        self.taken = false;
        if std::mem::replace(&mut self.has_room, false) {
            self.watch = Watch::Stale;
            self.sweeps = false;
        }
    }

    /// Whether plans cannot be applied without the index.
    pub fn is_needed(plans: &[KeyPlan]) -> bool {
        plans.iter().any(|plan| patterns(plan).next().is_some())
    }

    /// The keys that each plan's patterns match, taken out of the index: they are about to be deleted.
    ///
    /// # Errors
    /// Only where the index is over its bound: the sweep's.
    pub async fn take(&mut self, lanes: &mut Lanes, plans: &[KeyPlan]) -> Result<Vec<Vec<Bytes>>, Trouble> {
        self.taken = Derived::is_needed(plans);
        let mut shared = HashMap::new();
        let mut taken: Vec<Vec<Bytes>> = plans.iter().map(|plan| self.take_one(plan, &mut shared)).collect();
        if self.taken && !self.shared.fits() {
            if !std::mem::replace(&mut self.sweeps, true) {
                tracing::warn!(
                    keys = self.shared.bound,
                    "too many derived keys to remember: sweeping with SCAN"
                );
            }
            self.metrics.derived_sweeps.inc();
            let found = self.sweep(lanes).await?;
            let followed = found.iter().filter(|key| self.shared.is_followed(key)).count();
            self.has_room = self.shared.leaves_room(followed);
            for (plan, keys) in plans.iter().zip(&mut taken) {
                let wanted = |key: &&Bytes| patterns(plan).any(|pattern| pattern.matches(key));
                keys.extend(found.iter().filter(wanted).cloned());
            }
        }
        self.count();
        Ok(taken)
    }

    fn count(&self) {
        self.metrics.derived_keys.set(i64::try_from(self.shared.keys().len()).unwrap_or(i64::MAX));
    }

    /// The plans are done: puts the keys back that were not deleted, and returns those that are to be deleted now.
    ///
    /// Those are keys that were announced meanwhile. And the keys of a plan that the fence stopped, where no guard
    /// may keep them: it may have been applied by a process that came to its end before it saw what was announced.
    pub fn settle(&self, plans: &[KeyPlan], fates: &[Fate], taken: Vec<Vec<Bytes>>) -> Vec<Bytes> {
        let mut late = Vec::new();
        let mut taken = taken.into_iter();
        for (plan, fate) in plans.iter().zip(fates) {
            let mut kept = taken.next().unwrap_or_default();
            match fate {
                Fate::Unknown => {}
                Fate::GuardedKept => kept.retain(|key| guarded(plan).any(|pattern| pattern.matches(key))),
                Fate::Deleted => kept.clear(),
            }
            if !kept.is_empty() {
                self.shared.add(&kept);
            }
            late.extend(match fate {
                Fate::Deleted => self.take_matching(patterns(plan)),
                Fate::Unknown | Fate::GuardedKept => {
                    self.take_matching(patterns(plan).filter(|pattern| !pattern.is_guarded()))
                }
            });
        }
        late
    }

    /// As [`take_matching`](Self::take_matching). What a guard may keep is remembered in `shared`, for a later
    /// plan of the user may be the one that deletes it.
    fn take_one<'p>(&self, plan: &'p KeyPlan, shared: &mut HashMap<&'p Bytes, Vec<Bytes>>) -> Vec<Bytes> {
        let mut all = Vec::new();
        for pattern in patterns(plan) {
            let keys = self.take_matching(std::iter::once(pattern));
            let before = shared.get(pattern.prefix).into_iter().flatten();
            all.extend(before.filter(|key| pattern.matches(key)).cloned());
            if pattern.is_guarded() && !keys.is_empty() {
                shared.entry(pattern.prefix).or_default().extend(keys.iter().cloned());
            }
            all.extend(keys);
        }
        all
    }

    fn take_matching<'p>(&self, patterns: impl Iterator<Item = Pattern<'p>>) -> Vec<Bytes> {
        let mut keys = self.shared.keys();
        if keys.len() == 0 {
            return Vec::new();
        }
        patterns.flat_map(|pattern| keys.take(pattern.prefix, |key| pattern.matches(key))).collect()
    }

    /// Every key under the prefixes.
    async fn sweep(&self, lanes: &mut Lanes) -> Result<Vec<Bytes>, Trouble> {
        let mut found = Vec::new();
        for address in lanes.topology().masters() {
            let lane = lanes.open(&address).await?;
            let trouble = |error| Trouble { address: address.clone(), error };
            let mut scan = Scan::new(&self.prefixes);
            while let Some(keys) = scan.step(&lane.node).await.map_err(trouble)? {
                found.extend(keys);
            }
        }
        Ok(found)
    }
}

impl Shared {
    fn new(of: Option<Arc<KeyMap>>, bound: usize) -> Arc<Shared> {
        let (awaited, _) = watch::channel(false);
        Arc::new(Shared { of, bound, awaited, keys: Mutex::default(), overflowed: AtomicBool::default() })
    }

    /// Nobody here would ever take out the keys of those whom another process follows.
    fn is_followed(&self, key: &[u8]) -> bool {
        self.of.as_ref().is_none_or(|of| std::str::from_utf8(key).is_ok_and(|key| of.whose(key).is_some()))
    }

    /// Whether every key that was found or announced is remembered.
    fn fits(&self) -> bool {
        !self.overflowed.load(Ordering::Relaxed)
    }

    /// Whether an index of so many keys lasts: one that is all but full would have to be built again and again.
    fn leaves_room(&self, keys: usize) -> bool {
        keys <= self.bound - self.bound / 8
    }

    fn keys(&self) -> MutexGuard<'_, KeySet> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, announced: &[Bytes]) {
        let mut keys = self.keys();
        for key in announced.iter().filter(|key| self.is_followed(key)) {
            match keys.len() < self.bound {
                true => drop(keys.insert(key)),
                false => self.overflowed.store(true, Ordering::Relaxed),
            }
        }
    }
}

/// A pattern of a plan.
#[derive(Debug, Clone, Copy)]
struct Pattern<'p> {
    prefix: &'p Bytes,
    suffix: &'p Bytes,
    guard: &'p Guard,
}

impl Pattern<'_> {
    fn matches(&self, key: &[u8]) -> bool {
        matches(key, self.prefix, self.suffix)
    }

    fn is_guarded(&self) -> bool {
        *self.guard != Guard::ALWAYS
    }
}

fn patterns(plan: &KeyPlan) -> impl Iterator<Item = Pattern<'_>> {
    plan.steps.iter().filter_map(|step| match step {
        Step::DeletePattern { prefix, suffix, guard } => Some(Pattern { prefix, suffix, guard }),
        _ => None,
    })
}

fn guarded(plan: &KeyPlan) -> impl Iterator<Item = Pattern<'_>> {
    patterns(plan).filter(Pattern::is_guarded)
}

/// A walk over every key of a node that begins with one of the prefixes.
struct Scan {
    /// Those that are still to be walked over.
    prefixes: Vec<Bytes>,
    /// Where it is within the last of them.
    cursor: Bytes,
}

impl Scan {
    fn new(prefixes: &[Bytes]) -> Scan {
        Scan { prefixes: prefixes.to_vec(), cursor: Bytes::from_static(b"0") }
    }

    /// The next keys; `None` at the end.
    async fn step(&mut self, node: &Node) -> Result<Option<Vec<Bytes>>, NodeError> {
        let Some(prefix) = self.prefixes.last() else { return Ok(None) };
        // Prefixes are written in the key map, so they are text.
        let pattern = Bytes::from(escape_glob(&String::from_utf8_lossy(prefix)) + "*");
        let reply = node.call(scan_command(self.cursor.clone(), pattern)).await?;
        let (next, keys) = read_scan(&reply);
        self.cursor = next.unwrap_or_else(|| {
            self.prefixes.pop();
            Bytes::from_static(b"0")
        });
        Ok(Some(keys))
    }
}

/// One step of a SCAN.
pub fn scan_command(cursor: Bytes, pattern: Bytes) -> Command {
    let word = |text: &'static str| Bytes::from_static(text.as_bytes());
    Command::new("SCAN", vec![cursor, word("MATCH"), pattern, word("COUNT"), word(SCAN_COUNT)])
}

/// The next cursor, `None` at the end, and the keys of a SCAN step.
pub fn read_scan(reply: &Reply) -> (Option<Bytes>, Vec<Bytes>) {
    let [cursor, keys] = reply.list() else { return (None, Vec::new()) };
    let next = cursor.text().filter(|cursor| cursor.as_ref() != b"0").cloned();
    (next, keys.list().iter().filter_map(Reply::text).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{KeyMapSpec, Shard, TableSpec};

    #[test]
    fn keys_of_users_whom_another_shard_follows_are_not_remembered() {
        let spec = KeyMapSpec::from_toml(crate::config::keys::BUILT_IN).unwrap();
        let shard = Shard::new(1, 2).unwrap();
        let tables: Vec<_> =
            TableSpec::defaults().into_iter().map(|table| TableSpec { shard, ..table }).collect();
        let map = KeyMap::compile(&spec, &tables).unwrap();
        let keys = ["financial_summary:live:7:week", "financial_summary:live:8:week"].map(Bytes::from);
        for (of, remembered) in [(Some(Arc::new(map)), 1), (None, 2)] {
            let shared = Shared::new(of, MAX_KEYS);
            shared.add(&keys);
            assert_eq!(shared.keys().len(), remembered);
        }
    }

    #[test]
    fn a_scan_ends_at_cursor_zero() {
        let step = |cursor: &'static str| {
            Reply::List(vec![Reply::Text(cursor.into()), Reply::List(vec![Reply::Text("k".into())])])
        };
        assert_eq!(read_scan(&step("17")), (Some("17".into()), vec!["k".into()]));
        assert_eq!(read_scan(&step("0")), (None, vec!["k".into()]));
    }
}
