//! Subscribers on every node that count each event.
//!
//! The bus of a cluster carries every publish to every node, but not what a node published just before it died: the
//! subscriber on that very node has it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::history::{Change, GONE};
use super::{Losses, Ports, Verdict, nodes};
use crate::harness::resp::Resp;
use crate::harness::subscriber::{BALANCE_UPDATES, USER_UPDATES, parse};
use crate::harness::{LOOK_EVERY, Store, eventually};

const CHANNELS: [&str; 2] = [USER_UPDATES, BALANCE_UPDATES];
/// Words of events that heal and that no transaction made.
const HEALING: [&str; 4] = ["resync", "repair", "heal", "force_refresh"];
/// Nodes that are listened to, at most.
const LISTENERS: usize = 8;
/// What no event says.
const THE_END: &str = "the end of the round";

/// An event on a channel.
#[derive(Debug)]
struct Told {
    who: String,
    xid: u64,
    /// No transaction made it.
    heals: bool,
    /// How often each listener has heard it.
    times: Vec<u32>,
    /// Heard again after Redis had lost the fence.
    again_by_loss: bool,
}

#[derive(Debug)]
struct Shared {
    told: Mutex<HashMap<(usize, String), Told>>,
    /// Ends that were heard: listener, channel, text.
    ends: Mutex<BTreeSet<(usize, String, String)>>,
    ports: Ports,
    listening: Vec<AtomicBool>,
    losses: Losses,
}

/// Listens until dropped.
#[derive(Debug)]
pub struct Audience {
    shared: Arc<Shared>,
    listeners: Vec<JoinHandle<()>>,
    /// Events of earlier rounds, by hash, and how often each listener has heard them: the bus of a cluster may bring a
    /// copy to another one when the round is over.
    heard_before: HashMap<u64, [u8; LISTENERS]>,
    hasher: RandomState,
}

impl Audience {
    /// Returns once every running node is listened to.
    pub async fn start(store: &Store, ports: Ports, losses: Losses) -> Audience {
        let listeners = nodes(store).len();
        assert!(listeners <= LISTENERS, "more nodes than are listened to");
        let shared = Arc::new(Shared {
            told: Mutex::default(),
            ends: Mutex::default(),
            ports,
            listening: (0..listeners).map(|_| AtomicBool::new(false)).collect(),
            losses,
        });
        let listen = |index| tokio::spawn(listen(Arc::clone(&shared), index));
        let listeners = (0..listeners).map(listen).collect();
        let audience =
            Audience { shared, listeners, heard_before: HashMap::new(), hasher: RandomState::new() };
        audience.listens(store).await;
        audience
    }

    /// What was listened to is no more.
    pub fn is_elsewhere(&self) {
        self.shared.listening.iter().for_each(|listening| listening.store(false, Ordering::Relaxed));
    }

    /// Waits until every running node is listened to.
    pub async fn listens(&self, store: &Store) {
        eventually("every running node is listened to", async || {
            let listening = |index: usize| self.shared.listening[index].load(Ordering::Relaxed);
            let mut running = nodes(store).into_iter().enumerate().filter(|(_, node)| node.is_running());
            running.all(|(index, _)| listening(index)).then_some(())
        })
        .await;
    }

    /// Waits until all that the masters have published before now is heard.
    pub async fn settle(&self, store: &Store) {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        self.listens(store).await;
        let end = format!("{THE_END} {}", NEXT.fetch_add(1, Ordering::Relaxed));
        let masters: BTreeSet<u16> = store.masters().await.iter().map(|master| master.port()).collect();
        for (index, master) in
            nodes(store).into_iter().enumerate().filter(|(_, n)| masters.contains(&n.port()))
        {
            for channel in CHANNELS {
                master.call(&["PUBLISH", channel, &end]).await;
                let heard = (index, channel.to_owned(), end.clone());
                eventually("a master's own listener hears the end", async || {
                    self.shared.ends.lock().unwrap().contains(&heard).then_some(())
                })
                .await;
            }
        }
        self.shared.ends.lock().unwrap().clear();
    }

    /// Holds what was heard since the last time against what was committed since then.
    pub fn judge(&mut self, changes: &[Change], verdict: &mut Verdict) {
        let told = std::mem::take(&mut *self.shared.told.lock().unwrap());
        verdict.events = told.len() as u64;
        let mut by_change: BTreeMap<(usize, &str, u64), Vec<&str>> = BTreeMap::new();
        for ((channel, id), event) in &told {
            let heard = self.heard_before.entry(self.hasher.hash_one((channel, id))).or_default();
            let most = |heard: &[u8; LISTENERS]| heard.iter().copied().max().unwrap_or(0);
            let before = most(heard);
            for (all, now) in heard.iter_mut().zip(&event.times) {
                *all = all.saturating_add(u8::try_from(*now).unwrap_or(u8::MAX));
            }
            let (known, again) = (before > 0, most(heard) > before.max(1));
            match again {
                true if event.again_by_loss => verdict.doubled_by_loss += 1,
                true => verdict.doubled.push(format!("{id} of {} on {}", event.who, CHANNELS[*channel])),
                false => {}
            }
            if !event.heals && !known {
                by_change.entry((*channel, &event.who, event.xid)).or_default().push(id);
            }
        }
        for change in changes {
            for (channel, name) in CHANNELS.iter().enumerate() {
                let ids = by_change.get(&(channel, &change.who, change.xid));
                let what = || format!("transaction {} of {} on {name}", change.xid, change.who);
                match ids.map_or(0, Vec::len) {
                    // Whoever writes down what user_updates tells would bring him back.
                    0 if channel == 0 && change.balance == GONE => {}
                    told if channel == 0 && change.balance == GONE => {
                        verdict.doubled.push(format!("{}, who is gone: {told}", what()));
                    }
                    1 => {}
                    // What left the balance as it was is told on one channel only.
                    0 if channel == 1 && !change.moved => {}
                    // Of what is no number nobody is told.
                    0 if change.balance == "NaN" => {}
                    0 if self.shared.losses.cover_event(&change.who) => verdict.lost_by_loss += 1,
                    0 => verdict.lost.push(what()),
                    _ => verdict.doubled.push(format!("{} under other names: {ids:?}", what())),
                }
            }
        }
    }
}

impl Drop for Audience {
    fn drop(&mut self) {
        self.listeners.iter().for_each(JoinHandle::abort);
    }
}

async fn listen(shared: Arc<Shared>, index: usize) {
    loop {
        if let Ok(stream) = TcpStream::connect(("127.0.0.1", shared.ports.of(index))).await {
            let _ = hear(&shared, index, Resp::new(stream)).await;
        }
        shared.listening[index].store(false, Ordering::Relaxed);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn hear(shared: &Shared, index: usize, mut connection: Resp) -> std::io::Result<()> {
    connection.send(&["SUBSCRIBE", CHANNELS[0], CHANNELS[1]]).await?;
    for _ in CHANNELS {
        // A server that still loads refuses it.
        if connection.receive().await?.items().is_empty() {
            return Ok(());
        }
    }
    shared.listening[index].store(true, Ordering::Relaxed);
    loop {
        let message = connection.receive().await?;
        let texts = message.texts();
        let [_, channel, payload] = texts.as_slice() else { continue };
        let Some(number) = CHANNELS.iter().position(|name| name == channel) else { continue };
        if payload.starts_with(THE_END) {
            shared.ends.lock().unwrap().insert((index, channel.clone(), payload.clone()));
            continue;
        }
        // Each event comes once from each node: it is taken apart the first time only.
        let id = payload.split_once("\"event_id\":\"").and_then(|(_, rest)| rest.split_once('"'));
        let id = id.map_or_else(|| payload.clone(), |(id, _)| id.to_owned());
        let mut told = shared.told.lock().unwrap();
        let event = told.entry((number, id)).or_insert_with(|| {
            let heard = parse(&message).expect("a message");
            Told {
                who: heard.user(),
                xid: heard.json["xid"].as_u64().unwrap_or(0),
                heals: HEALING.contains(&heard.text("operation_type")),
                times: vec![0; shared.listening.len()],
                again_by_loss: false,
            }
        });
        event.times[index] += 1;
        event.again_by_loss |= shared.losses.cover(&format!("{{{}}}", event.who));
    }
}
