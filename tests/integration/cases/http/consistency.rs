//! One user, the database and Redis side by side.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{UNHEALED, Walsender, a_row_is_held, compared, consistency, get, states};
use crate::cases::config_of;
use crate::harness::workload::Workload;
use crate::harness::{On, Setup, World, eventually};

on_both!(
    a_user_as_the_database_has_it_is_consistent,
    a_foreign_value_is_told_with_the_exact_difference,
    an_older_value_is_stale_since_a_position,
    what_has_expired_is_absent_and_what_was_deleted_is_told,
    what_the_stream_has_not_reached_is_in_flight,
    under_running_writers_nothing_is_called_wrong,
    a_user_who_is_gone_is_no_user_and_his_keys_are_counted,
);

async fn unhealed(on: On) -> World {
    let world = World::running_as(Setup { config: UNHEALED.to_owned(), ..Setup::on(on) }).await;
    world.user("live", 7, "100.5").await;
    world.caught_up().await;
    world
}

async fn a_user_as_the_database_has_it_is_consistent(on: On) {
    let world = World::running(on).await;
    world.user("live", 7, "100.5").await;
    world.credit(7, "10000").await;
    world.sql("UPDATE users SET account_number = '0010', margin = 1.250000 WHERE id = 7").await;
    world.caught_up().await;
    let report = compared(&world, 7).await;
    let mut account = json!({
        "wallet_balance": 10100.5, "leverage": 100, "margin": 1.25, "account_number": "0010",
        "group": "standard", "status": "active", "is_active": 1,
    });
    assert_eq!(report["database"], account);
    let hash = world.store.hash(&config_of("live:7")).await;
    account["last_updated"] = Value::String(hash["last_updated"].clone());
    assert_eq!(report["redis_config"], account);
    assert_eq!(report["redis_balance_cache"]["wallet_balance"], 10100.5);
    assert!((1..=3600).contains(&report["redis_balance_cache"]["ttl"].as_i64().unwrap()), "{report}");
    let check = json!({ "balance_matches": true, "cache_matches": true, "all_consistent": true });
    assert_eq!(report["consistency_check"], check);
    assert_eq!((&report["user_id"], &report["user_type"]), (&json!("7"), &json!("live")));
    assert_eq!((&report["is_consistent"], &report["in_flight"]), (&json!(true), &json!(false)));
    assert_eq!(report["differences"], json!([]));
    assert_eq!(report["fence"]["deleted"], false);
    let keys = report["keys"].as_array().unwrap();
    let (mut fields, mut equal) = (0, 0);
    for key in keys {
        let of_key = key["fields"].as_array().unwrap();
        fields += of_key.len();
        equal += of_key.iter().filter(|field| field["state"] == "equal").count();
    }
    assert_eq!(equal, fields, "{report}");
    assert!(fields > 20, "every mapped column: {report}");
    // Another type and another notation of the same number.
    assert_eq!(get(&world, &format!("{}?userType=live", consistency(7))).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_are_compared_as_numbers_and_texts_as_texts() {
    let world = unhealed(On::Single).await;
    world.sql("UPDATE users SET account_number = '100', created_at = '2020-01-01' WHERE id = 7").await;
    world.caught_up().await;
    let config = config_of("live:7");
    for (field, same) in [("balance", "100.500"), ("wallet_balance", "1005e-1"), ("leverage", "100.0")] {
        world.store.hset(&config, field, same).await;
    }
    world.store.hset(&config, "created_at", "another time").await;
    world.store.hset(&config, "a_field_of_others", "stays").await;
    world.store.set("user_balance:live:7", "100.50").await;
    let report = compared(&world, 7).await;
    assert_eq!(report["is_consistent"], true, "{report}");
    assert_eq!(report["redis_config"]["wallet_balance"], 100.5);
    world.store.hset(&config, "account_number", "100.0").await;
    assert_eq!(states(&compared(&world, 7).await), ["account_number:foreign"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_amount_that_a_double_does_not_carry_is_shown_as_text() {
    let schema = include_str!("../../harness/schema.sql").replace("numeric(18,6)", "numeric");
    let setup = Setup { schema: Some(schema), config: UNHEALED.to_owned(), ..Setup::on(On::Single) };
    let world = World::running_as(setup).await;
    world.user("live", 7, "123456789012345678901234567890.5").await;
    world.caught_up().await;
    let report = compared(&world, 7).await;
    assert_eq!(report["database"]["wallet_balance"], "123456789012345678901234567890.5");
    world.store.set("user_balance:live:7", "123456789012345678901234567890.4").await;
    let report = compared(&world, 7).await;
    assert_eq!(report["differences"][0]["difference"], "-0.1", "{report}");
}

async fn a_foreign_value_is_told_with_the_exact_difference(on: On) {
    let world = unhealed(on).await;
    world.store.set("user_balance:live:7", "100.4").await;
    world.store.hset(&config_of("live:7"), "group", "VIP").await;
    let report = compared(&world, 7).await;
    assert_eq!(report["is_consistent"], false);
    let check = json!({ "balance_matches": true, "cache_matches": false, "all_consistent": false });
    assert_eq!(report["consistency_check"], check);
    let mut differences = report["differences"].as_array().unwrap().clone();
    differences.sort_by_key(|difference| difference["key"].to_string());
    let group = json!({
        "key": "user:{live:7}:config", "field": "group", "state": "foreign", "database": "standard",
        "redis": "VIP", "difference": null, "since": null,
    });
    let balance = json!({
        "key": "user_balance:live:7", "field": null, "state": "foreign", "database": "100.5", "redis": "100.4",
        "difference": "-0.1", "since": null,
    });
    assert_eq!(differences, [group, balance]);
    assert_eq!(report["redis_config"]["group"], "VIP");
}

/// The publication lost the table: what changes is in the database alone.
async fn an_older_value_is_stale_since_a_position(on: On) {
    let world = unhealed(on).await;
    let before = compared(&world, 7).await;
    world.sql("ALTER PUBLICATION lockstep DROP TABLE users").await;
    world.sql("UPDATE users SET wallet_balance = 110.75, leverage = 500 WHERE id = 7").await;
    world.caught_up().await;
    let report = compared(&world, 7).await;
    let mut told = states(&report);
    told.sort();
    assert_eq!(told, ["-:stale", "balance:stale", "leverage:stale", "wallet_balance:stale"], "{report}");
    for difference in report["differences"].as_array().unwrap() {
        assert_eq!(difference["since"], before["fence"]["lsn"], "{difference}");
        let by = if difference["field"] == "leverage" { "-400" } else { "-10.25" };
        assert_eq!(difference["difference"], by, "{difference}");
    }
    assert_eq!((&report["is_consistent"], &report["in_flight"]), (&json!(false), &json!(false)));
}

async fn what_has_expired_is_absent_and_what_was_deleted_is_told(on: On) {
    let world = unhealed(on).await;
    world.store.call("user_balance:live:7", &["DEL", "user_balance:live:7"]).await;
    let report = compared(&world, 7).await;
    assert_eq!(report["is_consistent"], true, "{report}");
    assert_eq!(
        (states(&report), &report["redis_balance_cache"]),
        (vec!["-:absent".to_owned()], &Value::Null)
    );
    let config = config_of("live:7");
    world.store.call(&config, &["HDEL", &config, "leverage"]).await;
    assert_eq!(states(&compared(&world, 7).await), ["leverage:foreign", "-:absent"]);
    world.store.call(&config, &["DEL", &config]).await;
    let report = compared(&world, 7).await;
    assert_eq!(states(&report), ["-:absent", "-:absent"]);
    assert_eq!((&report["is_consistent"], &report["redis_config"]), (&json!(false), &Value::Null));
    // A portfolio is only written where it exists, and a list is none.
    world.store.call("user:{live:7}:portfolio", &["RPUSH", "user:{live:7}:portfolio", "x"]).await;
    let told = states(&compared(&world, 7).await);
    assert!(told.contains(&"wallet_balance:foreign".to_owned()), "{told:?}");
}

async fn what_the_stream_has_not_reached_is_in_flight(on: On) {
    let world = unhealed(on).await;
    let walsender = Walsender::freeze(&world).await;
    world.sql("UPDATE users SET wallet_balance = 200 WHERE id = 7").await;
    let asked = Instant::now();
    let answer = get(&world, &consistency(7)).await;
    assert!(asked.elapsed() >= Duration::from_secs(1), "it waits before it says anything");
    let report = answer.data();
    assert_eq!((&report["in_flight"], &report["is_consistent"]), (&json!(true), &json!(false)), "{report}");
    assert!(answer.message().contains("on its way"), "{}", answer.json);
    let mut told = states(report);
    told.sort();
    assert_eq!(told, ["-:in_flight", "balance:in_flight", "wallet_balance:in_flight"]);
    assert_eq!(report["database"]["wallet_balance"], 200);
    assert_eq!(report["redis_config"]["wallet_balance"], 100.5);
    // A new user, of whom Redis has nothing yet.
    world.user("live", 8, "1").await;
    assert_eq!(states(&compared(&world, 8).await), ["-:in_flight", "-:absent"]);
    drop(walsender);
    world.caught_up().await;
    assert_eq!(compared(&world, 7).await["is_consistent"], true);
    assert_eq!(compared(&world, 8).await["is_consistent"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_stream_reaches_meanwhile_is_consistent() {
    let world = unhealed(On::Single).await;
    let walsender = Walsender::freeze(&world).await;
    world.sql("UPDATE users SET wallet_balance = 200 WHERE id = 7").await;
    let wake = async {
        a_row_is_held(&world).await;
        drop(walsender);
    };
    let (report, ()) = tokio::join!(compared(&world, 7), wake);
    assert_eq!((&report["is_consistent"], &report["in_flight"]), (&json!(true), &json!(false)), "{report}");
    assert_eq!(report["redis_config"]["wallet_balance"], 200);
}

async fn under_running_writers_nothing_is_called_wrong(on: On) {
    const USERS: u32 = 5;
    let world = World::set_up(Setup { config: UNHEALED.to_owned(), ..Setup::on(on) }).await;
    super::asked_often(&world);
    world.lockstep.init().await;
    world.lockstep.run().await;
    for id in 1..=USERS {
        world.user("live", id, "1000").await;
    }
    world.caught_up().await;
    let workload = Workload::start(&world.postgres, 2, 1, USERS).await;
    let (mut consistent, mut in_flight) = (0, 0);
    let (before, goal) = (workload.commits(), 600);
    while workload.commits() < before + goal {
        for id in 1..=USERS {
            let report = compared(&world, id).await;
            let wrong: Vec<String> =
                states(&report).into_iter().filter(|state| !state.ends_with(":in_flight")).collect();
            assert_eq!(wrong, [] as [&str; 0], "{report}");
            in_flight += u32::from(report["in_flight"] == true);
            consistent += u32::from(report["is_consistent"] == true);
        }
    }
    workload.stop().await;
    assert!(consistent > 10 * in_flight, "{consistent} answers are consistent, {in_flight} in flight");
    world.caught_up().await;
    for id in 1..=USERS {
        assert_eq!(compared(&world, id).await["is_consistent"], true);
    }
}

async fn a_user_who_is_gone_is_no_user_and_his_keys_are_counted(on: On) {
    let world = unhealed(on).await;
    let nobody = get(&world, &consistency(8)).await;
    assert_eq!((nobody.status, nobody.message()), (404, "the database holds no such user"));
    let other_type = get(&world, &format!("{}?userType=demo", consistency(7))).await;
    assert_eq!(other_type.status, 404, "{}", other_type.json);
    world.store.set("user_balance:live:8", "5").await;
    world.store.set("user_stats:live:8", "5").await;
    let left = get(&world, &consistency(8)).await;
    assert_eq!((left.status, &left.data()["remaining_keys"]), (404, &json!(2)), "{}", left.json);
    assert!(left.message().contains("keys remain in redis: run \"lockstep resync"), "{}", left.json);
    world.sql("DELETE FROM users WHERE id = 7").await;
    let gone = get(&world, &consistency(7)).await;
    assert_eq!((gone.status, gone.message()), (404, "the database holds no such user"), "no keys are left");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_map_of_ones_own_are_all_told() {
    const KEYS: &str = "[[keys]]\nhash = 'account:{$type:$id}'\nfields = { money = '$balance' }\n";
    let config = format!("{UNHEALED}{KEYS}");
    let world = World::running_as(Setup { config, ..Setup::on(On::Single) }).await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    world.store.hset("account:{live:7}", "money", "90").await;
    let report = compared(&world, 7).await;
    assert_eq!((&report["redis_config"], &report["redis_balance_cache"]), (&Value::Null, &Value::Null));
    assert_eq!(report["keys"][0]["key"], "account:{live:7}");
    assert_eq!(states(&report), ["money:foreign"]);
    assert_eq!(report["differences"][0]["difference"], "-10");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_whose_row_never_reaches_a_key_is_consistent_without_keys() {
    let world = unhealed(On::Single).await;
    world.sql("UPDATE users SET wallet_balance = 'NaN' WHERE id = 7").await;
    let gone = async || (!world.store.exists(&config_of("live:7")).await).then_some(());
    eventually("the keys are deleted", gone).await;
    world.caught_up().await;
    let report = compared(&world, 7).await;
    assert_eq!((&report["is_consistent"], &report["redis_config"]), (&json!(true), &Value::Null), "{report}");
    assert_eq!(report["database"]["wallet_balance"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_several_tables_are_found_by_their_type() {
    let schema = "CREATE TABLE live_users (id int PRIMARY KEY, wallet_balance numeric(18,6));
        CREATE TABLE demo_users (id uuid PRIMARY KEY, wallet_balance numeric(18,6));";
    let table =
        |name: &str, of: &str| format!("[[tables]]\nname = '{name}'\nkind = 'users'\nuser_type = '{of}'\n");
    let config = format!("{UNHEALED}{}{}", table("live_users", "live"), table("demo_users", "demo"));
    let setup = Setup { schema: Some(schema.to_owned()), config, ..Setup::on(On::Single) };
    let world = World::running_as(setup).await;
    let uuid = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    world
        .sql(&format!("INSERT INTO live_users VALUES (7, 1); INSERT INTO demo_users VALUES ('{uuid}', 2)"))
        .await;
    world.caught_up().await;
    assert_eq!(compared(&world, 7).await["database"]["wallet_balance"], 1);
    let demo = |id: &str| format!("{}?userType=demo", consistency(id));
    assert_eq!(get(&world, &demo(uuid)).await.data()["database"]["wallet_balance"], 2);
    assert_eq!(get(&world, &demo("7")).await.status, 400, "no uuid");
    assert_eq!(get(&world, &consistency(uuid)).await.status, 400, "no number");
    let unknown = get(&world, &format!("{}?userType=real", consistency(7))).await;
    assert_eq!(unknown.status, 400);
    assert!(unknown.message().contains("say one of live, demo"), "{}", unknown.json);
}
