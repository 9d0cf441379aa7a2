//! Which server is reached, how long is waited for it, and what it is asked for.

use tokio::net::TcpListener;

use lockstep::lsn::Lsn;
use lockstep::wire::{Walsender, sql};

use super::{both, configured, refused};
use crate::harness::{On, Postgres, PostgresOptions, Setup, World, eventually};

async fn server(hba: &str) -> Postgres {
    let options = PostgresOptions { hba: Some(hba.to_owned()), tls: true, ..PostgresOptions::default() };
    Postgres::start(options.set("listen_addresses", "127.0.0.1,127.0.0.2")).await
}

fn login(server: &Postgres, rest: &str) -> String {
    format!("port={} user=postgres dbname=postgres {rest}", server.port())
}

#[tokio::test]
async fn prefer_does_without_tls_where_pg_hba_wants_it_so() {
    let server = server("hostnossl all postgres 127.0.0.1/32 trust").await;
    both(&login(&server, "host=127.0.0.1 sslmode=prefer")).await.unwrap();
    both(&login(&server, "host=127.0.0.1 sslmode=disable")).await.unwrap();
    let error = refused(&login(&server, "host=127.0.0.1 sslmode=require")).await;
    assert!(error.to_string().contains("add a line for role \"postgres\" to pg_hba.conf"), "{error}");
}

#[tokio::test]
async fn an_address_is_reached_under_the_name_of_its_certificate() {
    let server =
        server("hostssl all postgres 127.0.0.2/32 trust\nhostssl all postgres 127.0.0.1/32 trust").await;
    let root = server.certificates().authority.display().to_string();
    let checked = format!("hostaddr=127.0.0.2 sslmode=verify-full sslrootcert={root}");
    both(&login(&server, &format!("host=localhost {checked}"))).await.unwrap();
    let error = refused(&login(&server, &format!("host=elsewhere.invalid {checked}"))).await;
    assert!(error.to_string().contains("not trusted"), "{error}");
}

#[tokio::test]
async fn options_of_the_operator_hold_unless_they_are_ours() {
    let server = server("host all postgres 127.0.0.1/32 trust").await;
    let options = "options='-c statement_timeout=12345 -c DateStyle=SQL'";
    let pg = configured(&login(&server, &format!("host=127.0.0.1 {options}")));
    let client = sql::connect(&pg).await.unwrap();
    let mut walsender = Walsender::connect(&pg).await.unwrap();
    for (setting, value) in [("statement_timeout", "12345ms"), ("DateStyle", "ISO, MDY")] {
        let show = format!("SHOW {setting}");
        let row = client.query_one(&show, &[]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), value);
        assert_eq!(walsender.query(&show).await.unwrap(), [[Some(value.to_owned())]]);
    }
}

#[tokio::test]
async fn a_host_that_never_answers_is_given_up_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    for mode in ["disable", "prefer"] {
        let text = format!("host=127.0.0.1 port={port} user=ann connect_timeout=1 sslmode={mode}");
        let error = refused(&text).await;
        assert!(error.is_transient(), "{error}");
        let words = format!("postgres at 127.0.0.1:{port} did not answer within 1 s: check host, port");
        assert!(error.to_string().starts_with(&words), "{error}");
    }
}

#[tokio::test]
async fn a_host_that_nobody_knows_is_unreachable() {
    let error = refused("host=nowhere.invalid user=ann connect_timeout=5").await;
    assert!(error.is_transient(), "{error}");
    assert!(error.to_string().contains("postgres at nowhere.invalid:5432"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn run_waits_for_a_free_walsender_and_says_so() {
    let mut setup = Setup::on(On::Single);
    setup.postgres = setup.postgres.set("max_wal_senders", "2");
    let world = World::set_up(setup).await;
    world.lockstep.init().await;
    let pg = configured(&world.postgres.url());
    let others = (Walsender::connect(&pg).await.unwrap(), Walsender::connect(&pg).await.unwrap());
    let error = Walsender::connect(&pg).await.map(drop).unwrap_err();
    assert!(
        error.is_transient() && error.to_string().ends_with(": raise max_wal_senders and restart PostgreSQL"),
        "{error}"
    );
    world.lockstep.spawn(&["run"]);
    eventually("the limit is named", async || {
        let (status, body) = world.lockstep.http("GET", "/readyz").await.ok()?;
        (status == 503 && body.contains("raise max_wal_senders")).then_some(())
    })
    .await;
    let check = world.lockstep.finish(&["check"]).await;
    assert!(
        check.code == Some(3) && check.stdout.contains("2 of 2 walsenders are in use, and 2 more"),
        "{check:?}"
    );
    drop(others);
    world.lockstep.wait_ready().await;
}

#[tokio::test]
async fn a_walsender_has_our_name_our_timeout_and_a_watch_on_a_dead_peer() {
    let options = PostgresOptions::default().set("wal_sender_timeout", "7s").set("tcp_keepalives_idle", "0");
    let server = Postgres::start(options).await;
    let mut walsender = Walsender::connect(&configured(&server.url())).await.unwrap();
    assert_eq!(walsender.query("SHOW wal_sender_timeout").await.unwrap(), [[Some("6s".to_owned())]]);
    walsender.create_slot("lockstep").await.unwrap();
    server.sql("CREATE PUBLICATION lockstep").await;
    let stream = walsender.start_replication("lockstep", Lsn::ZERO, "lockstep").await.unwrap();
    let named = "SELECT application_name FROM pg_stat_replication";
    server.eventually_value(named, "lockstep").await;
    let port = server.value("SELECT client_port FROM pg_stat_replication").await.unwrap().parse().unwrap();
    let waits =
        eventually("the kernel is to probe the server", async || keepalive_ms(port, server.port())).await;
    assert!(waits <= 30_000, "{waits} ms of silence, not the system's two hours");
    stream.close().await;
}

/// How long until the kernel probes the peer of a TCP connection on loopback, where it is to:
/// <https://docs.kernel.org/networking/proc_net_tcp.html>.
fn keepalive_ms(from: u16, to: u16) -> Option<u64> {
    const KEEPALIVE: &str = "02";
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let (local, remote) = (format!("0100007F:{from:04X}"), format!("0100007F:{to:04X}"));
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let ours = fields.into_iter().find(|fields| fields[1] == local && fields[2] == remote)?;
    let (timer, hundredths) = ours[5].split_once(':')?;
    (timer == KEEPALIVE).then(|| u64::from_str_radix(hundredths, 16).unwrap() * 10)
}
