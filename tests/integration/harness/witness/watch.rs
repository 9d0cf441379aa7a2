//! A reader that looks at every key of some users on its master the whole time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::lease::{self, Promise, Samples};
use super::{History, Losses, Ports, Verdict, nodes};
use crate::harness::resp::{Reply, Resp, slot_of};
use crate::harness::{Postgres, Store, eventually, eventually_ok};

/// Between two looks of one reader.
const PAUSE: Duration = Duration::from_millis(2);
/// Between two looks at who is master of what.
const MAP_EVERY: Duration = Duration::from_millis(50);
/// A node that does not answer for so long is asked over a new connection.
const ANSWER: Duration = Duration::from_millis(500);

/// One field of one key that holds a balance.
#[derive(Debug, Clone)]
struct Place {
    who: String,
    key: String,
    /// `None`: the key is a string.
    fields: &'static [&'static str],
}

/// A value that was read and that differs from the one before.
#[derive(Debug)]
struct Seen {
    place: usize,
    field: usize,
    /// `None`: it was there and is gone.
    value: Option<String>,
    /// Redis had lost it.
    lost: bool,
}

/// What a reader found in a field who had seen a lease before he asked.
#[derive(Debug)]
struct Behind {
    place: usize,
    field: usize,
    value: String,
    promise: Promise,
}

/// What is known of the lease.
#[derive(Debug, Clone, Default)]
struct Leased {
    promise: Option<Promise>,
    /// Leases that said less than they may.
    stale: Vec<String>,
}

/// Who serves which place, and how often that has changed.
#[derive(Debug, Default)]
struct Map {
    version: u64,
    master: Vec<Option<usize>>,
}

#[derive(Debug)]
struct Shared {
    ports: Ports,
    cluster: bool,
    /// The first is the lease, which is read before the others of its node.
    places: Vec<Place>,
    lease: Mutex<Leased>,
    samples: Samples,
    map: Mutex<Map>,
    sight: Mutex<Sight>,
    /// Of each place, how often it was read.
    looks: Vec<AtomicU64>,
    losses: Losses,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Sight {
    last: BTreeMap<(usize, usize), Option<String>>,
    seen: Vec<Seen>,
    /// Of each place the last promise behind which it was read.
    promised: BTreeMap<usize, Promise>,
    behind: Vec<Behind>,
}

/// The place of the lease.
const LEASE: usize = 0;

/// Reads until dropped.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    readers: Vec<JoinHandle<()>>,
    /// The last value of each field in the history of its user.
    reached: BTreeMap<(usize, usize), usize>,
}

impl Watch {
    /// One reader for each node; it reads what that node is the master of.
    pub async fn start(
        (store, ports): (&Store, Ports),
        postgres: &Postgres,
        users: Vec<String>,
        losses: Losses,
    ) -> Watch {
        let samples = Samples::start(postgres.door("postgres", "postgres"), &users).await;
        let lease = Place { who: String::new(), key: lease::KEY.to_owned(), fields: &[] };
        let places = users.iter().flat_map(|who| {
            let place = |key: String, fields| Place { who: who.clone(), key, fields };
            [
                place(format!("user:{{{who}}}:config"), &["balance", "wallet_balance"] as &'static [_]),
                place(format!("user_balance:{who}"), &[]),
                place(format!("user:{{{who}}}:portfolio"), &["wallet_balance"]),
            ]
        });
        let places: Vec<Place> = std::iter::once(lease).chain(places).collect();
        let cluster = matches!(store, Store::Cluster(_));
        let master = vec![(!cluster).then_some(0); places.len()];
        let map = Mutex::new(Map { version: 0, master });
        let (sight, looks) = (Mutex::default(), places.iter().map(|_| AtomicU64::new(0)).collect());
        let lease = Mutex::default();
        let shared = Arc::new(Shared { ports, cluster, places, lease, samples, map, sight, looks, losses });
        let mut readers: Vec<_> =
            (0..nodes(store).len()).map(|node| tokio::spawn(read(Arc::clone(&shared), node))).collect();
        if cluster {
            readers.push(tokio::spawn(follow_masters(Arc::clone(&shared))));
        }
        Watch { shared, readers, reached: BTreeMap::new() }
    }

    /// Waits until every key was read after now; else says which was not.
    pub async fn look(&self) -> Result<(), String> {
        // A look that has begun may be half over: the second after it counts.
        const LOOKS: u64 = 2;
        let looks = || self.shared.looks.iter().map(|looks| looks.load(Ordering::Relaxed));
        let before: Vec<u64> = looks().collect();
        eventually_ok(async || {
            let behind = looks().zip(&before).position(|(now, before)| now < before + LOOKS);
            behind.map_or(Ok(()), |place| Err(format!("{} cannot be read", self.shared.places[place].key)))
        })
        .await
    }

    /// The history goes on at another server.
    pub fn database_is(&self, other: &Postgres) {
        self.shared.samples.go_to(other.door("postgres", "postgres"));
    }

    /// Waits until a lease says that Redis holds what is committed now.
    pub async fn is_leased(&self) {
        let begun = self.shared.samples.time();
        let says = |promise: &Promise| promise.as_of > begun;
        eventually("a lease says that redis is fresh", async || {
            self.shared.lease.lock().unwrap().promise.as_ref().is_some_and(says).then_some(())
        })
        .await;
    }

    /// Waits until a lease that is written now cannot promise less than what is committed now, and be taken for true.
    pub async fn sample(&self) {
        self.shared.samples.take().await;
    }

    /// Holds what was seen since the last time against what was committed. What comes in meanwhile is held against it later:
    /// `history` may not know it yet.
    pub fn judge(&mut self, sight: Sight, history: &History, in_a_gap: bool, verdict: &mut Verdict) {
        self.judge_values(sight.seen, history, in_a_gap, verdict);
        self.judge_leases(sight.behind, history, verdict);
    }

    fn judge_leases(&self, behind: Vec<Behind>, history: &History, verdict: &mut Verdict) {
        verdict.leased = behind.len() as u64;
        verdict.wrong_values.append(&mut self.shared.lease.lock().unwrap().stale);
        for Behind { place, field, value, promise } in behind {
            let Place { who, key, fields } = &self.shared.places[place];
            let Some(note) = self.shared.samples.promised(&promise, who) else { continue };
            let promised = history.at(who, note);
            if history.balances(who).iter().skip(promised).any(|balance| *balance == value) {
                continue;
            }
            let name = fields.get(field).copied().unwrap_or_default();
            match self.shared.losses.cover_lease(key, &promise.as_of) {
                true => verdict.older_by_loss += 1,
                false => verdict.wrong_values.push(format!(
                    "{key} {name} is older than change {promised} of the user, which a lease as of {} promised",
                    promise.as_of
                )),
            }
        }
        self.shared.samples.forget();
    }

    /// What was seen since the last time.
    pub fn take(&self) -> Sight {
        let mut sight = self.shared.sight.lock().unwrap();
        let (seen, behind) = (std::mem::take(&mut sight.seen), std::mem::take(&mut sight.behind));
        Sight { seen, behind, ..Sight::default() }
    }

    fn judge_values(&mut self, seen: Vec<Seen>, history: &History, in_a_gap: bool, verdict: &mut Verdict) {
        verdict.looks = self.shared.looks.iter().map(|looks| looks.swap(0, Ordering::Relaxed)).sum();
        for Seen { place: index, field, value, lost } in seen {
            let place = &self.shared.places[index];
            let name = place.fields.get(field).copied().unwrap_or_default();
            let committed = history.balances(&place.who);
            let reached = self.reached.entry((index, field)).or_insert(0);
            let wrong = match value {
                None => Some("is gone".to_owned()),
                Some(value) => {
                    let later = committed.iter().skip(*reached).position(|balance| *balance == value);
                    let earlier = || committed.iter().take(*reached).rposition(|balance| *balance == value);
                    match (later.map(|later| *reached + later), later.is_none().then(earlier).flatten()) {
                        (Some(later), _) => {
                            *reached = later;
                            None
                        }
                        (None, Some(earlier)) => {
                            let back = format!("went back from change {reached} of the user to {earlier}");
                            *reached = earlier;
                            Some(back)
                        }
                        // The stream has the first half of a transaction if the table left the publication in the midst.
                        (None, None) if in_a_gap && history.passed(&place.who, &value) => None,
                        (None, None) => Some(format!("shows {value}, which was never committed")),
                    }
                }
            };
            match wrong {
                Some(_) if lost => verdict.older_by_loss += 1,
                Some(wrong) => verdict.wrong_values.push(format!("{} {name} {wrong}", place.key)),
                None => {}
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.readers.iter().for_each(JoinHandle::abort);
    }
}

impl Shared {
    /// The places this node is the master of, and of which version of the map that is true.
    fn served_by(&self, node: usize) -> (u64, Vec<usize>) {
        let map = self.map.lock().unwrap();
        let served = (0..self.places.len()).filter(|place| map.master[*place] == Some(node));
        (map.version, served.collect())
    }

    fn note_lease(&self, reply: &Reply, oldest: &str) {
        let mut lease = self.lease.lock().unwrap();
        lease.promise = reply.text().map(|text| Promise::read(&text));
        let as_of = lease.promise.as_ref().map(|promise| promise.as_of.clone());
        let stale = as_of.filter(|as_of| **as_of < *oldest);
        lease.stale.extend(stale.map(|as_of| format!("a lease says {as_of}, not {oldest} at least")));
    }

    /// Keeps what `node` answered, unless another is the master by now: an answer that waited is no news. Before it was
    /// asked, a lease had promised something, and had to say so much at least.
    fn note(&self, (version, places): (u64, &[usize]), replies: &[Reply], before: (Option<Promise>, &str)) {
        let (promise, oldest) = before;
        let map = self.map.lock().unwrap();
        if map.version != version {
            return;
        }
        let mut sight = self.sight.lock().unwrap();
        for (place, reply) in places.iter().zip(replies) {
            let values: Vec<Option<String>> = match reply {
                // The slot is on its way, or the server is not up yet.
                Reply::Error(_) => continue,
                Reply::Array(items) => items.iter().map(Reply::text).collect(),
                value => vec![value.text()],
            };
            self.looks[*place].fetch_add(1, Ordering::Relaxed);
            if *place == LEASE {
                self.note_lease(reply, oldest);
                continue;
            }
            let lost = self.losses.cover(&self.places[*place].key);
            let news = promise.as_ref().filter(|promise| sight.promised.get(place) != Some(promise));
            if let Some(promise) = news {
                sight.promised.insert(*place, promise.clone());
                for (field, value) in values.iter().enumerate() {
                    let behind = |value| Behind { place: *place, field, value, promise: promise.clone() };
                    sight.behind.extend(value.clone().map(behind));
                }
            }
            for (field, value) in values.into_iter().enumerate() {
                let before = sight.last.insert((*place, field), value.clone());
                let lost = lost || (value.is_none() && self.losses.cover_absence(&self.places[*place].key));
                if before.unwrap_or_default() != value {
                    sight.seen.push(Seen { place: *place, field, value, lost });
                }
            }
        }
    }
}

async fn read(shared: Arc<Shared>, node: usize) {
    let mut connection = None;
    loop {
        let (version, places) = shared.served_by(node);
        let commands: Vec<Vec<&str>> = places
            .iter()
            .map(|place| {
                let Place { key, fields, .. } = &shared.places[*place];
                match fields {
                    [] => vec!["GET", key],
                    fields => ["HMGET", key].into_iter().chain(fields.iter().copied()).collect(),
                }
            })
            .collect();
        if !commands.is_empty() {
            let (promise, oldest) = (shared.lease.lock().unwrap().promise.clone(), shared.samples.oldest());
            match ask(&mut connection, shared.ports.of(node), &commands).await {
                Some(replies) => shared.note((version, &places), &replies, (promise, &oldest)),
                None => connection = None,
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// `None`: the connection is of no more use.
async fn ask(connection: &mut Option<Resp>, port: u16, commands: &[Vec<&str>]) -> Option<Vec<Reply>> {
    let asked = async {
        if connection.is_none() {
            let stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
            stream.set_nodelay(true).ok()?;
            *connection = Some(Resp::new(stream));
        }
        connection.as_mut()?.pipeline(commands).await.ok()
    };
    tokio::time::timeout(ANSWER, asked).await.ok().flatten()
}

/// Of those that call themselves master of a slot, the one with the latest epoch is: an old master that was frozen
/// does not know yet that it was replaced.
async fn follow_masters(shared: Arc<Shared>) {
    debug_assert!(shared.cluster);
    let ports = shared.ports.all();
    let mut connections: Vec<Option<Resp>> = ports.iter().map(|_| None).collect();
    let mut known: Vec<Vec<(u64, u16, u16)>> = vec![Vec::new(); ports.len()];
    loop {
        let asking = connections.iter_mut().zip(&ports).map(async |(connection, port)| {
            let replies = ask(connection, *port, &[vec!["CLUSTER", "NODES"]]).await;
            if replies.is_none() {
                *connection = None;
            }
            replies.and_then(|replies| Some(claims(&replies.first()?.text()?)))
        });
        let answers = futures_util::future::join_all(asking).await;
        for (known, answer) in known.iter_mut().zip(answers) {
            // One that does not answer may still be the master, or come back as it.
            if let Some(answer) = answer {
                *known = answer;
            }
        }
        let master = shared.places.iter().map(|place| {
            let slot = slot_of(&place.key);
            let claim = |claims: &Vec<(u64, u16, u16)>| {
                claims.iter().filter(|(_, first, last)| (*first..=*last).contains(&slot)).map(|c| c.0).max()
            };
            let claims = known.iter().enumerate().filter_map(|(node, claims)| Some((claim(claims)?, node)));
            claims.max().map(|(_, node)| node)
        });
        let master: Vec<Option<usize>> = master.collect();
        {
            let mut map = shared.map.lock().unwrap();
            if map.master != master {
                map.version += 1;
                map.master = master;
            }
        }
        tokio::time::sleep(MAP_EVERY).await;
    }
}

/// The slots that the answering node calls its own: epoch, first and last.
fn claims(nodes: &str) -> Vec<(u64, u16, u16)> {
    let myself = nodes.lines().find(|line| line.contains("myself,master")).unwrap_or_default();
    let words: Vec<&str> = myself.split(' ').collect();
    let epoch = words.get(6).and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
    let slots = words.iter().skip(8).filter(|word| !word.starts_with('['));
    slots
        .filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some((epoch, first.parse().ok()?, last.trim().parse().ok()?))
        })
        .collect()
}
