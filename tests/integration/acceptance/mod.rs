//! Every administrative operation of the platform, done by SQL beside a running instance; after each one every key, every
//! event and the operator's endpoints are looked at. `tests/acceptance` prints the report.

mod operations;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::harness::subscriber::{BALANCE_UPDATES, Heard, USER_UPDATES};
use crate::harness::{On, Setup, Subscriber, World};
use operations::Operation;

#[tokio::test(flavor = "multi_thread")]
async fn every_administrative_operation_on_one_redis() {
    all(On::Single).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_administrative_operation_on_a_cluster() {
    all(On::Cluster).await;
}

/// What came of one operation.
struct Row {
    name: &'static str,
    /// Users in every key, when all was as the database has it.
    users: usize,
    events: usize,
    /// From the answer of the database until Redis held everything.
    took: Duration,
    /// What was not as it should be.
    faults: Vec<String>,
}

async fn all(on: On) {
    let world = World::running_as(Setup::on(on)).await;
    let subscriber = world.subscriber().await;
    let mut rows = Vec::new();
    for operation in operations::all() {
        rows.push(perform(&world, &subscriber, operation).await);
    }
    print(on, &rows);
    let failed: Vec<&str> = rows.iter().filter(|row| !row.faults.is_empty()).map(|row| row.name).collect();
    assert_eq!(failed, [] as [&str; 0], "see the report");
}

async fn perform(world: &World, subscriber: &Subscriber, operation: Operation) -> Row {
    for user in &operation.users {
        derive(world, user).await;
    }
    let before = world.heard_all(subscriber).await.len();
    world.sql(&operation.sql).await;
    let took = reached(world, Instant::now()).await;
    let mut faults = world.differences().await;
    let heard = world.heard_all(subscriber).await;
    let heard = heard.get(before..).unwrap_or_default();
    faults.extend(misheard(&operation, heard));
    let users = world.postgres.value("SELECT count(*) FROM users").await;
    let users = users.and_then(|users| users.parse().ok()).expect("a number of users");
    Row { name: operation.name, users, events: heard.len(), took, faults }
}

/// How long it took since then until Redis held everything, as an application learns it that waits for its commit.
async fn reached(world: &World, since: Instant) -> Duration {
    let lsn = world.postgres.value("SELECT pg_current_wal_lsn()").await.expect("an LSN");
    let answer =
        world.lockstep.http("GET", &format!("/api/redis-health/wait?lsn={lsn}&timeout_ms=30000")).await;
    assert_eq!(answer.expect("an answer").0, 200);
    since.elapsed()
}

/// Keys that other programs compute from a balance: gone once it changes.
async fn derive(world: &World, user: &str) {
    for key in ["user_margin_calc:U", "user_stats:U", "user:U:config", "financial_summary:U:week"] {
        world.store.set(&key.replace('U', user), "computed before").await;
    }
    world.store.hset(&format!("user:{{{user}}}:portfolio"), "equity", "1").await;
}

/// Events that are missing, and such as should not be.
fn misheard(operation: &Operation, heard: &[Heard]) -> Vec<String> {
    let mut expected: Vec<(&str, String)> = Vec::new();
    for (event, user, kind) in &operation.events {
        let line = format!("{event} of {user}, {}", kind.unwrap_or("no operation"));
        if *event != "user_deleted" {
            expected.push((USER_UPDATES, line.clone()));
        }
        if *event != "user_update" {
            expected.push((BALANCE_UPDATES, line));
        }
    }
    let mut found: Vec<(&str, String)> = Vec::new();
    for heard in heard {
        let kind = heard.json["operation_type"].as_str().unwrap_or("no operation");
        found.push((&heard.channel, format!("{} of {}, {kind}", heard.event_type(), heard.user())));
    }
    let (wanted, there): (BTreeSet<_>, BTreeSet<_>) = (expected.iter().collect(), found.iter().collect());
    let missing = wanted.difference(&there).map(|(channel, line)| format!("missing on {channel}: {line}"));
    let others = there.difference(&wanted).map(|(channel, line)| format!("unexpected on {channel}: {line}"));
    let mut faults: Vec<String> = missing.chain(others).collect();
    if faults.is_empty() && expected.len() != found.len() {
        faults.push(format!("{} events, not {}", found.len(), expected.len()));
    }
    faults
}

fn print(on: On, rows: &[Row]) {
    println!("\n{:<42} {:>6} {:>7} {:>7}", format!("operation ({on:?})"), "users", "events", "ms");
    for Row { name, users, events, took, faults } in rows {
        let verdict = if faults.is_empty() { "" } else { "  WRONG" };
        println!("{name:<42} {users:>6} {events:>7} {:>7.1}{verdict}", took.as_secs_f64() * 1e3);
        faults.iter().for_each(|fault| println!("    {fault}"));
    }
}
