//! What Redis must hold, worked out from the database by other means than the program under test: plain
//! SQL prints every value as CONTRACT section 3 wants it, a few lines lay them out into keys.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;

use super::Store;
use super::postgres::rows;
use super::redis::pairs;
use super::resp::Reply;

/// CONTRACT section 2.
const COLUMNS: &[&str] = &[
    "id",
    "user_type",
    "email",
    "wallet_balance",
    "leverage",
    "margin",
    "net_profit",
    "account_number",
    "group",
    "status",
    "is_active",
    "country_id",
    "sending_orders",
    "mam_id",
    "mam_status",
    "pam_id",
    "pam_status",
    "copy_trading_wallet",
    "copytrader_id",
    "copytrading_status",
    "created_at",
    "updated_at",
];
/// Numeric columns that are `0` where they are NULL.
const ZERO_FOR_NULL: &[&str] = &["wallet_balance", "margin", "net_profit"];
/// What the query prints for a value that must never reach a key.
const UNDECODABLE: &str = "\u{1}undecodable";
/// Differences that a failure shows.
const SHOWN: usize = 20;

/// A table of users.
#[derive(Debug, Clone)]
pub struct UserTable {
    pub name: String,
    /// The constant user type; `None`: column `user_type`.
    pub user_type: Option<String>,
}

impl UserTable {
    /// The default: `users`.
    pub fn users() -> UserTable {
        UserTable { name: "users".into(), user_type: None }
    }

    pub fn constant(name: &str, user_type: &str) -> UserTable {
        UserTable { name: name.into(), user_type: Some(user_type.into()) }
    }
}

/// Mapped columns of a user; `None` where the field must be absent.
type Fields = BTreeMap<String, Option<String>>;
/// By user type and id.
type Users = BTreeMap<(String, String), Fields>;

/// Everything in which Redis differs from the database; empty when they are equal.
pub async fn differences(client: &Client, store: &Store, tables: &[UserTable]) -> Vec<String> {
    let users = expected(client, tables).await;
    let mut found = stray_keys(store, &users).await;
    let reads: Vec<[String; 2]> = users.keys().flat_map(|(user_type, id)| reads_of(user_type, id)).collect();
    let replies = store.read_all(&reads).await;
    for (((user_type, id), fields), replies) in users.iter().zip(replies.chunks(READS)) {
        let who = format!("{user_type}:{id}");
        found.extend(compare(fields, replies).into_iter().map(|difference| format!("{who}: {difference}")));
    }
    found
}

/// The differences as a message of bounded length.
pub fn summary(differences: &[String]) -> String {
    let shown = differences.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join("\n");
    format!("{} differences:\n{shown}", differences.len())
}

const READS: usize = 4;

fn reads_of(user_type: &str, id: &str) -> [[String; 2]; READS] {
    let read = |command: &str, key: String| [command.to_owned(), key];
    [
        read("HGETALL", format!("user:{{{user_type}:{id}}}:config")),
        read("GET", format!("user_balance:{user_type}:{id}")),
        read("TTL", format!("user_balance:{user_type}:{id}")),
        read("HGETALL", format!("user:{{{user_type}:{id}}}:portfolio")),
    ]
}

fn compare(expected: &Fields, replies: &[Reply]) -> Vec<String> {
    let [config, balance, ttl, portfolio] = replies else { return vec!["not read".into()] };
    let (config, portfolio) = (pairs(config), pairs(portfolio));
    let wanted_balance = expected["wallet_balance"].clone();
    let mut found = Vec::new();
    let mut want = |what: &str, is: Option<&String>, wanted: Option<&String>| {
        if is != wanted {
            found.push(format!("{what} is {is:?}, not {wanted:?}"));
        }
    };
    for (name, value) in expected {
        want(&format!("config {name}"), config.get(name), value.as_ref());
    }
    want("config balance", config.get("balance"), wanted_balance.as_ref());
    want("user_balance", balance.text().as_ref(), wanted_balance.as_ref());
    if !portfolio.is_empty() {
        want("portfolio", portfolio.get("wallet_balance"), wanted_balance.as_ref());
    }
    if !matches!(ttl, Reply::Integer(1..=3600)) {
        found.push(format!("user_balance lives {ttl:?}"));
    }
    let times = ["last_balance_update", "last_updated"].map(|name| (name, config.get(name)));
    let portfolio_time =
        (!portfolio.is_empty()).then(|| ("balance_updated_at", portfolio.get("balance_updated_at")));
    // A row that was loaded and says no time has none until its first change: no clock stands in for it.
    let may_lack_time = expected.get("updated_at").is_none_or(Option::is_none);
    for (name, time) in times.into_iter().chain(portfolio_time) {
        if !time.map_or(may_lack_time, |time| is_iso_utc(time)) {
            found.push(format!("{name} is {time:?}, not a UTC time"));
        }
    }
    // Fields of other writers stay, but no column that nobody mapped may come in.
    let foreign =
        config.keys().filter(|name| ["password", "security", "bank"].iter().any(|s| name.contains(s)));
    found.extend(foreign.map(|name| format!("config holds the secret {name}")));
    found
}

/// `2026-01-15T10:30:00.000Z`
pub fn is_iso_utc(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    shape == "9999-99-99T99:99:99.999Z"
}

/// Derived keys, which every change deletes, and keys of users that the database does not have.
async fn stray_keys(store: &Store, users: &Users) -> Vec<String> {
    let name = |(user_type, id): &(String, String)| format!("{user_type}:{id}");
    let known: BTreeSet<String> = users.keys().map(name).collect();
    let mut found = Vec::new();
    for (prefix, suffix) in [("user:{", "}:config"), ("user:{", "}:portfolio"), ("user_balance:", "")] {
        for key in store.keys(&format!("{prefix}*{suffix}")).await {
            let user = key.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix));
            if !user.is_some_and(|user| known.contains(user)) {
                found.push(format!("{key} belongs to nobody"));
            }
        }
    }
    let legacy = store.keys("user:[^{]*:config").await;
    let derived = ["user_margin_calc:*", "user_stats:*", "financial_summary:*"];
    for pattern in derived {
        found.extend(store.keys(pattern).await.into_iter().map(|key| format!("{key} is still there")));
    }
    found.extend(legacy.into_iter().map(|key| format!("{key} is still there")));
    found
}

async fn expected(client: &Client, tables: &[UserTable]) -> Users {
    let mut users = Users::new();
    for table in tables {
        let names = columns(client, table).await;
        let expressions: Vec<&str> = names.iter().map(|(_, expression)| expression.as_str()).collect();
        for row in rows(client, &format!("SELECT {} FROM {}", expressions.join(", "), table.name)).await {
            users.extend(user(table, &names, row));
        }
    }
    users
}

/// The followed columns of a table, each with the SQL that prints its value for Redis.
async fn columns(client: &Client, table: &UserTable) -> Vec<(String, String)> {
    let query = format!(
        "SELECT attname, (WITH RECURSIVE below (type, base) AS ( \
             SELECT oid, typbasetype FROM pg_type WHERE oid = atttypid \
             UNION ALL SELECT oid, typbasetype FROM pg_type JOIN below ON oid = base) \
           SELECT type::regtype FROM below WHERE base = 0) \
         FROM pg_attribute WHERE attrelid = '{}'::regclass AND attnum > 0 AND NOT attisdropped",
        table.name
    );
    let named = rows(client, &query).await.into_iter().map(|row| {
        let [name, type_name] = <[Option<String>; 2]>::try_from(row).expect("two columns");
        (name.expect("a name"), type_name.expect("a type"))
    });
    let followed = named.filter(|(name, _)| COLUMNS.contains(&name.as_str()));
    followed.map(|(name, type_name)| (name.clone(), printed(&name, &type_name))).collect()
}

fn printed(name: &str, type_name: &str) -> String {
    let column = format!("\"{name}\"");
    let time = |utc: &str| format!("to_char({utc}, 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')");
    let value = match type_name {
        "numeric" => format!("trim_scale({column})::text"),
        "boolean" => format!("{column}::int::text"),
        "timestamp without time zone" => time(&column),
        "timestamp with time zone" => time(&format!("{column} AT TIME ZONE 'UTC'")),
        _ => return format!("{column}::text"),
    };
    let value = if ZERO_FOR_NULL.contains(&name) { format!("coalesce({value}, '0')") } else { value };
    let odd = "lower(COLUMN::text) IN ('nan', 'infinity', '-infinity')".replace("COLUMN", &column);
    format!("CASE WHEN {odd} THEN '{UNDECODABLE}' ELSE {value} END")
}

/// `None` for a user who has no keys: a name that cannot be part of one, or a value that must not reach one.
fn user(
    table: &UserTable,
    names: &[(String, String)],
    row: Vec<Option<String>>,
) -> Option<((String, String), Fields)> {
    let mut fields: Fields = names.iter().map(|(name, _)| name.clone()).zip(row).collect();
    if let Some(user_type) = &table.user_type {
        fields.insert("user_type".into(), Some(user_type.clone()));
    }
    let (user_type, id) = (fields["user_type"].clone()?, fields["id"].clone()?);
    let usable = |text: &str, forbidden: &[char]| {
        !text.is_empty() && !text.contains(|c: char| c.is_control() || forbidden.contains(&c))
    };
    let decodable = fields.values().flatten().all(|value| value != UNDECODABLE);
    let named = usable(&user_type, &['{', '}', ':']) && usable(&id, &['{', '}']);
    (named && decodable).then_some(((user_type, id), fields))
}
