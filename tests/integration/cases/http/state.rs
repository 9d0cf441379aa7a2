//! What an instance says of itself, once or every second.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Answer, ask, get, parts, raw};
use crate::harness::oracle::is_iso_utc;
use crate::harness::subscriber::lsn;
use crate::harness::{Lockstep, On, PATIENCE, World, eventually};

on_both!(the_state_tells_of_both_sides_and_of_no_user);

const STATE: &str = "/api/lockstep/state";
const EVENTS: &str = "/api/lockstep/events";
/// As many as are told.
const LISTENERS: usize = 32;

/// Without a token.
async fn state(lockstep: &Lockstep) -> Value {
    let (status, body) = lockstep.http_with("GET", STATE, "").await.expect("an answer");
    Answer::read(status, &body).data().clone()
}

/// Waits until the state is so.
async fn becomes(lockstep: &Lockstep, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    eventually(what, async || Some(state(lockstep).await).filter(|state| is_so(state))).await
}

async fn the_state_tells_of_both_sides_and_of_no_user(on: On) {
    let world = World::running(on).await;
    world.user("live", 7, "7654321.25").await;
    world.credit(7, "4321.5").await;
    world.caught_up().await;
    let told = becomes(&world.lockstep, "both events", |state| state["recent"][1].is_object()).await;
    assert_eq!(
        (&told["state"], &told["reasons"], &told["faults"]),
        (&json!("ready"), &json!([]), &json!([]))
    );
    assert_eq!(told["postgres"]["reachable"], true);
    let slot = &told["slot"];
    assert_eq!(
        (&slot["exists"], &slot["active"], &slot["wal_status"]),
        (&json!(true), &json!(true), &json!("reserved"))
    );
    assert!(slot["retained_max_bytes"].as_u64() > slot["retained_bytes"].as_u64(), "{slot}");
    for of in [&slot["restart_lsn"], &told["stream"]["applied_lsn"], &told["recent"][0]["commit_lsn"]] {
        assert!(lsn(of.as_str().unwrap()).is_some_and(|lsn| lsn > 0), "{told}");
    }
    let masters = &told["redis"]["masters"];
    let nodes = masters["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), world.store.masters().await.len());
    assert!(nodes.iter().all(|node| node["answers"] == true), "{masters}");
    let slots = nodes.iter().flat_map(|node| node["slots"].as_array().unwrap());
    let owned: u64 = slots.map(|range| range[1].as_u64().unwrap() - range[0].as_u64().unwrap() + 1).sum();
    assert_eq!(owned, if on == On::Cluster { 16_384 } else { 0 });
    assert_eq!(told["counts"]["events"]["balance_change"], 1);
    assert_eq!((&told["latency"]["count"], &told["load"]["loaded"]), (&json!(2), &json!(true)));
    assert_eq!(told["recent"][0]["event_type"], "balance_change", "the latest first");
    assert!(is_iso_utc(told["recent"][0]["committed_at"].as_str().unwrap()), "{told}");
    let text = told.to_string();
    for secret in ["7658642", "4321", "example.com", "\"7\"", ":7,"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    // To the operator alone.
    let recent = get(&world, "/api/lockstep/recent").await;
    let event = &recent.data()["events"][0]["event"];
    assert_eq!(
        (&event["user_id"], &event["updated_fields"]["wallet_balance"]),
        (&json!(7), &json!(7658642.75))
    );
    for path in ["/api/lockstep/recent", "/api/lockstep/quarantine"] {
        let (status, body) = world.lockstep.http_with("GET", path, "").await.unwrap();
        assert_eq!(status, 401, "{body}");
        assert!(!body.contains("7658642"), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_is_away_and_a_standby_are_told() {
    let world = World::running(On::Single).await;
    let standby = world.standby().await;
    let told = state(&standby).await;
    assert_eq!(
        (&told["state"], &told["faults"]),
        (&json!("standby"), &json!([])),
        "nothing is wrong: {told}"
    );
    // Else it takes over what the other one has to tell.
    standby.kill9();
    world.store.single().kill9();
    let told = becomes(&world.lockstep, "Redis is away", |state| state["faults"][0].is_string()).await;
    assert_eq!((&told["redis"]["connected"], &told["state"]), (&json!(false), &json!("not_ready")));
    becomes(&world.lockstep, "it is silent", |state| {
        state["redis"]["masters"]["nodes"][0]["answers"] == false
    })
    .await;
    world.store.single().start_again().await;
    becomes(&world.lockstep, "all is well", |state| state["state"] == "ready").await;
    world.postgres.kill9();
    let told =
        becomes(&world.lockstep, "postgres is away", |state| state["postgres"]["reachable"] == false).await;
    assert!(told["postgres"]["fault"].is_string() && told["slot"]["exists"].is_null(), "{told}");
}

/// A listener that has read its first state.
async fn listener(port: u16) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
    stream.write_all(format!("GET {EVENTS} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut heard = String::new();
    while !heard.contains("\n\n\r\n") && !heard.ends_with("}\r\n") {
        let mut bytes = [0; 4096];
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut bytes)).await.expect("in time").unwrap();
        assert!(read > 0, "{heard}");
        heard.push_str(&String::from_utf8_lossy(&bytes[..read]));
        if heard.starts_with("HTTP/1.1 4") {
            break;
        }
    }
    (stream, heard)
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_listen_and_those_who_are_slow_hold_nothing_up() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    let port = world.lockstep.http_port();
    let mut listeners = Vec::new();
    for _ in 0..LISTENERS {
        let (stream, heard) = listener(port).await;
        assert!(heard.contains("text/event-stream") && heard.contains("data: {"), "{heard}");
        listeners.push(stream);
    }
    let (_, refused) = listener(port).await;
    assert!(
        refused.starts_with("HTTP/1.1 429") && refused.to_lowercase().contains("retry-after"),
        "{refused}"
    );
    // None of them reads on.
    for _ in 0..20 {
        world.credit(7, "1").await;
    }
    world.caught_up().await;
    world.assert_equal().await;
    assert_eq!(state(&world.lockstep).await["state"], "ready");
    drop(listeners.pop());
    eventually("a place is free", async || {
        let (_, heard) = listener(port).await;
        heard.starts_with("HTTP/1.1 200").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_may_say_how_often_it_is_told() {
    let world = World::running(On::Single).await;
    let began = std::time::Instant::now();
    let request = format!("GET {EVENTS}?count=2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let answer = raw(world.lockstep.http_port(), request.as_bytes()).await;
    assert_eq!(parts(&answer).0, 200);
    assert_eq!(answer.matches("data: {").count(), 2, "{answer}");
    assert!(began.elapsed() >= Duration::from_millis(900), "a second lies between them");
    for wrong in ["0", "-1", "x", "", "3601", "1&count=2"] {
        let answer = ask(&world.lockstep, "GET", &format!("{EVENTS}?count={wrong}")).await;
        assert_eq!(answer.status, 400, "{wrong}");
    }
}
