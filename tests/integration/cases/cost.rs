//! What an event costs Redis does not depend on what else Redis holds.

use std::collections::BTreeMap;

use crate::harness::{On, Setup, World};

const USERS: u32 = 200;
const ROUNDS: u32 = 10;

/// What the script asks for every event. Others gather many events (EVALSHA, MGET, MSET, UNLINK), or are
/// what checkpoints are made of too (GET, SET).
const OF_EVERY_EVENT: [&str; 3] = ["hset", "exists", "publish"];

#[tokio::test(flavor = "multi_thread")]
async fn deleting_by_pattern_looks_through_no_keyspace() {
    let few = commands_of_the_rounds(1_000).await;
    let many = commands_of_the_rounds(1_000_000).await;
    for commands in [&few, &many] {
        assert_eq!((commands.get("scan"), commands.get("keys")), (None, None), "{commands:?}");
        let events = u64::from(USERS * ROUNDS);
        assert!(commands["unlink"] <= events, "derived keys of an event leave together: {commands:?}");
    }
    for command in OF_EVERY_EVENT {
        assert_eq!(few[command], many[command], "{command}");
    }
}

/// The commands that Redis ran while every user changed some times, beside so many keys of others.
async fn commands_of_the_rounds(others: u32) -> BTreeMap<String, u64> {
    let world = World::set_up(Setup::on(On::Single)).await;
    let insert =
        "INSERT INTO users (id, user_type, wallet_balance) SELECT n, 'live', 10 FROM generate_series(1, ";
    world.sql(&format!("{insert}{USERS}) n")).await;
    let redis = world.store.single();
    let fill = "for i = ARGV[1], ARGV[1] + 9999 do redis.call('SET', 'other:' .. i, 'x') end";
    for first in (0..others).step_by(10_000) {
        let first = (first + 1).to_string();
        redis.call(&["EVAL", fill, "0", &first]).await;
    }
    let derived = |round: u32| format!("financial_summary:live:{}:{round}", round + 1);
    for round in 0..ROUNDS {
        world.store.set(&derived(round), "older than the start").await;
    }
    world.lockstep.init().await;
    world.lockstep.run().await;
    world.caught_up().await;
    redis.call(&["CONFIG", "RESETSTAT"]).await;
    for _ in 0..ROUNDS {
        world.sql("UPDATE users SET wallet_balance = wallet_balance + 1").await;
        // Of several events of one user that wait together the keys are written once.
        world.caught_up().await;
    }
    let statistics = redis.call(&["INFO", "commandstats"]).await.text().unwrap();
    for round in 0..ROUNDS {
        assert!(!world.store.exists(&derived(round)).await, "{}", derived(round));
    }
    calls(&statistics)
}

/// Calls by command, of the lines `cmdstat_get:calls=21,usec=175,...`.
fn calls(statistics: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let (command, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let (calls, _) = rest.split_once(',')?;
        Some((command.to_owned(), calls.parse().ok()?))
    };
    statistics.lines().filter_map(line).collect()
}
