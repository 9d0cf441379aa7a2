//! The harness is tested too: a test that passes for want of a server proves nothing.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn postgres_survives_a_crash_and_says_how_long_it_stops() {
    let postgres = Postgres::start(PostgresOptions::default().set("work_mem", "5MB")).await;
    postgres.sql("CREATE TABLE t (n int); INSERT INTO t VALUES (7)").await;
    assert_eq!(postgres.value("SHOW wal_level").await.as_deref(), Some("logical"));
    assert_eq!(postgres.value("SHOW work_mem").await.as_deref(), Some("5MB"));
    postgres.kill9();
    postgres.start_again().await;
    assert_eq!(postgres.value("SELECT n FROM t").await.as_deref(), Some("7"));
    assert!(postgres.stop(Mode::Fast).await < PATIENCE);
    postgres.start_again().await;
    assert_eq!(postgres.rows("SELECT 1, NULL").await, [[Some("1".to_owned()), None]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_speaks_tls_and_asks_for_a_password() {
    let options = RedisOptions { tls: true, password: Some("secret".into()), ..RedisOptions::default() };
    let redis = Redis::start(options).await;
    redis.call(&["HSET", "h", "a", "1", "b", "2"]).await;
    assert_eq!(redis.hash("h").await.len(), 2);
    assert_eq!(redis.cli(&["HGET", "h", "b"]).trim(), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_keeps_an_append_only_file_over_kill_9() {
    let redis = Redis::start(RedisOptions { append_only: true, ..RedisOptions::default() }).await;
    redis.call(&["SET", "k", "v"]).await;
    redis.kill9();
    redis.start_again().await;
    assert_eq!(redis.get("k").await.as_deref(), Some("v"));
    redis.call(&["CONFIG", "SET", "appendonly", "no"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_moves_slots_and_fails_over() {
    let cluster = Cluster::start().await;
    let key = "user:{live:7}:config";
    assert_eq!(
        cluster.node(0).call(&["CLUSTER", "KEYSLOT", key]).await,
        Reply::Integer(resp::slot_of(key).into())
    );
    cluster.call(key, &["SET", key, "v"]).await;
    let from = cluster.master_of(key).await;
    let to = cluster.masters().await.into_iter().find(|n| *n != from).unwrap();
    cluster.move_slot(resp::slot_of(key), to).await;
    assert_eq!(cluster.master_of(key).await, to);
    let successor = cluster.failover(to).await;
    cluster.eventually_whole().await;
    assert_eq!(cluster.master_of(key).await, successor);
    assert_eq!(cluster.get(key).await.as_deref(), Some("v"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_whole_where_a_node_comes_back_with_keys_of_a_slot_that_it_gave_away() {
    let cluster = Cluster::start().await;
    let key = "user:{live:7}:config";
    cluster.call(key, &["SET", key, "old"]).await;
    let from = cluster.master_of(key).await;
    cluster.node(from).call(&["SAVE"]).await;
    let to = cluster.masters().await.into_iter().find(|n| *n != from).unwrap();
    cluster.move_slot(resp::slot_of(key), to).await;
    cluster.call(key, &["SET", key, "new"]).await;
    cluster.eventually_whole().await;
    cluster.node(from).kill9();
    cluster.node(from).start_again().await;
    cluster.eventually_whole().await;
    assert_eq!(cluster.get(key).await.as_deref(), Some("new"));
    let slot = resp::slot_of(key).to_string();
    assert_eq!(cluster.node(from).call(&["CLUSTER", "COUNTKEYSINSLOT", &slot]).await, Reply::Integer(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_offers_tls() {
    let postgres = Postgres::start(PostgresOptions { tls: true, ..PostgresOptions::default() }).await;
    assert_eq!(postgres.value("SHOW ssl").await.as_deref(), Some("on"));
    assert!(postgres.certificates().authority.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oracle_finds_every_kind_of_difference() {
    let world = World::set_up(Setup::on(On::Single)).await;
    world.user("live", 7, "100.500000").await;
    world.sql("UPDATE users SET created_at = '2026-01-15 10:30:00.123456', updated_at = NULL").await;
    let (config, balance) = ("user:{live:7}:config", "user_balance:live:7");
    let fields = "id 7 user_type live email live7@example.com wallet_balance 100.5 balance 100.5 leverage 100 \
        margin 0 net_profit 0 group standard status active is_active 1 created_at 2026-01-15T10:30:00.123Z \
        last_balance_update 2026-01-15T10:30:00.000Z last_updated 2026-01-15T10:30:00.000Z last_seen now";
    let mut write = vec!["HSET", config];
    write.extend(fields.split_whitespace());
    let redis = world.store.single();
    redis.call(&write).await;
    redis.call(&["SET", balance, "100.5", "EX", "3600"]).await;
    world.assert_equal().await;

    let faults: [(&[&str], &[&str]); 8] = [
        (&["HSET", config, "leverage", "500"], &["HSET", config, "leverage", "100"]),
        (&["HSET", config, "mam_id", "1"], &["HDEL", config, "mam_id"]),
        (&["HSET", config, "password_hash", "x"], &["HDEL", config, "password_hash"]),
        (&["PERSIST", balance], &["EXPIRE", balance, "3600"]),
        (&["SET", "user_balance:live:8", "1"], &["DEL", "user_balance:live:8"]),
        (&["HSET", "user:{live:7}:portfolio", "wallet_balance", "1"], &["DEL", "user:{live:7}:portfolio"]),
        (&["SET", "financial_summary:live:7:day", "1"], &["DEL", "financial_summary:live:7:day"]),
        (&["HSET", "user:live:7:config", "balance", "1"], &["DEL", "user:live:7:config"]),
    ];
    for (plant, remove) in faults {
        redis.call(plant).await;
        assert!(!world.differences().await.is_empty(), "not seen: {plant:?}");
        redis.call(remove).await;
        world.assert_equal().await;
    }
    world.sql("UPDATE users SET wallet_balance = 'NaN'").await;
    assert!(!world.differences().await.is_empty(), "a user with NaN has no keys");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_keeps_what_it_hears_in_order() {
    let redis = Redis::start(RedisOptions::default()).await;
    let subscriber = Subscriber::start(&redis).await;
    for n in 1..=3 {
        let event = format!(r#"{{"user_id":7,"user_type":"live","event_id":"e{n}","commit_lsn":"0/{n}"}}"#);
        redis.call(&["PUBLISH", subscriber::BALANCE_UPDATES, &event]).await;
    }
    let heard = subscriber.wait_for(subscriber::BALANCE_UPDATES, "live:7", 3).await;
    assert_eq!(heard.iter().map(|h| h.commit_lsn()).collect::<Vec<_>>(), [1, 2, 3]);
    subscriber.assert_each_once();
    subscriber.assert_commit_order();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_is_slow_cut_silent_and_open_again() {
    use std::time::Instant;
    let redis = Redis::start(RedisOptions::default()).await;
    let proxy = Proxy::start(redis.port()).await;
    let dial = async || Resp::new(tokio::net::TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap());
    let mut line = dial().await;
    line.call(&["PING"]).await.unwrap();
    for (slow, least) in [
        (Line::Delayed(Duration::from_millis(50)), Duration::from_millis(100)),
        (Line::Throttled(100), Duration::from_millis(100)),
    ] {
        proxy.set(slow);
        let since = Instant::now();
        line.call(&["PING"]).await.unwrap();
        assert!(since.elapsed() >= least, "{slow:?} {:?}", since.elapsed());
    }
    proxy.set(Line::Silent);
    let asking = line.call(&["PING"]);
    proxy.set(Line::Open);
    asking.await.unwrap();
    proxy.set(Line::Cut);
    assert!(line.call(&["PING"]).await.is_err());
    assert!(dial().await.call(&["PING"]).await.is_err());
    proxy.set(Line::Open);
    dial().await.call(&["PING"]).await.unwrap();
}
