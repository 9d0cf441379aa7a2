//! Every user in every key against the database, by `reference.sql` and the contract alone: nothing here
//! uses the product's own mapping.

use std::collections::{BTreeMap, HashSet};

use fred::clients::Client as Redis;
use fred::interfaces::{HashesInterface, KeysInterface};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::super::throwaway::cluster::redis;
use super::super::throwaway::servers::sql;
use super::platform::{FOREIGN_FIELD, PORTFOLIO_FIELD, USERS_IN_FLIGHT, User};
use crate::error::{Error, Result};

const REFERENCE: &str = include_str!("reference.sql");
/// Seconds that a balance key lives without a change.
const BALANCE_TTL: i64 = 3600;
/// Times of a commit: of the last one that changed the balance, where there was one.
const COMMIT_TIMES: [&str; 2] = ["last_balance_update", "last_updated"];

/// Names and values of a hash.
pub type Fields = BTreeMap<String, String>;

/// One key, or field of a key, that is not as the database says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The key, with the field where it is a hash.
    pub place: String,
    /// What it should hold; nothing: it should not be there.
    pub wanted: Option<String>,
    /// What it holds.
    pub found: Option<String>,
}

/// How the comparison ended.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Users compared.
    pub users: usize,
    /// Keys looked at.
    pub keys: u64,
    /// All that differs.
    pub differences: Vec<Difference>,
}

/// What Redis holds of one user.
#[derive(Debug, Default, Clone)]
struct Held {
    config: Fields,
    balance: Option<String>,
    balance_ttl: i64,
    portfolio: Fields,
    derived: Vec<String>,
}

/// Compares all; `touched` are the users whose balance the workload changed.
pub async fn compare(database: &Client, client: &Redis, touched: &HashSet<i32>) -> Result<Comparison> {
    let rows = reference(database).await?;
    let held: Vec<(User, Held)> = stream::iter(User::all().map(|user| read(client, user)))
        .buffered(USERS_IN_FLIGHT)
        .try_collect()
        .await?;
    let mut comparison = Comparison { users: held.len(), ..Comparison::default() };
    for (user, held) in held {
        // config, balance, portfolio and the derived ones
        comparison.keys += 3 + user.derived().len() as u64;
        let row = rows.get(&user.id).cloned().unwrap_or_default();
        comparison.differences.extend(judge(user, row, &held, touched.contains(&user.id)));
    }
    Ok(comparison)
}

/// What each user's hash must hold, by id.
pub async fn reference(database: &Client) -> Result<BTreeMap<i32, Fields>> {
    let mut rows = BTreeMap::new();
    for message in database.simple_query(REFERENCE).await.map_err(sql)? {
        let SimpleQueryMessage::Row(row) = message else { continue };
        let fields: Fields = (row.columns().iter().enumerate())
            .filter_map(|(n, column)| Some((column.name().to_owned(), row.get(n)?.to_owned())))
            .collect();
        let id = fields.get("id").and_then(|id| id.parse().ok());
        let id = id.ok_or_else(|| Error::definite("the reference query returned a user without id", ""))?;
        rows.insert(id, fields);
    }
    Ok(rows)
}

async fn read(client: &Redis, user: User) -> Result<(User, Held)> {
    let mut held = Held {
        config: client.hgetall(user.config()).await.map_err(redis)?,
        balance: client.get(user.balance()).await.map_err(redis)?,
        balance_ttl: client.ttl(user.balance()).await.map_err(redis)?,
        portfolio: client.hgetall(user.portfolio()).await.map_err(redis)?,
        derived: Vec::new(),
    };
    for key in user.derived() {
        if client.exists::<bool, _>(key.as_str()).await.map_err(redis)? {
            held.derived.push(key);
        }
    }
    Ok((user, held))
}

fn judge(user: User, mut row: Fields, held: &Held, touched: bool) -> Vec<Difference> {
    let mut differ = Vec::new();
    let balance = row.get("wallet_balance").cloned();
    if user.has_foreign_field() {
        row.insert(FOREIGN_FIELD.0.to_owned(), FOREIGN_FIELD.1.to_owned());
    }
    let mut config = held.config.clone();
    // Lockstep's own field, where it keeps one, is no copy of the database.
    config.retain(|field, _| !field.starts_with("lockstep"));
    if !touched {
        // Only loaded: the commit that wrote the row is none of the stream.
        for time in COMMIT_TIMES {
            row.remove(time);
            config.remove(time);
        }
    }
    fields_differ(&user.config(), &row, &config, &mut differ);

    if held.balance != balance {
        let (wanted, found) = (balance.clone(), held.balance.clone());
        differ.push(Difference { place: user.balance(), wanted, found });
    }
    if !(1..=BALANCE_TTL).contains(&held.balance_ttl) {
        let place = format!("{} (seconds to live)", user.balance());
        let (wanted, found) = (Some(BALANCE_TTL.to_string()), Some(held.balance_ttl.to_string()));
        differ.push(Difference { place, wanted, found });
    }

    let mut portfolio = Fields::new();
    if user.has_portfolio() {
        portfolio.insert(PORTFOLIO_FIELD.0.to_owned(), PORTFOLIO_FIELD.1.to_owned());
        portfolio.extend(balance.map(|balance| ("wallet_balance".to_owned(), balance)));
        let time = if touched { row.get(COMMIT_TIMES[0]) } else { held.portfolio.get("balance_updated_at") };
        portfolio.extend(time.map(|time| ("balance_updated_at".to_owned(), time.clone())));
    }
    fields_differ(&user.portfolio(), &portfolio, &held.portfolio, &mut differ);

    if touched {
        let gone = held.derived.iter().cloned();
        differ.extend(gone.map(|place| Difference {
            place,
            wanted: None,
            found: Some("a value".to_owned()),
        }));
    }
    differ
}

fn fields_differ(key: &str, wanted: &Fields, found: &Fields, differ: &mut Vec<Difference>) {
    let mut names: Vec<&String> = wanted.keys().chain(found.keys()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let (wanted, found) = (wanted.get(name).cloned(), found.get(name).cloned());
        if wanted != found {
            differ.push(Difference { place: format!("{key} {name}"), wanted, found });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// User 20: with portfolio, derived keys and another program's field.
    fn equal() -> (User, Fields, Held) {
        let time = "2026-01-15T10:30:00.000Z";
        let row = fields(&[("id", "20"), ("wallet_balance", "7.5"), ("last_balance_update", time)]);
        let mut config = row.clone();
        config.extend(fields(&[FOREIGN_FIELD, ("lockstep", "own")]));
        let portfolio = fields(&[PORTFOLIO_FIELD, ("wallet_balance", "7.5"), ("balance_updated_at", time)]);
        let balance = Some("7.5".to_owned());
        (User { id: 20 }, row, Held { config, balance, balance_ttl: 3600, portfolio, derived: vec![] })
    }

    fn places(change: impl FnOnce(&mut Held)) -> Vec<String> {
        let (user, row, mut held) = equal();
        change(&mut held);
        judge(user, row, &held, true).into_iter().map(|d| d.place).collect()
    }

    #[test]
    fn equal_keys_do_not_differ() {
        assert_eq!(places(|_| ()), Vec::<String>::new());
    }

    #[test]
    fn every_planted_difference_is_found() {
        let set = |fields: &mut Fields, name: &str, value: &str| {
            fields.insert(name.to_owned(), value.to_owned());
        };
        let config = |field: &str| vec![format!("user:{{demo:20}}:config {field}")];
        let portfolio = |field: &str| vec![format!("user:{{demo:20}}:portfolio {field}")];
        assert_eq!(places(|held| set(&mut held.config, "wallet_balance", "7.50")), config("wallet_balance"));
        assert_eq!(places(|held| set(&mut held.config, "password_hash", "x")), config("password_hash"));
        assert_eq!(places(|held| drop(held.config.remove("id"))), config("id"));
        assert_eq!(places(|held| drop(held.config.remove(FOREIGN_FIELD.0))), config(FOREIGN_FIELD.0));
        assert_eq!(places(|held| held.balance = Some("7".to_owned())), ["user_balance:demo:20"]);
        assert_eq!(places(|held| held.balance_ttl = -1), ["user_balance:demo:20 (seconds to live)"]);
        assert_eq!(
            places(|held| set(&mut held.portfolio, "wallet_balance", "1")),
            portfolio("wallet_balance")
        );
        assert_eq!(places(|held| drop(held.portfolio.remove("open_positions"))), portfolio("open_positions"));
        let derived = "user_stats:demo:20";
        assert_eq!(places(|held| held.derived.push(derived.to_owned())), [derived]);
    }
}
