//! What an operator sees: health, readiness, metrics, and what `run` refuses.

use crate::harness::{Mode, On, Setup, World, eventually};

/// CONTRACT section 7.
const METRICS: [&str; 26] = [
    "lockstep_replication_lag_bytes",
    "lockstep_replication_lag_seconds",
    "lockstep_received_lsn",
    "lockstep_applied_lsn",
    "lockstep_confirmed_lsn",
    "lockstep_events_total{type=\"balance_change\"}",
    "lockstep_redis_operations_total{outcome=\"ok\"}",
    "lockstep_skipped_by_fence_total",
    "lockstep_republished_total",
    "lockstep_heal_seconds",
    "lockstep_quarantined_total",
    "lockstep_healed_total",
    "lockstep_unpublished_total",
    "lockstep_apply_latency_seconds_count",
    "lockstep_in_flight_events",
    "lockstep_postgres_reconnects_total",
    "lockstep_redis_reconnects_total",
    "lockstep_load_running{kind=\"load\"}",
    "lockstep_load_users",
    "lockstep_load_users_expected",
    "lockstep_loaded",
    "lockstep_slot_retained_wal_bytes",
    "lockstep_leader",
    concat!("lockstep_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"),
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_promised_metric_is_there() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    world.credit(7, "1").await;
    world.caught_up().await;
    let metrics = world.lockstep.metrics().await.unwrap();
    let missing: Vec<&str> = METRICS.into_iter().filter(|name| !metrics.contains_key(*name)).collect();
    assert!(missing.is_empty(), "{missing:?} of {metrics:#?}");
    assert_eq!(metrics["lockstep_events_total{type=\"balance_change\"}"], 1.0);
    assert!(metrics["lockstep_apply_latency_seconds_count"] >= 2.0);
    assert_eq!(world.lockstep.http("GET", "/healthz").await.unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lag_over_its_bound_is_not_ready() {
    let mut setup = Setup::on(On::Single);
    setup.config = "[stream]\nready_lag = \"100ms\"".into();
    let world = World::running_as(setup).await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    world.store.single().pause();
    world.credit(7, "1").await;
    eventually("it is behind", async || {
        let (status, body) = world.lockstep.http("GET", "/readyz").await.ok()?;
        (status == 503 && body.contains("behind the database")).then_some(())
    })
    .await;
    assert_eq!(world.lockstep.http("GET", "/healthz").await.unwrap().0, 200, "alive all the same");
    world.store.single().resume();
    world.lockstep.wait_ready().await;
    world.eventually_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn run_refuses_to_be_a_synchronous_standby() {
    let world = World::set_up(Setup::on(On::Single)).await;
    world.lockstep.init().await;
    world.sql("ALTER SYSTEM SET synchronous_standby_names = '*'").await;
    world.sql("SELECT pg_reload_conf()").await;
    world.postgres.eventually_value("SHOW synchronous_standby_names", "*").await;
    let refused = world.lockstep.finish(&["run"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("synchronous_standby_names"), "{refused:?}");
    let senders = world.postgres.value("SELECT count(*) FROM pg_stat_replication").await;
    assert_eq!(senders.as_deref(), Some("0"), "no commit ever waited for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_snapshot_trusts_what_redis_holds() {
    let world = World::set_up(Setup::on(On::Single)).await;
    world.user("live", 7, "100").await;
    world.user("live", 8, "100").await;
    world.lockstep.init().await;
    world.lockstep.spawn(&["run", "--no-snapshot"]);
    world.lockstep.wait_ready().await;
    world.credit(8, "1").await;
    world.caught_up().await;
    assert_eq!(world.store.get("user_balance:live:8").await.as_deref(), Some("101"));
    assert!(!world.store.exists("user_balance:live:7").await, "nobody changed it");
    // The next start needs no load either: the first has left its mark.
    world.lockstep.sigterm().await;
    world.lockstep.run().await;
    world.caught_up().await;
    assert!(!world.store.exists("user_balance:live:7").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_the_server_of_every_connection() {
    let mut setup = Setup::on(On::Single);
    setup.config = "[log]\nlevel = \"info,lockstep=debug\"".into();
    let world = World::running_as(setup).await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    let log = world.lockstep.log();
    let (postgres, redis) = (world.postgres.port(), world.store.single().port());
    for (what, port) in [
        ("postgres{role=\"sql\" server=", postgres),
        ("postgres{role=\"walsender\" server=", postgres),
        ("postgres{role=\"tripwire\" server=", postgres),
        ("redis{role=\"commands\" server=", redis),
        ("redis{role=\"tracking\" server=", redis),
    ] {
        for event in ["connected", "closed"] {
            let span = format!("{what}127.0.0.1:{port}}}");
            let told = log.lines().any(|line| line.contains(&span) && line.contains(event));
            assert!(told, "{span} {event} is not in: {log}");
        }
    }
}

/// Texts that stand in rows and configurations of this test and nowhere else.
const ROW_DATA: [&str; 8] = [
    "ann@example.com",
    "31337.5",
    "41414.5",
    "argon2-secret",
    "PASSWORD-of-redis",
    "evil",
    "user-4711",
    "an-operators-token",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_log_holds_no_row_data() {
    let schema = include_str!("../harness/schema.sql");
    let mut setup = Setup::on(On::Single);
    setup.schema = Some(
        schema.replace("id                  int", "id text").replace("user_id        int", "user_id text"),
    );
    setup.redis.password = Some("PASSWORD-of-redis".into());
    let world = World::running_as(setup).await;
    let insert = "INSERT INTO users (id, user_type, email, password_hash, wallet_balance)";
    let row = |id: &str, balance: &str| {
        format!("{insert} VALUES ('{id}', 'live', 'ann@example.com', 'argon2-secret', {balance});")
    };
    world.sql(&(row("user-4711", "31337.5") + &row("{evil}", "31337.5") + &row("evil-too", "'NaN'"))).await;
    world.sql("UPDATE users SET wallet_balance = 'NaN' WHERE id = 'user-4711'").await;
    world.sql("UPDATE users SET wallet_balance = 41414.5, leverage = 5 WHERE id <> 'evil-too'").await;
    world.store.call("", &["SET", "user:{live:user-4711}:portfolio", "31337.5"]).await;
    world.sql("UPDATE users SET wallet_balance = 31337.5, email = 'ann@example.com' || chr(10) WHERE id <> 'evil-too'").await;
    world
        .sql(
            "INSERT INTO user_transactions (transaction_id, user_id, user_type, type, amount, status, user_email) \
             VALUES ('evil-row', 'user-4711', 'live', 'deposit', 'NaN', 'completed', 'ann@example.com')",
        )
        .await;
    world.caught_up().await;
    let said = "cannot be written";
    eventually("the user was read again", async || world.lockstep.log().contains(said).then_some(())).await;
    // An outage of each side.
    world.store.single().restart().await;
    world.sql("UPDATE users SET wallet_balance = 41414.5 WHERE id <> 'evil-too'").await;
    world.caught_up().await;
    world.postgres.stop(Mode::Fast).await;
    let body = eventually("the outage is told", async || {
        let (status, body) = world.lockstep.http("GET", "/readyz").await.ok()?;
        (status == 503 && body.contains("postgres")).then_some(body)
    })
    .await;
    let log = world.lockstep.log();
    assert!(log.contains("touches no key") && log.contains("could not be applied as written"), "{log}");
    for said in [&log, &body] {
        let found: Vec<&str> = ROW_DATA.into_iter().filter(|text| said.contains(text)).collect();
        assert_eq!(found, [] as [&str; 0], "in: {said}");
    }
}
