//! Redis is away, in every way there is: meanwhile the database hears from the stream, fails nothing and can be
//! stopped, memory is bounded and `/readyz` says why; afterwards Redis catches up.

use std::time::{Duration, Instant};

use crate::harness::workload::Workload;
use crate::harness::{
    Line, Mode, On, PATIENCE, Proxy, Redis, RedisOptions, Setup, Subscriber, World, eventually, eventually_ok,
};

const USERS: u32 = 5_000;
/// What a run may hold in memory, however much waits.
const MEMORY_BOUND_BYTES: u64 = 64 << 20;
/// A walsender that waits for an answer holds up a shutdown for at least 6 s.
const AT_ONCE: Duration = Duration::from_secs(5);
/// Longer than the stream's `wal_sender_timeout` of 6 s.
const LONGER_THAN_THE_TIMEOUT: &str = "8 s";

/// A world whose Redis is reached through a line, with all users loaded.
async fn world_behind_a_proxy() -> (World, Proxy, Subscriber) {
    let mut setup = Setup::on(On::Single);
    setup.config = "[stream]\nready_lag = \"1s\"".into();
    // What it has acknowledged it still holds after a restart.
    setup.redis.append_only = true;
    setup.redis.config =
        vec!["appendfsync always".into(), "loading-process-events-interval-bytes 1024".into()];
    let mut world = World::set_up(setup).await;
    let proxy = world.redis_through_a_proxy().await;
    let users = format!("SELECT n, 'live', 1000 FROM generate_series(1, {USERS}) n");
    world.sql(&format!("INSERT INTO users (id, user_type, wallet_balance) {users}")).await;
    world.lockstep.init().await;
    world.lockstep.run().await;
    world.caught_up().await;
    let subscriber = world.subscriber().await;
    (world, proxy, subscriber)
}

/// Commits go on, a flood of them too; for longer than its timeout the server hears from the same stream.
async fn the_database_notices_nothing(world: &World, not_ready_because: &str) {
    goes_on_with_a_flood_of(world, USERS, not_ready_because).await;
}

async fn goes_on_with_a_flood_of(world: &World, users: u32, not_ready_because: &str) {
    let stream = "SELECT pid FROM pg_stat_replication WHERE state = 'streaming'";
    let pid = world.postgres.value(stream).await.expect("a stream");
    let since = world.postgres.value("SELECT now()").await.expect("a time");
    let workload = Workload::start(&world.postgres, 1, 1, USERS).await;
    workload.progress(50).await;
    let flood = format!("UPDATE users SET wallet_balance = wallet_balance + 1 WHERE id <= {users}");
    world.sql(&flood).await;
    world.sql(&flood).await;
    world.lockstep.is_not_ready_because(not_ready_because).await;
    let heard = eventually_ok(async || {
        let query = format!(
            "SELECT pid, reply_time > timestamptz '{since}' + interval '{LONGER_THAN_THE_TIMEOUT}' \
             FROM pg_stat_replication WHERE state = 'streaming'"
        );
        let row = world.postgres.rows(&query).await.pop().ok_or("no stream")?;
        assert_eq!(row[0].as_ref(), Some(&pid), "the same stream");
        if row[1].as_deref() == Some("t") { Ok(()) } else { Err("not heard for long") }
    });
    heard.await.unwrap();
    workload.stop().await;
    let log = world.postgres.log();
    let is_error = |line: &&str| line.contains("ERROR:") || line.contains("FATAL:");
    // The harness knocks before the server is up.
    let errors: Vec<&str> = log.lines().filter(is_error).filter(|l| !l.contains("starting up")).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    is_bounded(world);
}

fn is_bounded(world: &World) {
    let peak = world.lockstep.peak_resident_bytes();
    assert!(peak < MEMORY_BOUND_BYTES, "{} MiB", peak >> 20);
}

async fn the_database_can_be_stopped(world: &World) {
    let took = world.postgres.stop(Mode::Fast).await;
    assert!(took < AT_ONCE, "{took:?}");
    world.postgres.start_again().await;
}

/// Nothing is missing, and nothing came twice.
async fn redis_catches_up(world: &World, subscriber: &Subscriber) {
    world.lockstep.wait_ready().await;
    world.caught_up().await;
    world.eventually_equal().await;
    world.heard_all(subscriber).await;
    subscriber.assert_each_once();
    subscriber.assert_commit_order();
    is_bounded(world);
}

/// The stream waits for the database then, and no flight finds out.
#[tokio::test(flavor = "multi_thread")]
async fn redis_is_missed_while_the_database_is_away_too() {
    let mut world = World::set_up(Setup::on(On::Single)).await;
    let (database, redis) = world.through_two_proxies().await;
    world.lockstep.init().await;
    world.lockstep.run().await;
    let metric = async |name: &str| world.lockstep.metric(&format!("lockstep_{name}")).await;
    let connected = async || metric("redis_connected").await;
    let before = metric("postgres_reconnects_total").await;
    database.set(Line::Cut);
    eventually("the database is missed", async || {
        (metric("postgres_reconnects_total").await > before + 1.0).then_some(())
    })
    .await;
    assert_eq!(connected().await, 1.0);
    redis.set(Line::Cut);
    eventually("redis is missed", async || (connected().await == 0.0).then_some(())).await;
    redis.set(Line::Open);
    eventually("redis is found again", async || (connected().await == 1.0).then_some(())).await;
    database.set(Line::Open);
    world.lockstep.wait_ready().await;
    world.sql("INSERT INTO users (id, user_type, wallet_balance) VALUES (7, 'live', 10)").await;
    world.caught_up().await;
    world.eventually_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_down() {
    let (world, proxy, subscriber) = world_behind_a_proxy().await;
    let redis = world.store.single();
    redis.stop().await;
    the_database_notices_nothing(&world, "redis").await;
    the_database_can_be_stopped(&world).await;
    // Nothing is published before somebody listens again.
    proxy.set(Line::Cut);
    redis.start_again().await;
    drop(subscriber);
    let subscriber = world.subscriber().await;
    proxy.set(Line::Open);
    redis_catches_up(&world, &subscriber).await;
}

/// An hour of a thousand a second, where `LOCKSTEP_TEST_BACKLOG=3600000` asks for it.
#[tokio::test(flavor = "multi_thread")]
async fn redis_is_unreachable_while_many_transactions_commit() {
    let asked = std::env::var("LOCKSTEP_TEST_BACKLOG").ok();
    let transactions: u32 = asked.map_or(20_000, |text| text.parse().expect("a number"));
    let (world, proxy, subscriber) = world_behind_a_proxy().await;
    // Whoever counts millions of events by hearing them needs more memory than all that is tested.
    drop(subscriber);
    let stream = "SELECT pid FROM pg_stat_replication WHERE state = 'streaming'";
    let pid = world.postgres.value(stream).await.expect("a stream");
    let before = events(&world).await;
    proxy.set(Line::Cut);
    let begun = Instant::now();
    world
        .sql(&format!(
            "CREATE PROCEDURE move_users(times int) LANGUAGE plpgsql AS $$ BEGIN
                PERFORM set_config('synchronous_commit', 'off', false);
                FOR i IN 1..times LOOP
                    UPDATE users SET wallet_balance = wallet_balance + 1 WHERE id = 1 + i % {USERS};
                    COMMIT;
                END LOOP;
            END $$"
        ))
        .await;
    world.sql(&format!("CALL move_users({transactions})")).await;
    let away = begun.elapsed();
    world.lockstep.is_not_ready_because("redis").await;
    assert_eq!(world.postgres.value(stream).await, Some(pid), "the same stream");
    proxy.set(Line::Open);
    let begun = Instant::now();
    world.caught_up_within(PATIENCE + Duration::from_millis(transactions.into())).await;
    let took = begun.elapsed();
    world.eventually_equal().await;
    assert_eq!(events(&world).await - before, f64::from(transactions), "each is an event, once");
    is_bounded(&world);
    let peak = world.lockstep.peak_resident_bytes() >> 20;
    println!("{transactions} transactions in {away:?}, caught up in {took:?}, {peak} MiB at most");
}

async fn events(world: &World) -> f64 {
    let all = world.lockstep.metrics().await.expect("metrics");
    all.iter().filter(|(name, _)| name.starts_with("lockstep_events_total{")).map(|(_, count)| count).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_unreachable() {
    let (world, proxy, subscriber) = world_behind_a_proxy().await;
    proxy.set(Line::Cut);
    the_database_notices_nothing(&world, "redis").await;
    the_database_can_be_stopped(&world).await;
    proxy.set(Line::Open);
    redis_catches_up(&world, &subscriber).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_accepts_and_never_answers() {
    let (world, proxy, subscriber) = world_behind_a_proxy().await;
    proxy.set(Line::Silent);
    the_database_notices_nothing(&world, "redis").await;
    the_database_can_be_stopped(&world).await;
    proxy.set(Line::Open);
    redis_catches_up(&world, &subscriber).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_out_of_memory() {
    let (world, _proxy, subscriber) = world_behind_a_proxy().await;
    world.store.call("", &["CONFIG", "SET", "maxmemory", "1"]).await;
    the_database_notices_nothing(&world, "out of memory").await;
    the_database_can_be_stopped(&world).await;
    world.store.call("", &["CONFIG", "SET", "maxmemory", "0"]).await;
    redis_catches_up(&world, &subscriber).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_read_only() {
    let (world, _proxy, subscriber) = world_behind_a_proxy().await;
    let (redis, other) = (world.store.single(), Redis::start(RedisOptions::default()).await);
    // It holds the same data, so that following it takes nothing away.
    other.follow(redis).await;
    other.call(&["REPLICAOF", "NO", "ONE"]).await;
    redis.follow(&other).await;
    the_database_notices_nothing(&world, "replica").await;
    the_database_can_be_stopped(&world).await;
    redis.call(&["REPLICAOF", "NO", "ONE"]).await;
    redis_catches_up(&world, &subscriber).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_loading() {
    let (world, _proxy, subscriber) = world_behind_a_proxy().await;
    let redis = world.store.single();
    redis.call(&["BGREWRITEAOF"]).await;
    eventually("the file is written", async || {
        redis.call(&["INFO"]).await.text()?.contains("aof_rewrite_in_progress:0").then_some(())
    })
    .await;
    // 5,000 users have 15,000 keys.
    redis.call(&["CONFIG", "SET", "key-load-delay", "1000"]).await;
    let mut loader = redis.client().await;
    let loaded = tokio::spawn(async move { loader.call(&["DEBUG", "LOADAOF"]).await });
    the_database_notices_nothing(&world, "loading").await;
    the_database_can_be_stopped(&world).await;
    loaded.await.unwrap().unwrap();
    redis_catches_up(&world, &subscriber).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_takes_50_ms_for_every_answer() {
    let (world, proxy, subscriber) = world_behind_a_proxy().await;
    proxy.set(Line::Delayed(Duration::from_millis(50)));
    goes_on_with_a_flood_of(&world, USERS / 2, "behind the database").await;
    the_database_can_be_stopped(&world).await;
    // Slow as it is, it catches up.
    world.credit(7, "1").await;
    redis_catches_up(&world, &subscriber).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_line_to_redis_is_narrow() {
    let (world, proxy, subscriber) = world_behind_a_proxy().await;
    proxy.set(Line::Throttled(400_000));
    goes_on_with_a_flood_of(&world, USERS, "behind the database").await;
    the_database_can_be_stopped(&world).await;
    proxy.set(Line::Open);
    redis_catches_up(&world, &subscriber).await;
}
