//! Clients that open connections and say nothing, or say it slowly: nobody else is kept waiting.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{heard, parts};
use crate::harness::{On, World, eventually};

/// Connections that are opened, as far as the files of this process go.
const CROWD: usize = 10_000;
/// CONTRACT: memory is bounded; this is the bound.
const MEMORY_BYTES: u64 = 64 << 20;

/// As many of the crowd as this process may open.
fn crowd() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap_or_default();
    let files = line.split_ascii_whitespace().nth(3).and_then(|files| files.parse().ok()).unwrap_or(1024);
    CROWD.min(usize::saturating_sub(files, 500))
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_silent_connections_hold_up_neither_events_nor_questions() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "0").await;
    world.caught_up().await;
    let subscriber = world.subscriber().await;
    let address = ("127.0.0.1", world.lockstep.http_port());
    let mut silent = Vec::new();
    for _ in 0..crowd() {
        silent.push(TcpStream::connect(address).await.expect("a connection"));
    }
    println!("{} connections are open", silent.len());
    // The stream goes on beside them.
    for n in 1..=50 {
        world.sql(&format!("UPDATE users SET wallet_balance = {n} WHERE id = 7")).await;
    }
    subscriber.wait_for("user_updates", "live:7", 50).await;
    // Whoever asks is answered, or told at once to come again.
    let (mut answered, mut refused) = (0, 0);
    let asked = Instant::now();
    while answered < 10 {
        match world.lockstep.http("GET", "/healthz").await {
            Ok((200, _)) => answered += 1,
            Ok((503, _)) => refused += 1,
            Ok((other, body)) => panic!("{other} {body}"),
            // So many are being told no at this moment that this one is not told.
            Err(_) => refused += 1,
        }
        assert!(asked.elapsed() < Duration::from_secs(30), "{answered} answered, {refused} refused");
    }
    println!("{answered} questions were answered and {refused} refused in {:?}", asked.elapsed());
    let peak = world.lockstep.peak_resident_bytes();
    println!("{} MiB of memory at most", peak >> 20);
    assert!(peak < MEMORY_BYTES, "{peak}");
    drop(silent);
    eventually("it answers everybody again", async || {
        let (status, _) = world.lockstep.http("GET", "/readyz").await.ok()?;
        (status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_finish_its_question_is_sent_away() {
    let world = World::running(On::Single).await;
    let mut silent = TcpStream::connect(("127.0.0.1", world.lockstep.http_port())).await.unwrap();
    let mut slow = TcpStream::connect(("127.0.0.1", world.lockstep.http_port())).await.unwrap();
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n").await.unwrap();
    let began = Instant::now();
    let drip = async {
        // A line every now and then is not a whole question either.
        while slow.write_all(b"X-More: 1\r\n").await.is_ok() && began.elapsed() < Duration::from_secs(30) {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let ((), silence) = tokio::join!(drip, heard(&mut silent));
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    assert!(silence.is_empty() || silence.starts_with("HTTP/1.1 408"), "{silence}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_carries_many_questions() {
    let world = World::running(On::Single).await;
    let mut stream = TcpStream::connect(("127.0.0.1", world.lockstep.http_port())).await.unwrap();
    let question = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".repeat(20);
    let last = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(format!("{question}{last}").as_bytes()).await.unwrap();
    let answers = heard(&mut stream).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 21, "{answers}");
    assert_eq!(parts(&answers).0, 200);
}
