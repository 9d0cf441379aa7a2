//! What operators ask over HTTP: every answer, and every way to get none.

mod bad_input;
mod connections;
mod consistency;
mod console;
mod document;
mod nodes;
mod refresh;
mod state;
mod tls;
mod visible;

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Lockstep, PATIENCE, World};

/// Nobody heals what the test leaves wrong.
const UNHEALED: &str = "[audit]\nforeign_writes = \"off\"\nusers_per_second = 0\n";

const STATUS: &str = "/api/redis-health/status";
const CLUSTER_INFO: &str = "/api/redis-health/cluster-info";

fn consistency(id: impl std::fmt::Display) -> String {
    format!("/api/redis-health/user/{id}/consistency")
}

fn force_refresh(id: impl std::fmt::Display) -> String {
    format!("/api/redis-health/user/{id}/force-refresh")
}

/// An instance, not yet running, that answers as often as it is asked.
fn asked_often(world: &World) {
    let often = world.lockstep.configuration().replace("[http]\n", "[http]\nrequests_per_second = 100000\n");
    world.lockstep.configure(&often);
}

/// An answer in its envelope.
#[derive(Debug, Clone)]
struct Answer {
    status: u16,
    json: Value,
}

impl Answer {
    fn read(status: u16, body: &str) -> Answer {
        let json: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"));
        assert_eq!(json["success"], Value::Bool(status < 400), "{status} {json}");
        assert!(json["message"].as_str().is_some_and(|message| !message.is_empty()), "{json}");
        assert!(json["data"].is_object(), "{json}");
        Answer { status, json }
    }

    fn data(&self) -> &Value {
        &self.json["data"]
    }

    fn message(&self) -> &str {
        self.json["message"].as_str().unwrap()
    }
}

/// With the operator's token.
async fn ask(lockstep: &Lockstep, method: &str, path: &str) -> Answer {
    let (status, body) = lockstep.http(method, path).await.expect("an answer");
    Answer::read(status, &body)
}

async fn get(world: &World, path: &str) -> Answer {
    ask(&world.lockstep, "GET", path).await
}

/// A row was read for somebody who asked, and waits for the stream: the connection is kept meanwhile.
async fn a_row_is_held(world: &World) {
    let held = "SELECT count(*) > 0 FROM pg_stat_activity WHERE state = 'idle' \
                AND query LIKE 'BEGIN ISOLATION LEVEL REPEATABLE READ%'";
    world.postgres.eventually_value(held, "t").await;
}

async fn post(world: &World, path: &str) -> Answer {
    ask(&world.lockstep, "POST", path).await
}

/// The data of an answer that must be 200.
async fn compared(world: &World, id: impl std::fmt::Display) -> Value {
    let answer = get(world, &consistency(id)).await;
    assert_eq!(answer.status, 200, "{}", answer.json);
    answer.data().clone()
}

/// States of what differs, as `field:state`; `-` is the key itself.
fn states(report: &Value) -> Vec<String> {
    let differences = report["differences"].as_array().expect("differences");
    let state = |difference: &Value| {
        let (field, state) = (difference["field"].as_str().unwrap_or("-"), &difference["state"]);
        format!("{field}:{}", state.as_str().expect("a state"))
    };
    differences.iter().map(state).collect()
}

/// Sends bytes as they are, and returns all that comes back until the connection ends.
async fn raw(port: u16, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
    // It may be refused before all of it is sent.
    let _ = stream.write_all(request).await;
    heard(&mut stream).await
}

/// All that comes until the connection ends.
async fn heard(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    // A reset after the answer is an end as well.
    drop(ended.expect("the connection ends"));
    String::from_utf8_lossy(&answer).into_owned()
}

/// Status, head and body of an answer.
fn parts(answer: &str) -> (u16, &str, &str) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("not HTTP: {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no status: {head}")), head, body)
}

/// Freezes and wakes the process that sends the stream; the rest of the database goes on.
struct Walsender(String);

impl Walsender {
    async fn freeze(world: &World) -> Walsender {
        let pid = world
            .postgres
            .value("SELECT pid FROM pg_stat_replication WHERE state <> 'startup'")
            .await
            .expect("a walsender");
        let walsender = Walsender(pid);
        walsender.signal("STOP");
        walsender
    }

    fn signal(&self, name: &str) {
        let script = format!("kill -s {name} {}", self.0);
        let sent = std::process::Command::new("sh").args(["-c", &script]).status();
        assert!(sent.is_ok_and(|status| status.success()), "{script}");
    }
}

impl Drop for Walsender {
    fn drop(&mut self) {
        self.signal("CONT");
    }
}

/// How long an answer took that is not to be waited for.
const AT_ONCE: Duration = Duration::from_secs(5);
