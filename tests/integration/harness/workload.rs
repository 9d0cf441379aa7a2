//! Writers and a watcher that work beside a test.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::task::JoinHandle;

use super::world::Movement;
use super::{LOOK_EVERY, Postgres, Redis, Resp, World, eventually};

/// Between two transactions of one writer: at most 200 a second.
const PACE: &str = "SELECT pg_sleep(0.005)";

/// Concurrent writers of all kinds of movements; they stop when told or dropped, and connect again to a server that
/// went away.
#[derive(Debug)]
pub struct Workload {
    stop: Arc<AtomicBool>,
    commits: Arc<AtomicU64>,
    writers: Vec<JoinHandle<()>>,
}

impl Workload {
    /// Each writer works on all users `first_id..first_id + users`, in an order of its own.
    pub async fn start(postgres: &Postgres, writers: u64, first_id: u32, users: u32) -> Workload {
        let (stop, commits) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = Vec::new();
        for seed in 0..writers {
            let door = postgres.door("postgres", "postgres");
            let mut client = postgres.client().await;
            let (stop, commits) = (Arc::clone(&stop), Arc::clone(&commits));
            tasks.push(tokio::spawn(async move {
                let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9) + 1);
                while !stop.load(Ordering::Relaxed) {
                    if client.is_closed() {
                        match door.client().await {
                            Ok(again) => client = again,
                            Err(_) => {
                                tokio::time::sleep(LOOK_EVERY).await;
                                continue;
                            }
                        }
                    }
                    let id = first_id + dice.below(users.into()) as u32;
                    let statements = transaction(&mut dice, id);
                    // A platform's pace, kept by the server: unoptimised builds on two cores must follow.
                    let _ = client.batch_execute(PACE).await;
                    // Two writers may deadlock or meet a dying server: the platform would try again too.
                    if client.batch_execute(&statements).await.is_ok() {
                        commits.fetch_add(1, Ordering::Relaxed);
                    } else {
                        let _ = client.batch_execute("ROLLBACK").await;
                    }
                }
            }));
        }
        Workload { stop, commits, writers: tasks }
    }

    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Waits until at least so many transactions more are done.
    pub async fn progress(&self, transactions: u64) {
        let goal = self.commits() + transactions;
        eventually("the writers go on", async || (self.commits() >= goal).then_some(())).await;
    }

    /// Ends the writers between two transactions; returns how many they have done.
    pub async fn stop(mut self) -> u64 {
        self.rest().await
    }

    /// As [`stop`](Self::stop), for who holds it only by reference.
    pub async fn rest(&mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers.drain(..) {
            writer.await.expect("a writer ends");
        }
        self.commits()
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn transaction(dice: &mut Dice, id: u32) -> String {
    let amount = format!("{}.{:02}", dice.below(500) + 1, dice.below(100));
    let debit = format!("-{amount}");
    let admin = Some(9);
    let booked = |kind, amount, admin| Movement { kind, amount, admin, reference: None }.statements(id).0;
    match dice.below(8) {
        0 => format!("BEGIN; {} COMMIT", booked("deposit", &amount, admin)),
        1 => format!("BEGIN; {} COMMIT", booked("withdraw", &debit, admin)),
        2 => format!("BEGIN; {} COMMIT", booked("profit", &amount, None)),
        3 => format!("BEGIN; {} COMMIT", booked("loss", &debit, None)),
        4 => format!("BEGIN; {} {} COMMIT", booked("swap", &debit, None), booked("commission", &debit, None)),
        5 => format!("BEGIN; {} ROLLBACK", booked("profit", &amount, None)),
        6 => format!("UPDATE users SET wallet_balance = wallet_balance + {amount} WHERE id = {id}"),
        _ => format!("UPDATE users SET leverage = {} WHERE id = {id}", dice.below(500) + 1),
    }
}

/// A small repeatable random source (xorshift64*).
#[derive(Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// From 0 to `bound - 1`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }
}

/// Users whose balance only ever grows, and a reader who sees to it that no key of theirs goes back.
#[derive(Debug)]
pub struct Growing {
    stop: Arc<AtomicBool>,
    looks: Arc<AtomicU64>,
    writer: JoinHandle<()>,
    watcher: JoinHandle<Vec<String>>,
}

impl Growing {
    /// `first_id..first_id + users` must be `live`; nobody else may write them. `nodes` serve their keys.
    pub async fn start(world: &World, first_id: u32, users: u32) -> Growing {
        let (stop, looks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = world.postgres.client().await;
        let told = Arc::clone(&stop);
        let writer = tokio::spawn(async move {
            let mut dice = Dice(77);
            while !told.load(Ordering::Relaxed) {
                let id = first_id + dice.below(users.into()) as u32;
                let grow =
                    format!("UPDATE users SET wallet_balance = wallet_balance + 0.000001 WHERE id = {id}");
                let paced = client.batch_execute(PACE).await.is_ok();
                if !paced || client.batch_execute(&grow).await.is_err() {
                    return;
                }
            }
        });
        let mut readers = Vec::new();
        for id in first_id..first_id + users {
            for (field, key) in
                [("", format!("user_balance:live:{id}")), ("balance", format!("user:{{live:{id}}}:config"))]
            {
                readers.push((node_of(world, &key).await.client().await, key, field));
            }
        }
        let watcher = tokio::spawn(watch(readers, Arc::clone(&stop), Arc::clone(&looks)));
        Growing { stop, looks, writer, watcher }
    }

    /// Ends both.
    ///
    /// # Panics
    /// When a key went back.
    pub async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.writer.await.expect("the writer ends");
        let went_back = self.watcher.await.expect("the watcher ends");
        assert!(self.looks.load(Ordering::Relaxed) > 0, "nobody looked");
        assert!(went_back.is_empty(), "keys went back: {went_back:#?}");
    }
}

async fn node_of<'w>(world: &'w World, key: &str) -> &'w Redis {
    match &world.store {
        super::Store::Single(redis) => redis,
        super::Store::Cluster(cluster) => cluster.node(cluster.master_of(key).await),
    }
}

async fn watch(
    mut readers: Vec<(Resp, String, &'static str)>,
    stop: Arc<AtomicBool>,
    looks: Arc<AtomicU64>,
) -> Vec<String> {
    let mut seen: BTreeMap<String, u128> = BTreeMap::new();
    let mut went_back = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        for (connection, key, field) in &mut readers {
            let command = if field.is_empty() { vec!["GET", key] } else { vec!["HGET", key, field] };
            let Ok(reply) = connection.call(&command).await else { return went_back };
            let Some(now) = reply.text() else { continue };
            let before = seen.insert(key.clone(), micros(&now)).unwrap_or(0);
            if micros(&now) < before {
                went_back.push(format!("{key}: {now} after {before} millionths"));
            }
            looks.fetch_add(1, Ordering::Relaxed);
        }
    }
    went_back
}

/// A decimal with at most six places, in millionths.
fn micros(text: &str) -> u128 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    format!("{whole}{fraction:0<6}").parse().unwrap_or_else(|_| panic!("not an amount: {text}"))
}
