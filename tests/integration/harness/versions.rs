//! What differs between the versions of the servers that the tests run on.

use std::io::Write;
use std::process::Command;
use std::sync::OnceLock;

use super::Postgres;
use super::postgres::program;

/// First PostgreSQL whose publications may list columns.
pub const COLUMN_LISTS: u32 = 15;

/// First PostgreSQL whose stream passes over a publication that is not there, where an older one ends the stream.
pub const PASSED_OVER: u32 = 18;

/// Whether a test has to end here, since it is about something that this PostgreSQL does not have. The runner counts it
/// as passed; the line that this prints past it has `tests/matrix` count it for what it is.
pub fn not_before(major: u32, why: &str) -> bool {
    let older = postgres_major() < major;
    if older {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let line = format!("not for this version: {test}: {why} came with PostgreSQL {major}\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    older
}

/// The major version that the tests run on.
pub fn postgres_major() -> u32 {
    static MAJOR: OnceLock<u32> = OnceLock::new();
    *MAJOR.get_or_init(|| {
        let output = Command::new(program("postgres")).arg("--version").output().expect("postgres");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let number = text.split_whitespace().find_map(|word| word.split('.').next()?.parse().ok());
        number.unwrap_or_else(|| panic!("no version in {text:?}"))
    })
}

impl Postgres {
    /// What stands behind `FOR TABLE` to publish both tables as `lockstep` does, without this column of `users`; before
    /// PostgreSQL 15 a table is published whole.
    pub async fn published_without(&self, column: &str) -> String {
        if postgres_major() < COLUMN_LISTS {
            return "users, user_transactions".to_owned();
        }
        let columns =
            "SELECT string_agg(quote_ident(name), ', ') FROM pg_publication_tables, unnest(attnames) name";
        let columns = format!("{columns} WHERE tablename = 'users' AND name <> '{column}'");
        let columns = self.value(&columns).await.expect("columns");
        format!("users ({columns}), user_transactions")
    }
}
