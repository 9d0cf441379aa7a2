//! Configuration files and connection strings.

use lockstep::config::{Config, Postgres, Redis};
use lockstep::keyplan::KeyMap;

pub const WORDS: &[&str] = &[
    "[postgres]",
    "[redis]",
    "[http]",
    "[log]",
    "[stream]",
    "[load]",
    "[[tables]]",
    "[[keys]]",
    "url = ",
    "slot = ",
    "publication = ",
    "listen = ",
    "level = ",
    "format = ",
    "window_rows = ",
    "status_interval = ",
    "\"1s\"",
    "name = ",
    "kind = ",
    "user_type = ",
    "columns = ",
    "postgres://",
    "sslmode=",
    "host=",
    "port=",
    "redis://",
    "rediss://",
    "redis-cluster://",
    "user=",
    "password='",
    "target_session_attrs=",
    "options=",
    "hostaddr=",
    "%2F",
];

/// No variable is set: a developer's own must not steer it.
const NONE: &dyn Fn(&str) -> Option<String> = &|_| None;

pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    // What it names on disk is not what is looked at here.
    if !text.contains("_file") && !text.contains("cert") {
        match Config::read("lockstep.toml", text, NONE, KeyMap::compile) {
            Ok((config, _)) => assert!(!config.to_toml().is_empty()),
            Err(mistakes) => assert!(!mistakes.to_string().is_empty()),
        }
        if let Ok((postgres, _)) = Postgres::read(Some(text), NONE) {
            assert!(!postgres.endpoints.is_empty(), "a server to connect to");
        }
    }
    let urls: Vec<&str> = text.lines().collect();
    if let Ok(redis) = Redis::parse(&urls) {
        assert!(!redis.seeds.is_empty(), "a node to connect to");
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        include_str!("../../../deploy/lockstep.toml"),
        include_str!("../../../deploy/example-keymap.toml"),
        "[postgres]\nurl = \"host=db port=5433 user=u dbname=trading sslmode=disable\"\nslot = \"s\"\n",
        "postgres://u:p%20w@a.example:5432,b.example:5433/db?sslmode=require&connect_timeout=3",
        "host='/run/postgresql' dbname=app options='-c a=b'",
        "postgresql:///app?host=%2Frun%2Fpostgresql",
        "redis://user:pw@127.0.0.1:6379/3",
        "redis-cluster://[::1]:7000\nredis-cluster://b:7001",
        "[[tables]]\nname = \"public.live_users\"\nkind = \"users\"\nuser_type = \"live\"\ncolumns = [\"email\"]\n",
        "[stream]\nwindow_rows = 10\nstatus_interval = \"500ms\"\n[load]\nworkers = 3\n",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
