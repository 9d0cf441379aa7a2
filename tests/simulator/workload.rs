//! What the applications do: to the database, and past Lockstep to Redis.

use bytes::Bytes;
use lockstep::sink::reply::Reply;

use crate::model::keyspace::Keyspace;
use crate::model::postgres::{Completed, MOST_USERS, Op, Row, User};
use crate::random::Random;
use crate::setup::{Fault, Setup};
use crate::world::World;

/// Transactions that run at the same time.
const MOST_RUNNING: usize = 3;
const KINDS: [&str; 2] = ["live", "demo"];

impl World {
    /// A step of some transaction.
    pub fn work(&mut self, random: &mut Random, setup: &Setup) {
        let running = |in_wal: bool| {
            let of = self.postgres.running.iter().filter(|tx| tx.in_wal == in_wal).map(|tx| tx.xid);
            of.collect::<Vec<u64>>()
        };
        let (open, in_wal) = (running(false), running(true));
        match random.below(10) {
            0..=1 if !in_wal.is_empty() && (!setup.has(Fault::StandbyLags) || random.one_in(8)) => {
                let Some(xid) = random.pick(&in_wal) else { return };
                self.say(|| format!("transaction {xid} is visible"));
                self.postgres.make_visible(xid);
            }
            2..=4 if !open.is_empty() => {
                let Some(xid) = random.pick(&open) else { return };
                self.commit(xid);
            }
            5 if !open.is_empty() && random.one_in(3) => {
                let Some(xid) = random.pick(&open) else { return };
                self.say(|| format!("transaction {xid} is rolled back"));
                self.postgres.roll_back(xid);
            }
            6..=7 if !open.is_empty() => {
                let Some(xid) = random.pick(&open) else { return };
                self.change(xid, random, setup);
            }
            _ if self.postgres.running.len() < MOST_RUNNING => {
                let xid = self.postgres.begin();
                self.change(xid, random, setup);
                if random.one_in(2) {
                    self.commit(xid);
                }
            }
            _ => {}
        }
    }

    /// The commit is in WAL, and no snapshot sees it.
    pub fn commit(&mut self, xid: u64) {
        let said = self.postgres.commit_in_wal(xid).map(|commit| commit.lsn);
        if let Some(lsn) = said {
            let number = self.postgres.commits.len();
            self.say(|| format!("transaction {xid} commits at {lsn:X}, number {number}"));
            self.checks.committed(&self.postgres.commits);
        }
    }

    fn change(&mut self, xid: u64, random: &mut Random, setup: &Setup) {
        let asks = setup.has(Fault::Resync) && random.one_in(16);
        let truncates = setup.has(Fault::Truncate) && random.one_in(12) && self.postgres.truncatable(xid);
        let op = match random.below(8) {
            _ if asks => Some(Op::Ask("{}")),
            _ if truncates => Some(Op::Truncate),
            0 => Some(self.completed(random)),
            _ => self.row(xid, random, setup),
        };
        if let Some(op) = op {
            self.say(|| format!("transaction {xid}: {op:?}"));
            self.postgres.write(xid, op);
        }
    }

    fn completed(&mut self, random: &mut Random) -> Op {
        let id = 1 + random.below(MOST_USERS as usize) as u32;
        let known = self.postgres.latest(id).map(|(user, _)| user);
        let user = known.unwrap_or(User { id, kind: KINDS[random.below(2)] });
        let number = self.postgres.number();
        let kind = ["deposit", "withdraw", "profit"][random.below(3)];
        let status = if random.one_in(4) { "pending" } else { "completed" };
        Op::Completed(Completed { number, user, kind, status })
    }

    fn row(&mut self, xid: u64, random: &mut Random, setup: &Setup) -> Option<Op> {
        let id = 1 + random.below(MOST_USERS as usize) as u32;
        let state = self.postgres.lockable(xid, id)?;
        let broken = setup.has(Fault::NotANumber) && random.one_in(8);
        let number = self.postgres.number();
        let fresh = Row { email: number, balance: (!broken).then_some(number) };
        let Some((user, before)) = state else {
            return Some(Op::Insert { user: User { id, kind: KINDS[random.below(2)] }, row: fresh });
        };
        let update =
            |to: User, row: Row, email_unsent: bool| Op::Update { from: user, before, to, row, email_unsent };
        Some(match random.below(12) {
            0 => Op::Delete { user, before },
            1 => {
                let kind = if user.kind == KINDS[0] { KINDS[1] } else { KINDS[0] };
                let unsent = random.one_in(2);
                let row = if unsent { Row { email: before.email, ..fresh } } else { fresh };
                update(User { id, kind }, row, unsent)
            }
            2..=3 => update(user, Row { balance: before.balance, ..fresh }, false),
            4 if setup.has(Fault::Toast) => update(user, Row { email: before.email, ..fresh }, true),
            _ => update(user, fresh, false),
        })
    }

    /// Another program writes to Redis.
    pub fn other_writer(&mut self, random: &mut Random) {
        let id = 1 + random.below(MOST_USERS as usize) as u32;
        let Some((user, row)) = self.postgres.latest(id) else { return };
        // What it read may be long ago.
        let stale = row.balance.map_or(1, |number| number.saturating_sub(random.below(4) as u64)).max(1);
        let balance = Bytes::from(format!("{stale}.5"));
        let (key, field): (Bytes, Option<&'static str>) = match random.below(4) {
            0 => (format!("user:{{{user}}}:config").into(), Some("balance")),
            1 => (format!("user_balance:{user}").into(), None),
            2 => (format!("user:{{{user}}}:portfolio").into(), Some("wallet_balance")),
            _ => (format!("financial_summary:{user}:daily").into(), None),
        };
        let node = self.redis.owner(&key);
        if !self.redis.nodes[node].up {
            return;
        }
        self.say(|| format!("another program writes {} to {key:?}", stale));
        match key.starts_with(b"financial") {
            true => drop(self.checks.derived.insert(key.clone(), self.postgres.commits.len())),
            false => {
                let left = String::from_utf8_lossy(&balance).into_owned();
                self.checks.ever_foreign.entry(key.clone()).or_default().insert(left.clone());
                self.checks.foreign.entry(key.clone()).or_default().insert(left);
            }
        }
        let write = |space: &mut Keyspace| {
            let reply: Result<Reply, String> = match field {
                Some(field) => space.execute("HSET", &[key.clone(), field.into(), balance.clone()]),
                None => space.execute("SET", &[key.clone(), balance.clone()]),
            };
            reply.unwrap();
        };
        let executed = self.redis.write_as_another(node, write);
        self.note(executed);
    }
}
