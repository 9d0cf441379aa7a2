//! What old services have left in Redis before Lockstep starts: stale copies, derived caches, and fields
//! and keys of their own.

use std::collections::BTreeMap;

use fred::clients::Client;
use fred::interfaces::{HashesInterface, KeysInterface};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::super::throwaway::cluster::redis;
use super::workload::USERS;
use crate::error::Result;

/// Users that are written or read at the same time.
pub const USERS_IN_FLIGHT: usize = 200;
/// A field of another program in the user hash: it must stay.
pub const FOREIGN_FIELD: (&str, &str) = ("session_theme", "dark");
/// The portfolio's own field: it must stay.
pub const PORTFOLIO_FIELD: (&str, &str) = ("open_positions", "3");

/// One user and its keys, by the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// Its id.
    pub id: i32,
}

impl User {
    /// Every user of the demo.
    pub fn all() -> impl Iterator<Item = User> {
        (1..=USERS).map(|id| User { id })
    }

    fn name(self) -> String {
        let user_type = if self.id % 2 == 0 { "demo" } else { "live" };
        format!("{user_type}:{}", self.id)
    }

    /// The user hash.
    pub fn config(self) -> String {
        format!("user:{{{}}}:config", self.name())
    }

    /// The balance alone.
    pub fn balance(self) -> String {
        format!("user_balance:{}", self.name())
    }

    /// The portfolio, which some users have.
    pub fn portfolio(self) -> String {
        format!("user:{{{}}}:portfolio", self.name())
    }

    /// Keys that a change of the balance deletes.
    pub fn derived(self) -> [String; 5] {
        let name = self.name();
        [
            format!("user_margin_calc:{name}"),
            format!("user_stats:{name}"),
            format!("user:{name}:config"),
            format!("financial_summary:{name}:2026-01"),
            format!("financial_summary:{name}:all:net"),
        ]
    }

    /// Whether the demo gives it a portfolio.
    pub fn has_portfolio(self) -> bool {
        self.id % 5 == 0
    }

    /// Whether the demo gives it derived keys.
    pub fn has_derived(self) -> bool {
        self.id % 10 < 3
    }

    /// Whether another program keeps a field in its hash.
    pub fn has_foreign_field(self) -> bool {
        self.id % 20 == 0
    }
}

/// Writes it for all users.
pub async fn leave_old_keys(client: &Client) -> Result<()> {
    let users = stream::iter(User::all().map(|user| leave(client, user)));
    users.buffer_unordered(USERS_IN_FLIGHT).try_collect::<Vec<()>>().await.map(drop)
}

async fn leave(client: &Client, user: User) -> Result<()> {
    if user.has_portfolio() {
        let stale = BTreeMap::from([("wallet_balance", "1"), PORTFOLIO_FIELD]);
        client.hset::<(), _, _>(user.portfolio(), stale).await.map_err(redis)?;
    }
    if user.has_derived() {
        for key in user.derived() {
            client.set::<(), _, _>(key, "derived", None, None, false).await.map_err(redis)?;
        }
    }
    if user.has_foreign_field() {
        let stale = BTreeMap::from([("balance", "0.1"), FOREIGN_FIELD]);
        client.hset::<(), _, _>(user.config(), stale).await.map_err(redis)?;
        client.set::<(), _, _>(user.balance(), "0.1", None, None, false).await.map_err(redis)?;
    }
    Ok(())
}
