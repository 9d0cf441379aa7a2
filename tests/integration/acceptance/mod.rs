//! Every administrative operation of the platform, done by SQL beside a running instance; after each one every key, every
//! event and the operator's endpoints are looked at. `tests/acceptance` prints the report.

mod endpoints;
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

/// After so many operations the program compares everything too.
const VERIFIED_EVERY: usize = 10;

/// What came of one operation.
struct Row {
    name: &'static str,
    /// Users whose keys were compared.
    users: usize,
    events: usize,
    /// Calls of the operator that were answered as they should be.
    calls: usize,
    /// From the answer of the database until Redis held everything.
    took: Duration,
    /// What was not as it should be.
    faults: Vec<String>,
}

async fn all(on: On) {
    // Behind the address and the token: the operator's calls are asked for more often than by a person.
    let config = "requests_per_second = 1000".to_owned();
    let world = World::running_as(Setup { config, ..Setup::on(on) }).await;
    let subscriber = world.subscriber().await;
    let mut rows = Vec::new();
    for operation in operations::all() {
        rows.push(perform(&world, &subscriber, operation).await);
        if rows.len() % VERIFIED_EVERY == 0 {
            world.lockstep.succeed(&["verify"]).await;
        }
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
    let events = heard.len();
    let asked = endpoints::ask(world, &concerned(&operation)).await;
    faults.extend(asked.faults);
    faults.extend(refreshes(world, subscriber, before + events, &asked.refreshed).await);
    let users = world.postgres.value("SELECT count(*) FROM users").await;
    let users = users.and_then(|users| users.parse().ok()).expect("a number of users");
    Row { name: operation.name, users, events, calls: asked.good, took, faults }
}

/// Whose endpoints are asked: who is named, else one of those who are told of, else somebody.
fn concerned(operation: &Operation) -> Vec<&str> {
    let told = || operation.events.iter().map(|(_, user, _)| user.as_str()).take(1).collect::<Vec<_>>();
    let named: BTreeSet<&str> = operation.users.iter().copied().collect();
    let concerned = if named.is_empty() { told() } else { named.into_iter().collect() };
    if concerned.is_empty() { vec!["live:1"] } else { concerned }
}

/// What is wrong about the events of those who were written again: one on each channel.
async fn refreshes(world: &World, subscriber: &Subscriber, before: usize, users: &[String]) -> Vec<String> {
    let heard = world.heard_all(subscriber).await;
    let heard = heard.get(before..).unwrap_or_default();
    let told = |user: &String, channel: &str| {
        let of = |heard: &&Heard| heard.user() == *user && heard.channel == channel;
        let kinds: Vec<&str> = heard.iter().filter(of).map(|heard| heard.text("operation_type")).collect();
        kinds == ["force_refresh"]
    };
    let silent = users.iter().filter(|user| !told(user, USER_UPDATES) || !told(user, BALANCE_UPDATES));
    let mut faults: Vec<String> =
        silent.map(|user| format!("the refresh of {user} was not told once")).collect();
    if heard.len() != 2 * users.len() {
        faults.push(format!("{} events after {} refreshes", heard.len(), users.len()));
    }
    faults.extend(world.differences().await);
    faults
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
    let operation = format!("operation ({on:?})");
    println!("\n{operation:<42} {:>6} {:>7} {:>9} {:>7}", "users", "events", "endpoints", "ms");
    for Row { name, users, events, calls, took, faults } in rows {
        let verdict = if faults.is_empty() { "" } else { "  WRONG" };
        println!("{name:<42} {users:>6} {events:>7} {calls:>9} {:>7.1}{verdict}", took.as_secs_f64() * 1e3);
        faults.iter().for_each(|fault| println!("    {fault}"));
    }
}
