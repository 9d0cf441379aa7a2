//! `lockstep bench` on small numbers: that it counts right and leaves nothing behind, never how fast it is.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::process::{Process, folder};
use crate::harness::{eventually, eventually_within, program};

/// Longest time of one scenario: servers are started, faults waited for, and figures taken at rates of its own.
const PATIENCE: Duration = Duration::from_secs(180);

/// A call of the bench that has its temporary folder, and all that it prints, in a folder of its own.
struct Bench {
    folder: TempDir,
    process: Process,
}

/// How it ended.
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Bench {
    fn start(arguments: &[&str], path: Option<&Path>) -> Bench {
        let folder = folder("bench-");
        let file = |name| File::create(folder.path().join(name)).expect("a file");
        let temporary = folder.path().join("tmp");
        std::fs::create_dir(&temporary).expect("a folder");
        std::fs::set_permissions(&temporary, PermissionsExt::from_mode(0o777)).expect("its mode");
        let mut command = Command::new(program());
        command.args(["bench", "--users", "1000", "--idle-keys", "300000"]).args(arguments);
        command
            .env("TMPDIR", &temporary)
            .env("LOCKSTEP_POSTGRES_URL", "postgresql://nobody@127.0.0.1:1/none");
        if let Some(first) = path {
            let path = std::env::var("PATH").expect("a PATH");
            command.env("PATH", format!("{}:{path}", first.display()));
        }
        command.stdin(Stdio::null()).stdout(file("out")).stderr(file("err"));
        Bench { process: Process::spawn(command).expect("the bench starts"), folder }
    }

    /// What it has in its temporary folder.
    fn left(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path().join("tmp")).expect("the folder");
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// The programs that were told of its temporary folder.
    fn running(&self) -> Vec<String> {
        let folder = self.folder.path().to_string_lossy().into_owned();
        let processes = std::fs::read_dir("/proc").expect("processes").flatten();
        let told = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
        let told = told.map(|told| String::from_utf8_lossy(&told).replace('\0', " "));
        told.filter(|told| told.contains(&folder)).collect()
    }

    /// Waits for its end, after which nothing may be left of it.
    async fn ends(&self) -> Ended {
        let ended = async || self.process.exited().ok_or("the bench goes on");
        let code = eventually_within(PATIENCE, ended).await.unwrap().code();
        assert_eq!(self.left(), [] as [&str; 0], "folders are left");
        assert_eq!(self.running(), [] as [&str; 0], "processes are left");
        let text = |name| std::fs::read_to_string(self.folder.path().join(name)).expect("what it printed");
        Ended { code, out: text("out"), err: text("err") }
    }
}

/// The figures of a scenario.
fn rows<'a>(report: &'a Value, scenario: &str) -> &'a Vec<Value> {
    let scenarios = report["scenarios"].as_array().expect("scenarios");
    let found = scenarios.iter().find(|found| found["name"] == scenario);
    found.and_then(|found| found["rows"].as_array()).unwrap_or_else(|| panic!("{scenario}: {report:#}"))
}

/// Every ratio is the quotient of what stands beside it, and every figure is one.
fn is_sane(report: &Value, scenario: &str) {
    let rows = rows(report, scenario);
    let mut ratios = 0;
    for row in rows {
        let value = row["value"].as_f64().expect("a number");
        assert!(value.is_finite() && value >= 0.0, "{row:#}");
        if let Some(ratio) = row["ratio"].as_f64() {
            let limit = row["limit"]["value"].as_f64().expect("a limit");
            assert!((ratio - value / limit).abs() <= 1e-9 * ratio.abs(), "{row:#}");
            ratios += 1;
        }
    }
    assert!(ratios > 1, "{rows:#?}");
    let is_count = |row: &&Value| ["events", "users", "messages"].iter().any(|unit| row["unit"] == *unit);
    let counts: Vec<&Value> = rows.iter().filter(is_count).collect();
    assert!(!counts.is_empty(), "{rows:#?}");
    for row in counts {
        // Where watching was suspended all the time there was none to heal; everything else is there to be counted.
        let is_nothing = row["what"] == "foreign writes healed" && row["limit"]["value"] == 0.0;
        let ratio = if is_nothing { Value::Null } else { 1.0.into() };
        assert_eq!((&row["value"], &row["ratio"]), (&row["limit"]["value"], &ratio), "{row:#}");
    }
}

async fn measures(scenario: &str, counted: f64) {
    let bench = Bench::start(&["--json", "--events", "2000", "--only", scenario], None);
    let ended = bench.ends().await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let report: Value = serde_json::from_str(&ended.out).expect("one JSON object");
    assert_eq!((&report["events"], &report["users"]), (&2000.into(), &1000.into()), "{report:#}");
    is_sane(&report, scenario);
    assert_eq!(rows(&report, scenario)[0]["value"], counted, "{report:#}");
    assert_eq!(report["scenarios"].as_array().map(Vec::len), Some(1), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_backlog_is_counted_and_measured_against_its_limits() {
    measures("drain", 2000.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_about_few_users_is_drained_to_the_last_event() {
    measures("skew", 2000.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_shards_drain_a_backlog_to_the_last_event() {
    measures("shards", 2000.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_load_is_counted_and_measured_against_ready_made_commands() {
    measures("snapshot", 1000.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_transaction_of_all_users_is_an_event_for_each() {
    measures("huge", 1000.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_is_drained_beside_idle_keys() {
    measures("keyspace", 2000.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_is_drained_among_transactions_of_other_tables() {
    measures("tables", 2000.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_subscriber_hears_every_message_of_a_backlog() {
    measures("subscribers", 2000.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_is_drained_into_a_cluster() {
    measures("cluster", 2000.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_timed_from_its_commit_beside_a_floor() {
    // The lowest rate: four seconds, and one to warm up.
    measures("latency", 2500.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_are_timed_until_all_is_well_again() {
    // A cut of two seconds, and three before and after it.
    measures("recovery", 8000.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn for_people_there_is_a_table() {
    let bench = Bench::start(&["--events", "2000", "--only", "drain"], None);
    let ended = bench.ends().await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    for told in ["events/s", "us/event", "of 2,000 events (written)", "bare reader and commands at once"] {
        assert!(ended.out.contains(told), "{told}: {}", ended.out);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_bench_removes_everything() {
    for signal in ["INT", "TERM"] {
        let bench = Bench::start(&["--events", "1000000", "--json"], None);
        eventually("the backlog is being written", async || {
            let told = std::fs::read_to_string(bench.folder.path().join("err")).ok()?;
            told.contains("writing the backlog").then_some(())
        })
        .await;
        assert!(!bench.left().is_empty() && !bench.running().is_empty(), "it is at work");
        bench.process.signal(signal);
        let ended = bench.ends().await;
        assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{}", ended.err);
        assert!(ended.err.contains("everything that was started is removed"), "{}", ended.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_is_told_by_name_with_the_end_of_its_log() {
    let programs = folder("programs-");
    let broken = programs.path().join("redis-server");
    std::fs::write(&broken, "#!/bin/sh\necho no memory to be had; exit 7\n").expect("a program");
    std::fs::set_permissions(&broken, PermissionsExt::from_mode(0o755)).expect("its mode");
    let bench = Bench::start(&["--only", "drain"], Some(programs.path()));
    let ended = bench.ends().await;
    assert_eq!(ended.code, Some(1), "{}", ended.out);
    for told in ["redis ended with exit status: 7", "no memory to be had"] {
        assert!(ended.err.contains(told), "{told}: {}", ended.err);
    }
}
