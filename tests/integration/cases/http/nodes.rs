//! Whether Redis works, and how many keys its masters hold.

use serde_json::{Value, json};

use super::{Answer, CLUSTER_INFO, STATUS, ask, get};
use crate::harness::subscriber::lsn;
use crate::harness::{On, Setup, Store, World, eventually, oracle::is_iso_utc};

on_both!(a_working_redis_is_healthy_and_the_stream_is_told, keys_are_counted_on_each_master,);

async fn a_working_redis_is_healthy_and_the_stream_is_told(on: On) {
    let world = World::running(on).await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    // No token: it shows no data.
    let (status, body) = world.lockstep.http_with("GET", STATUS, "").await.unwrap();
    let answer = Answer::read(status, &body);
    let data = answer.data();
    assert_eq!(status, 200, "{}", answer.json);
    assert_eq!((&data["status"], &data["redis_connected"]), (&json!("healthy"), &json!(true)));
    assert_eq!(data["cache_operations"], "working");
    assert!(is_iso_utc(data["timestamp"].as_str().unwrap()), "{data}");
    let replication = &data["replication"];
    assert_eq!((&replication["state"], &replication["ready"]), (&json!("streaming"), &json!(true)), "{data}");
    assert!(replication["lag_seconds"].is_number() && replication["lag_bytes"].is_number(), "{data}");
    assert!(lsn(replication["applied_lsn"].as_str().unwrap()).is_some_and(|lsn| lsn > 0), "{data}");
    // It left nothing but keys that go by themselves, one a master.
    let probes = world.store.keys("lockstep:probe:*").await;
    assert_eq!(probes.len(), world.store.masters().await.len(), "{probes:?}");
    for probe in probes {
        assert!((0..=10).contains(&world.store.ttl(&probe).await), "{probe}");
    }
    let standby = world.standby().await;
    let answer = ask(&standby, "GET", STATUS).await;
    assert_eq!((answer.status, &answer.data()["replication"]["state"]), (200, &json!("standby")));
}

/// Waits until `/status` says this of connection and operations.
async fn eventually_says(world: &World, connected: bool, operations: &str) -> Answer {
    eventually(&format!("status says {connected} and {operations}"), async || {
        let answer = get(world, STATUS).await;
        let says = |name: &str, value: Value| answer.data()[name] == value;
        (says("redis_connected", connected.into()) && says("cache_operations", operations.into()))
            .then_some(answer)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_not_read_or_written_is_unhealthy() {
    let world = World::running(On::Single).await;
    let redis = world.store.single();
    assert_eq!(get(&world, STATUS).await.status, 200);
    redis.call(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let full = eventually_says(&world, true, "failing").await;
    assert_eq!((full.status, &full.data()["status"]), (503, &json!("unhealthy")));
    assert!(full.message().contains("out of memory"), "{}", full.json);
    redis.call(&["CONFIG", "SET", "maxmemory", "0"]).await;
    eventually_says(&world, true, "working").await;
    redis.pause();
    let silent = eventually_says(&world, false, "failing").await;
    assert_eq!(silent.status, 503);
    assert!(silent.message().contains("did not answer in time"), "{}", silent.json);
    redis.resume();
    eventually_says(&world, true, "working").await;
    redis.kill9();
    assert_eq!(eventually_says(&world, false, "failing").await.status, 503);
    redis.start_again().await;
    assert_eq!(eventually_says(&world, true, "working").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_master_that_is_away_makes_a_cluster_unhealthy() {
    let mut setup = Setup::on(On::Cluster);
    setup.redis.config = vec!["cluster-require-full-coverage no".into()];
    let world = World::running_as(setup).await;
    let cluster = world.store.cluster();
    let away = cluster.masters().await[0];
    let both = [away, cluster.replica_of(away).await];
    both.iter().for_each(|node| cluster.node(*node).pause());
    eventually_says(&world, false, "failing").await;
    let info = get(&world, CLUSTER_INFO).await;
    let nodes = info.data()["nodes"].as_array().unwrap();
    let unreachable = nodes.iter().filter(|node| node["status"] == "unreachable").count();
    assert_eq!((unreachable, nodes.len(), &info.data()["complete"]), (1, 3, &json!(false)), "{}", info.json);
    both.iter().for_each(|node| cluster.node(*node).resume());
    eventually_says(&world, true, "working").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn before_redis_was_reached_it_is_said_so() {
    let world = World::set_up(Setup::on(On::Single)).await;
    world.lockstep.init().await;
    world.store.single().kill9();
    world.lockstep.spawn(&["run"]);
    let answer = eventually("it answers", async || {
        let (status, body) = world.lockstep.http("GET", STATUS).await.ok()?;
        Some(Answer::read(status, &body))
    })
    .await;
    assert_eq!((answer.status, &answer.data()["redis_connected"]), (503, &json!(false)), "{}", answer.json);
    for path in [CLUSTER_INFO.to_owned(), super::consistency(7)] {
        let answer = get(&world, &path).await;
        assert_eq!(answer.status, 503, "{}", answer.json);
        assert!(answer.message().contains("redis was not reached"), "{}", answer.json);
    }
}

async fn keys_are_counted_on_each_master(on: On) {
    let world = World::running(on).await;
    world.sql("INSERT INTO users (id, user_type, wallet_balance) SELECT n, 'live', n FROM generate_series(1, 2500) n").await;
    world.caught_up().await;
    world.store.call("user_balance:live:1", &["DEL", "user_balance:live:1"]).await;
    world.store.set("user_sessions:live:1", "none of ours").await;
    world.store.hset("user:{live:1}:portfolio", "wallet_balance", "1").await;
    let info = get(&world, CLUSTER_INFO).await;
    assert_eq!(info.status, 200, "{}", info.json);
    let data = info.data();
    assert_eq!(
        (&data["user_config_keys"], &data["balance_cache_keys"]),
        (&json!(2500), &json!(2499)),
        "{data}"
    );
    assert_eq!((&data["total_keys"], &data["complete"]), (&json!(4999), &json!(true)));
    let nodes = data["nodes"].as_array().unwrap();
    let masters = world.store.masters().await;
    assert_eq!(nodes.len(), masters.len());
    for node in nodes {
        assert_eq!((&node["status"], &node["host"]), (&json!("connected"), &json!("127.0.0.1")));
        assert!(masters.iter().any(|master| node["port"] == master.port()), "{node}");
        let count = |name: &str| node[name].as_u64().unwrap();
        assert_eq!(count("keys"), count("user_configs") + count("balance_caches"));
        assert!(count("user_configs") > 500, "{node}");
    }
    // It is not counted again for whoever asks at once.
    if let Store::Single(redis) = &world.store {
        let scans = || {
            redis
                .cli(&["INFO", "commandstats"])
                .lines()
                .find(|line| line.contains("cmdstat_scan:"))
                .map(str::to_owned)
        };
        let before = scans();
        for _ in 0..5 {
            assert_eq!(get(&world, CLUSTER_INFO).await.json, info.json);
        }
        assert_eq!(scans(), before);
    }
}
