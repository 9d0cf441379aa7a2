//! Which tables are followed.

use std::fmt;

use super::Shard;

/// Columns of a users table that are followed where they exist, unless `columns` says otherwise (CONTRACT
/// section 2).
pub const SECTION_2_COLUMNS: [&str; 22] = [
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

/// Columns of a completed transaction row that a plan may use.
///
/// The first [`TOLD_TRANSACTION_COLUMNS`] are the names of the objects in an event's `transactions`, in their order.
pub const TRANSACTION_COLUMNS: [&str; 11] = [
    "transaction_id",
    "type",
    "amount",
    "balance_before",
    "balance_after",
    "status",
    "admin_id",
    "reference_id",
    "order_id",
    "created_at",
    "updated_at",
];

/// How many of [`TRANSACTION_COLUMNS`] an event tells of each completed row.
pub const TOLD_TRANSACTION_COLUMNS: usize = 8;

/// Longest user type and id, in bytes: they are part of every key and every message.
pub const MAX_NAME_BYTES: usize = 512;

/// `[[tables]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSpec {
    /// Schema, `public` unless named.
    pub schema: String,
    /// Table.
    pub name: String,
    /// What its rows are, with the columns that only that kind has.
    pub kind: TableKind,
    /// Where the user type comes from.
    pub user_type: UserType,
    /// Columns to follow; `None`: every CONTRACT section 2 column that exists.
    pub columns: Option<Vec<String>>,
    /// Which of the users are followed; the same for every table.
    pub shard: Shard,
}

/// What the rows of a table are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableKind {
    /// Users with a balance.
    Users {
        /// Primary key column.
        id_column: String,
        /// Balance column.
        balance_column: String,
    },
    /// `user_transactions`.
    Transactions {
        /// Column that holds the user's id.
        user_id_column: String,
    },
}

/// Where the user type of a row comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserType {
    /// The same for every row.
    Constant(String),
    /// A column of the row.
    Column(String),
}

impl TableSpec {
    /// Whether the table may hold users of this type.
    pub fn may_hold(&self, user_type: &str) -> bool {
        match &self.user_type {
            UserType::Constant(constant) => constant == user_type,
            UserType::Column(_) => true,
        }
    }

    /// The tables that are followed when none is configured: `users` and `user_transactions`.
    pub fn defaults() -> Vec<TableSpec> {
        let table = |name: &str, kind| TableSpec {
            schema: "public".into(),
            name: name.into(),
            kind,
            user_type: UserType::Column("user_type".into()),
            columns: None,
            shard: Shard::WHOLE,
        };
        vec![
            table(
                "users",
                TableKind::Users { id_column: "id".into(), balance_column: "wallet_balance".into() },
            ),
            table("user_transactions", TableKind::Transactions { user_id_column: "user_id".into() }),
        ]
    }

    /// Whether its rows are users.
    pub fn is_users(&self) -> bool {
        matches!(self.kind, TableKind::Users { .. })
    }

    /// The column that holds the user type, where it is one.
    pub fn user_type_column(&self) -> Option<&str> {
        match &self.user_type {
            UserType::Column(column) => Some(column),
            UserType::Constant(_) => None,
        }
    }

    /// The columns without which nothing can be followed.
    pub fn required_columns(&self) -> Vec<&str> {
        let mut required = match &self.kind {
            TableKind::Users { id_column, balance_column } => vec![id_column.as_str(), balance_column],
            TableKind::Transactions { user_id_column } => {
                vec![user_id_column.as_str(), "transaction_id", "type", "amount", "status"]
            }
        };
        required.extend(self.user_type_column());
        required
    }

    /// The columns that WAL must name of an old row, besides having an identity at all.
    pub fn identity_columns(&self) -> Vec<&str> {
        match &self.kind {
            TableKind::Users { id_column, .. } => {
                std::iter::once(id_column.as_str()).chain(self.user_type_column()).collect()
            }
            TableKind::Transactions { .. } => Vec::new(),
        }
    }

    /// The columns that are followed, of those that exist, in the table's order.
    pub fn followed<'a>(&self, existing: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
        let required = self.required_columns();
        let wanted = |column: &str| match &self.columns {
            Some(columns) => columns.iter().any(|c| c == column),
            None if self.is_users() => SECTION_2_COLUMNS.contains(&column),
            None => TRANSACTION_COLUMNS.contains(&column),
        };
        existing.into_iter().filter(|c| required.contains(c) || wanted(c)).collect()
    }
}

impl fmt::Display for TableSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// Whether a text can stand as the `T` of a key: a brace would open or close the hash tag, a colon would
/// make two users one.
pub fn is_sound_type(text: &str) -> bool {
    is_sound_id(text) && !text.contains(':')
}

/// Whether a text can stand as the `U` of a key.
pub fn is_sound_id(text: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&text.len())
        && !text.chars().any(|c| matches!(c, '{' | '}') || c.is_control())
}

/// Splits `schema.table` as SQL does: parts may stand in double quotes, unquoted ones are folded to
/// lower case, one part alone is a table of `public`.
pub fn parse_table_name(text: &str) -> Option<(String, String)> {
    let mut parts = Vec::new();
    let mut rest = text.trim();
    loop {
        let (part, tail) = identifier(rest)?;
        parts.push(part);
        match tail.strip_prefix('.') {
            Some(tail) => rest = tail,
            None if tail.is_empty() => break,
            None => return None,
        }
    }
    match <[String; 2]>::try_from(parts) {
        Ok([schema, name]) => Some((schema, name)),
        Err(mut parts) if parts.len() == 1 => parts.pop().map(|name| ("public".to_owned(), name)),
        Err(_) => None,
    }
}

/// The identifier at the start of `text`, and what follows it.
fn identifier(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(['.', '"']).unwrap_or(text.len());
        let (part, tail) = text.split_at_checked(end)?;
        let plain = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        return (!part.is_empty() && part.chars().all(plain)).then(|| (part.to_lowercase(), tail));
    };
    let mut part = String::new();
    let mut rest = quoted;
    loop {
        let (head, tail) = rest.split_once('"')?;
        part.push_str(head);
        match tail.strip_prefix('"') {
            Some(tail) => {
                part.push('"');
                rest = tail;
            }
            None => return (!part.is_empty()).then_some((part, tail)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_names_are_read_as_sql_reads_them() {
        let name = |text| parse_table_name(text).map(|(schema, table)| format!("{schema}|{table}"));
        assert_eq!(name("users").as_deref(), Some("public|users"));
        assert_eq!(name("public.Live_Users").as_deref(), Some("public|live_users"));
        assert_eq!(name("\"Live.Users\"").as_deref(), Some("public|Live.Users"));
        assert_eq!(name("\"a\"\"b\".\"C\"").as_deref(), Some("a\"b|C"));
        for bad in ["", ".", "a.", ".a", "a.b.c", "a b", "\"a", "\"\"", "a;drop", "\"a\"b"] {
            assert_eq!(name(bad), None, "{bad}");
        }
    }

    #[test]
    fn secrets_are_not_followed_and_what_is_required_is() {
        let users = &TableSpec::defaults()[0];
        let existing = ["id", "password_hash", "email", "wallet_balance", "user_type", "bank_iban"];
        assert_eq!(users.followed(existing), ["id", "email", "wallet_balance", "user_type"]);
        let narrow = TableSpec { columns: Some(vec!["email".into()]), ..users.clone() };
        assert_eq!(
            narrow.followed(["group", "id", "wallet_balance", "user_type"]),
            ["id", "wallet_balance", "user_type"]
        );
    }

    #[test]
    fn what_would_break_a_hash_tag_is_no_name() {
        for id in ["1", "a:b", "ünïcode-用户", "*", "[x]?", "a b"] {
            assert!(is_sound_id(id), "{id}");
        }
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        for id in ["", "{", "a}b", "a\nb", "\u{7f}", "\u{85}", &long] {
            assert!(!is_sound_id(id), "{id:?}");
            assert!(!is_sound_type(id), "{id:?}");
        }
        assert!(is_sound_type("live") && !is_sound_type("li:ve"));
    }
}
