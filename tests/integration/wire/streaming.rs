//! The stream: order, cancellation, feedback, the end.

use std::time::{Duration, Instant};

use lockstep::lsn::Lsn;
use lockstep::wire::{Frame, Stream, Walsender};

use super::configured;
use crate::harness::{PASSED_OVER, Postgres, PostgresOptions, postgres_major};

/// A server with a table, a publication and a slot, all made by the commands under test.
pub(super) async fn followed() -> Postgres {
    let server = Postgres::start(PostgresOptions::default()).await;
    server.sql("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE PUBLICATION lockstep FOR TABLE t").await;
    sender(&server).await.create_slot("lockstep").await.unwrap();
    server
}

pub(super) async fn sender(server: &Postgres) -> Walsender {
    Walsender::connect(&configured(&server.url())).await.unwrap()
}

pub(super) async fn stream(server: &Postgres) -> Stream {
    sender(server).await.start_replication("lockstep", Lsn::ZERO, "lockstep").await.unwrap()
}

/// Payloads up to the `commits`-th Commit, with `next` polled as `patience` allows.
async fn payloads(stream: &mut Stream, commits: usize, patience: Option<Duration>) -> Vec<Vec<u8>> {
    let (mut read, mut seen) = (Vec::new(), 0);
    while seen < commits {
        let frame = match patience {
            None => stream.next().await.unwrap(),
            Some(patience) => match tokio::time::timeout(patience, stream.next()).await {
                Ok(frame) => frame.unwrap(),
                Err(_) => {
                    stream.queue_status(Lsn(1), Lsn::ZERO, true);
                    continue;
                }
            },
        };
        if let Frame::XLogData { payload, .. } = frame {
            seen += usize::from(payload.first() == Some(&b'C'));
            read.push(payload.to_vec());
        }
    }
    read
}

#[tokio::test]
async fn changes_arrive_in_order_and_many_at_one_wake_up() {
    let server = followed().await;
    server.sql("INSERT INTO t SELECT n, repeat('x', 10) FROM generate_series(1, 5000) n").await;
    let end = server.value("SELECT pg_current_wal_insert_lsn()").await.expect("a position");
    let mut stream = stream(&server).await;
    // All of it has left the server, and fits into the socket's buffers.
    let sent = format!("SELECT sent_lsn >= '{end}' FROM pg_stat_replication");
    server.eventually_value(&sent, "t").await;
    let mut frames = vec![stream.next().await.unwrap()];
    let mut in_memory = 0;
    while !frames.iter().any(|f| matches!(f, Frame::XLogData { payload, .. } if payload[0] == b'C')) {
        match stream.buffered().unwrap() {
            Some(frame) => {
                in_memory += 1;
                frames.push(frame);
            }
            None => frames.push(stream.next().await.unwrap()),
        }
    }
    let inserts =
        frames.iter().filter(|f| matches!(f, Frame::XLogData { payload, .. } if payload[0] == b'I'));
    assert_eq!(inserts.count(), 5000);
    assert!(in_memory > 2500, "{in_memory} of 5000 without a read of their own");
    stream.close().await;
}

#[tokio::test]
async fn dropping_next_at_any_moment_loses_nothing() {
    let server = followed().await;
    let writer = async {
        for n in 0..50 {
            server
                .sql(&format!(
                    "INSERT INTO t SELECT {n} * 100 + s, repeat('y', s * 37) FROM generate_series(1, 99) s"
                ))
                .await;
        }
    };
    let mut hasty = stream(&server).await;
    let (hurried, ()) = tokio::join!(payloads(&mut hasty, 50, Some(Duration::from_micros(50))), writer);
    hasty.close().await;
    let mut patient = stream(&server).await;
    let calm = payloads(&mut patient, 50, None).await;
    assert_eq!(hurried.len(), calm.len());
    assert!(hurried == calm, "the same bytes");
}

#[tokio::test]
async fn status_without_reading_keeps_the_stream_alive() {
    let server = followed().await;
    let mut sender = sender(&server).await;
    sender.query("SET wal_sender_timeout = '1s'").await.unwrap();
    let mut stream = sender.start_replication("lockstep", Lsn::ZERO, "lockstep").await.unwrap();
    server.sql("INSERT INTO t SELECT n, repeat('z', 1000) FROM generate_series(1, 20000) n").await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        stream.queue_status(Lsn(1), Lsn::ZERO, false);
        stream.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(server.value("SELECT count(*) FROM pg_stat_replication").await.as_deref(), Some("1"));
    let read = payloads(&mut stream, 1, None).await;
    assert_eq!(read.iter().filter(|payload| payload[0] == b'I').count(), 20000);
}

#[tokio::test]
async fn close_acknowledges_and_frees_the_slot_however_much_is_unread() {
    let server = followed().await;
    let mut stream = stream(&server).await;
    server.sql("INSERT INTO t VALUES (1, 'a')").await;
    payloads(&mut stream, 1, None).await;
    let end: Lsn = server.value("SELECT pg_current_wal_lsn()").await.unwrap().parse().unwrap();
    server.sql("INSERT INTO t SELECT n, repeat('z', 1000) FROM generate_series(2, 30000) n").await;
    stream.queue_status(end, end, false);
    let began = Instant::now();
    stream.close().await;
    assert!(began.elapsed() < Duration::from_secs(3));
    server.eventually_value("SELECT active::text FROM pg_replication_slots", "false").await;
    let confirmed = format!("SELECT (confirmed_flush_lsn >= '{end}')::text FROM pg_replication_slots");
    server.eventually_value(&confirmed, "true").await;
}

#[tokio::test]
async fn a_slot_that_cannot_be_streamed_says_why() {
    let server = followed().await;
    server.create_database("other").await;
    server
        .sql(
            "SELECT pg_create_logical_replication_slot('decoding', 'test_decoding'); \
             SELECT pg_create_physical_replication_slot('physical')",
        )
        .await;
    let why = async |url: String, slot: &str| {
        let sender = Walsender::connect(&configured(&url)).await.unwrap();
        let started = sender.start_replication(slot, Lsn::ZERO, "lockstep").await;
        started.map(drop).unwrap_err()
    };
    let missing = why(server.url(), "missing").await;
    assert_eq!(missing.to_string(), "slot \"missing\" does not exist: run \"lockstep init\"");
    assert!(why(server.url(), "physical").await.to_string().contains("is physical"));
    assert!(why(server.url(), "decoding").await.to_string().contains("of plugin \"test_decoding\""));
    let elsewhere = why(server.url_for("postgres", "other"), "lockstep").await;
    assert!(elsewhere.to_string().contains("of another database"), "{elsewhere}");
    let holder = stream(&server).await;
    let busy = why(server.url(), "lockstep").await;
    assert!(busy.is_transient() && busy.to_string().contains("is active for PID"), "{busy}");
    holder.close().await;
}

#[tokio::test]
async fn a_missing_publication_and_a_low_wal_level_are_named() {
    let server = followed().await;
    server.sql("INSERT INTO t VALUES (1, 'a')").await;
    server.sql("SELECT pg_logical_emit_message(true, 'lockstep', 'behind it')").await;
    let sender = sender(&server).await;
    let mut stream = sender.start_replication("lockstep", Lsn::ZERO, "it's \"x\"").await.unwrap();
    let error = loop {
        match stream.next().await {
            Ok(Frame::XLogData { payload, .. }) if payload[0] == b'M' => break None,
            Ok(Frame::XLogData { payload, .. }) => assert_ne!(payload[0], b'I', "nobody published it"),
            Ok(_) => {}
            Err(error) => break Some(error),
        }
    };
    match error {
        None => assert!(postgres_major() >= PASSED_OVER, "the stream went past it"),
        Some(error) => {
            assert!(!error.is_transient() && error.to_string().contains("publication"), "{error}");
        }
    }

    let low = Postgres::start(PostgresOptions::default().set("wal_level", "replica")).await;
    let mut sender = self::sender(&low).await;
    let error = sender.create_slot("lockstep").await.unwrap_err();
    assert!(error.to_string().contains("set wal_level=logical"), "{error}");
    let identity = sender.identify_system().await.unwrap();
    assert_eq!(identity.timeline, 1, "the connection is usable after an error");
}

#[tokio::test]
async fn a_query_that_was_given_up_does_not_answer_the_next() {
    let server = followed().await;
    let mut sender = sender(&server).await;
    let slow = sender.query("SELECT 'slow' FROM pg_sleep(0.3)");
    assert!(tokio::time::timeout(Duration::from_millis(50), slow).await.is_err());
    assert_eq!(sender.query("SELECT 'next'").await.unwrap(), [[Some("next".to_owned())]]);
}
