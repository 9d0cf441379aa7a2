//! What the platform does to balances: the demo's only writers of the database.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use tokio::task::JoinSet;
use tokio_postgres::{Client, Row, Transaction};

use super::super::throwaway::servers::{Postgres, sql};
use super::amount::Micros;
use crate::error::{Error, Result};

/// Users that `schema.sql` makes, with ids from 1.
pub const USERS: i32 = 10_000;
/// Connections that write at the same time.
const WRITERS: u64 = 4;
/// Largest amount of one transaction.
const LARGEST: i64 = 500_000_000;

const MOVE: &str = "UPDATE users SET wallet_balance = wallet_balance + $1::text::numeric,
        updated_at = clock_timestamp() WHERE id = $2
    RETURNING user_type, wallet_balance::text, pg_current_xact_id()::text";
const RECORD: &str = "INSERT INTO user_transactions (transaction_id, user_id, user_type, type, amount,
        balance_before, balance_after, status, admin_id, method_type)
    VALUES ($1, $2, $3, $4, $5::text::numeric, $6::text::numeric - $5::text::numeric, $6::text::numeric,
        'completed', $7, $8)";
const REQUEST: &str = "INSERT INTO user_transactions
        (transaction_id, user_id, user_type, type, amount, status, notes)
    SELECT $1, id, user_type, 'deposit', $3::text::numeric, 'pending', 'money request'
      FROM users WHERE id = $2";
const APPROVE: &str = "UPDATE user_transactions SET status = 'completed', admin_id = 7,
        balance_before = $2::text::numeric - amount, balance_after = $2::text::numeric,
        updated_at = clock_timestamp() WHERE transaction_id = $1";

/// One committed change of one user's balance: exactly one event on each channel must tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// The database transaction.
    pub xid: u64,
    /// The user.
    pub user: i32,
    /// The balance it left.
    pub balance: Micros,
    /// When the writer had the answer to COMMIT.
    pub at: Instant,
}

/// What the writers have done so far.
#[derive(Debug, Default)]
pub struct Progress {
    /// Database transactions that changed a balance and committed.
    pub committed: AtomicU64,
    /// The events those must cause on one channel.
    pub events: AtomicU64,
}

/// What the writers have done.
#[derive(Debug, Default)]
pub struct Done {
    /// Every change of a balance.
    pub commits: Vec<Commit>,
    /// Database transactions by what they were for.
    pub kinds: BTreeMap<&'static str, u64>,
}

/// Writers at work.
#[derive(Debug)]
pub struct Workload {
    writers: JoinSet<Result<Done>>,
    stop: Arc<AtomicBool>,
    /// Counted live.
    pub progress: Arc<Progress>,
}

impl Workload {
    /// Starts the writers, each on a connection of its own.
    pub async fn start(postgres: &Postgres) -> Result<Workload> {
        let (stop, progress) = (Arc::default(), Arc::default());
        let mut writers = JoinSet::new();
        for number in 1..=WRITERS {
            let client = postgres.connect().await?;
            let chance = Chance(number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let (stop, progress) = (Arc::clone(&stop), Arc::clone(&progress));
            let writer = Writer { client, chance, number, issued: 0, done: Done::default(), progress };
            writers.spawn(writer.run(stop));
        }
        Ok(Workload { writers, stop, progress })
    }

    /// Lets every writer finish its transaction.
    pub async fn stop(mut self) -> Result<Done> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Done::default();
        while let Some(writer) = self.writers.join_next().await {
            let done = writer.map_err(|e| Error::definite(format!("a writer ended: {e}"), ""))??;
            all.commits.extend(done.commits);
            for (kind, count) in done.kinds {
                *all.kinds.entry(kind).or_default() += count;
            }
        }
        Ok(all)
    }
}

/// xorshift64: the same amounts in every demo, without a dependency.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from((self.0 >> 32) % u64::from(limit.max(1))).unwrap_or(0)
    }

    fn user(&mut self) -> i32 {
        i32::try_from(self.below(USERS.unsigned_abs())).unwrap_or(0) + 1
    }

    fn amount(&mut self) -> Micros {
        Micros(1 + i64::from(self.below(u32::MAX)) % LARGEST)
    }
}

/// A movement of money with its row in `user_transactions`.
struct Movement {
    kind: &'static str,
    credit: bool,
    /// Who did it, where a person did.
    admin: Option<i32>,
    method: &'static str,
}

const fn movement(kind: &'static str, credit: bool, admin: Option<i32>, method: &'static str) -> Movement {
    Movement { kind, credit, admin, method }
}

struct Writer {
    client: Client,
    chance: Chance,
    number: u64,
    issued: u64,
    done: Done,
    progress: Arc<Progress>,
}

impl Writer {
    async fn run(mut self, stop: Arc<AtomicBool>) -> Result<Done> {
        while !stop.load(Ordering::Relaxed) {
            self.act().await.map_err(sql)?;
        }
        Ok(self.done)
    }

    async fn act(&mut self) -> Result<(), tokio_postgres::Error> {
        match self.chance.below(100) {
            0..20 => self.moves("admin deposit", movement("deposit", true, Some(1), "bank")).await,
            20..32 => self.moves("admin withdrawal", movement("withdraw", false, Some(2), "bank")).await,
            32..42 => self.approves_a_request().await,
            42..57 => self.moves("profit", movement("profit", true, None, "system")).await,
            57..72 => self.moves("loss", movement("loss", false, None, "system")).await,
            72..78 => self.moves("swap", movement("swap", false, None, "system")).await,
            78..84 => self.moves("commission", movement("commission", false, None, "system")).await,
            84..89 => self.transfers().await,
            89..95 => self.rolls_back().await,
            _ => self.types_a_bare_update().await,
        }
    }

    async fn moves(&mut self, what: &'static str, of: Movement) -> Result<(), tokio_postgres::Error> {
        let (id, user, amount) = (self.transaction_id(), self.chance.user(), self.chance.amount());
        let transaction = self.client.transaction().await?;
        let moved = record(&transaction, &id, user, signed(amount, &of), &of).await?;
        transaction.commit().await?;
        self.committed(what, &[moved]);
        Ok(())
    }

    /// Two users in one database transaction: an event for each.
    async fn transfers(&mut self) -> Result<(), tokio_postgres::Error> {
        let (out, into) = (self.transaction_id(), self.transaction_id());
        let (a, b, amount) = (self.chance.user(), self.chance.user(), self.chance.amount());
        if a == b {
            return Ok(());
        }
        let sent = movement("transfer", false, None, "internal");
        let got = movement("transfer", true, None, "internal");
        let transaction = self.client.transaction().await?;
        // Rows are locked in the order of ids: two transfers never wait for each other.
        let first = record(&transaction, &out, a.min(b), signed(amount, &sent), &sent).await?;
        let second = record(&transaction, &into, a.max(b), amount, &got).await?;
        transaction.commit().await?;
        self.committed("transfer between two users", &[first, second]);
        Ok(())
    }

    async fn approves_a_request(&mut self) -> Result<(), tokio_postgres::Error> {
        let (id, user, amount) = (self.transaction_id(), self.chance.user(), self.chance.amount());
        // Pending rows touch nothing: this commit must cause no event.
        self.client.execute(REQUEST, &[&id, &user, &amount.to_string()]).await?;
        let transaction = self.client.transaction().await?;
        let row = transaction.query_one(MOVE, &[&amount.to_string(), &user]).await?;
        transaction.execute(APPROVE, &[&id, &row.try_get::<_, String>(1)?]).await?;
        let moved = moved(&row, user)?;
        transaction.commit().await?;
        self.committed("money request approved", &[moved]);
        Ok(())
    }

    async fn rolls_back(&mut self) -> Result<(), tokio_postgres::Error> {
        let (id, user, amount) = (self.transaction_id(), self.chance.user(), self.chance.amount());
        let of = movement("profit", true, None, "system");
        let transaction = self.client.transaction().await?;
        record(&transaction, &id, user, amount, &of).await?;
        transaction.rollback().await?;
        *self.done.kinds.entry(ROLLED_BACK).or_default() += 1;
        Ok(())
    }

    /// As typed into psql: no row in `user_transactions`, not even `updated_at`.
    async fn types_a_bare_update(&mut self) -> Result<(), tokio_postgres::Error> {
        let (user, amount) = (self.chance.user(), self.chance.amount());
        let typed = format!(
            "UPDATE users SET wallet_balance = wallet_balance + {amount} WHERE id = {user}
             RETURNING user_type, wallet_balance::text, pg_current_xact_id()::text"
        );
        let row = self.client.query_one(&typed, &[]).await?;
        let moved = moved(&row, user)?;
        self.committed("bare UPDATE by an admin", &[moved]);
        Ok(())
    }

    fn committed(&mut self, what: &'static str, moved: &[Moved]) {
        let at = Instant::now();
        let commits = moved.iter().map(|m| Commit { xid: m.xid, user: m.user, balance: m.balance, at });
        self.done.commits.extend(commits);
        *self.done.kinds.entry(what).or_default() += 1;
        self.progress.committed.fetch_add(1, Ordering::Relaxed);
        self.progress.events.fetch_add(moved.len() as u64, Ordering::Relaxed);
    }

    fn transaction_id(&mut self) -> String {
        self.issued += 1;
        format!("TX-{}-{}", self.number, self.issued)
    }
}

/// What the report calls attempts that must leave no trace.
pub const ROLLED_BACK: &str = "rolled back";

struct Moved {
    xid: u64,
    user: i32,
    balance: Micros,
}

fn signed(amount: Micros, of: &Movement) -> Micros {
    if of.credit { amount } else { Micros(-amount.0) }
}

async fn record(
    transaction: &Transaction<'_>,
    id: &str,
    user: i32,
    amount: Micros,
    of: &Movement,
) -> Result<Moved, tokio_postgres::Error> {
    let amount = amount.to_string();
    let row = transaction.query_one(MOVE, &[&amount, &user]).await?;
    let (user_type, after): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    let values: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
        &[&id, &user, &user_type, &of.kind, &amount, &after, &of.admin, &of.method];
    transaction.execute(RECORD, values).await?;
    moved(&row, user)
}

fn moved(row: &Row, user: i32) -> Result<Moved, tokio_postgres::Error> {
    let (balance, xid): (String, String) = (row.try_get(1)?, row.try_get(2)?);
    // Text of PostgreSQL's own: a number that is none would show as an event that nobody sent.
    let balance = Micros::parse(&balance).unwrap_or(Micros(0));
    Ok(Moved { xid: xid.parse().unwrap_or(0), user, balance })
}
