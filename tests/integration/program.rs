//! The real program, run to its end.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::harness::{Postgres, program};

/// What became of one call of the program.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ended {
    /// The line of standard output that has this text.
    #[track_caller]
    pub fn line(&self, text: &str) -> &str {
        let found = self.out.lines().find(|line| line.contains(text));
        found.unwrap_or_else(|| panic!("{text:?} is not in {self:#?}"))
    }
}

/// A configuration for one server, and the program that reads it.
#[derive(Debug)]
pub struct Program {
    folder: TempDir,
}

impl Program {
    /// Configured for `postgres`, with more lines of TOML behind `[postgres]`'s URL.
    pub fn new(postgres: &Postgres, toml: &str) -> Program {
        Program::with_url(&postgres.url(), toml)
    }

    pub fn with_url(url: &str, toml: &str) -> Program {
        let program = Program { folder: tempfile::tempdir().expect("a folder") };
        let text = format!("[postgres]\nurl = \"{url}?connect_timeout=5\"\n{toml}\n");
        std::fs::write(program.config(), text).expect("the configuration is written");
        program
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("lockstep.toml")
    }

    pub async fn run(&self, arguments: &[&str]) -> Ended {
        let mut command = Command::new(program());
        command.args(arguments).arg("--config").arg(self.config());
        command.env("LOCKSTEP_ROLE_PASSWORD", "hunter2hunter2").stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("the call ends");
        let output = output.expect("the program starts");
        Ended {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The default tables, with secrets beside what is followed.
pub const TABLES: &str = "
    CREATE TABLE users (
        id int PRIMARY KEY, user_type text NOT NULL, email text, password_hash text,
        wallet_balance numeric(18,6) NOT NULL DEFAULT 0, \"group\" text, bank_iban text);
    CREATE TABLE user_transactions (
        id int PRIMARY KEY, transaction_id text, user_id int, user_type text, type text,
        amount numeric(18,6), status text NOT NULL, admin_id int, notes text);";

/// Every user in every key, and each event once, on servers that the demonstration starts itself.
async fn the_demo_ends_well(more: &[&str]) {
    let program = Program::with_url("postgresql://nobody@127.0.0.1:1/none", "");
    let ended = program.run(&[&["demo", "--seconds", "2"], more].concat()).await;
    assert_eq!(ended.code, 0, "{ended:#?}");
    for counted in ["mismatches", "missing", "duplicates", "out of order within a user"] {
        assert!(ended.line(counted).trim_end().ends_with(" 0"), "{ended:#?}");
    }
    ended.line("every key equals the database, every event came exactly once");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_ends_well_on_one_redis() {
    the_demo_ends_well(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_ends_well_on_a_cluster() {
    the_demo_ends_well(&["--cluster"]).await;
}
