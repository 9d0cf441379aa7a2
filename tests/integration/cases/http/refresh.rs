//! All keys of a user written again because an operator asks for it.

use std::time::Instant;

use serde_json::{Value, json};

use super::{
    AT_ONCE, Answer, UNHEALED, Walsender, a_row_is_held, ask, asked_often, compared, force_refresh, get, post,
};
use crate::cases::config_of;
use crate::harness::subscriber::{BALANCE_UPDATES, USER_UPDATES, lsn};
use crate::harness::workload::{Growing, Workload};
use crate::harness::{Line, On, Setup, Witness, World, eventually};

on_both!(
    a_refresh_repairs_every_key_and_is_heard_once,
    a_refresh_beside_running_writers_moves_nothing_back,
    a_refresh_waits_for_the_stream,
    a_refresh_of_nobody_writes_nothing,
);

async fn world_with_a_user(on: On) -> World {
    let world = World::running_as(Setup { config: UNHEALED.to_owned(), ..Setup::on(on) }).await;
    world.user("live", 7, "100.5").await;
    world.caught_up().await;
    world
}

async fn a_refresh_repairs_every_key_and_is_heard_once(on: On) {
    let world = world_with_a_user(on).await;
    let config = config_of("live:7");
    let derived = [
        "user_margin_calc:live:7",
        "user_stats:live:7",
        "user:live:7:config",
        "financial_summary:live:7:week",
    ];
    for key in derived {
        world.store.set(key, "stale").await;
    }
    world.store.hset("user:{live:7}:portfolio", "wallet_balance", "1").await;
    world.store.hset(&config, "balance", "99").await;
    world.store.hset(&config, "of_another_writer", "stays").await;
    world.store.call("user_balance:live:7", &["DEL", "user_balance:live:7"]).await;
    let subscriber = world.subscriber().await;
    let answer = post(&world, &format!("{}?userType=live", force_refresh(7))).await;
    assert_eq!(answer.status, 200, "{}", answer.json);
    assert_eq!((&answer.data()["user_id"], &answer.data()["user_type"]), (&json!(7), &json!("live")));
    let fields = answer.data()["refreshed_fields"].as_array().unwrap();
    for field in ["id", "user_type", "wallet_balance", "balance", "leverage", "last_updated", "email"] {
        assert_eq!(fields.iter().filter(|known| *known == field).count(), 1, "{field}: {fields:?}");
    }
    assert!(answer.data()["keys"].as_array().unwrap().contains(&json!("user_balance:live:7")));
    // It is there as soon as it is answered.
    world.assert_equal().await;
    assert_eq!(world.store.get("user_balance:live:7").await.as_deref(), Some("100.5"));
    assert_eq!(world.store.hash("user:{live:7}:portfolio").await["wallet_balance"], "100.5");
    assert_eq!(world.store.hash(&config).await["of_another_writer"], "stays");
    for key in derived {
        assert!(!world.store.exists(key).await, "{key}");
    }
    world.heard_all(&subscriber).await;
    for channel in [USER_UPDATES, BALANCE_UPDATES] {
        let heard = subscriber.of(channel, "live:7");
        assert_eq!(heard.len(), 1, "{channel}: {heard:#?}");
        assert_eq!(
            (heard[0].event_type(), heard[0].text("operation_type")),
            ("balance_change", "force_refresh")
        );
        assert_eq!(heard[0].json["updated_fields"]["balance"], 100.5);
        let named = heard[0].json["updated_fields"].as_object().unwrap().keys();
        assert!(named.clone().all(|name| fields.contains(&json!(name))), "{named:?} of {fields:?}");
    }
    // Also where nothing was wrong.
    assert_eq!(post(&world, &force_refresh(7)).await.status, 200);
    world.heard_all(&subscriber).await;
    assert_eq!(subscriber.of(BALANCE_UPDATES, "live:7").len(), 2);
    subscriber.assert_each_once();
}

/// What a key says never goes back, and every event comes once, while the same users are refreshed again and again.
async fn a_refresh_beside_running_writers_moves_nothing_back(on: On) {
    const USERS: u32 = 5;
    let world = World::set_up(Setup { config: UNHEALED.to_owned(), ..Setup::on(on) }).await;
    asked_often(&world);
    world.lockstep.init().await;
    world.lockstep.run().await;
    for id in 1..=2 * USERS {
        world.user("live", id, "1000").await;
    }
    world.caught_up().await;
    let mut witness = Witness::start(&world, 1..USERS + 1).await;
    let workload = Workload::start(&world.postgres, 2, 1, USERS).await;
    let growing = Growing::start(&world, USERS + 1, USERS).await;
    let goal = workload.commits() + 300;
    let mut refreshed = 0;
    while workload.commits() < goal {
        for id in 1..=2 * USERS {
            let answer = post(&world, &force_refresh(id)).await;
            // Of a user who changes faster than a busy machine follows, the stream may be past every reading.
            assert!(matches!(answer.status, 200 | 504), "{}", answer.json);
            refreshed += u32::from(answer.status == 200);
        }
    }
    workload.stop().await;
    growing.stop().await;
    world.caught_up().await;
    world.eventually_equal().await;
    witness.verdict(&world).await.assert_clean();
    assert!(refreshed >= USERS, "{refreshed}");
}

async fn a_refresh_waits_for_the_stream(on: On) {
    let world = world_with_a_user(on).await;
    let subscriber = world.subscriber().await;
    let walsender = Walsender::freeze(&world).await;
    world.credit(7, "50").await;
    let wake = async {
        a_row_is_held(&world).await;
        assert_eq!(world.store.get("user_balance:live:7").await.as_deref(), Some("100.5"), "not before");
        drop(walsender);
    };
    let refresh = force_refresh(7);
    let (answer, ()) = tokio::join!(post(&world, &refresh), wake);
    assert_eq!(answer.status, 200, "{}", answer.json);
    assert_eq!(world.store.get("user_balance:live:7").await.as_deref(), Some("150.5"));
    let heard = world.heard_all(&subscriber).await;
    let of = heard.iter().filter(|heard| heard.channel == BALANCE_UPDATES && heard.user() == "live:7");
    assert_eq!(
        of.map(|heard| heard.text("operation_type")).collect::<Vec<_>>(),
        ["deposit", "force_refresh"]
    );
}

async fn a_refresh_of_nobody_writes_nothing(on: On) {
    let world = world_with_a_user(on).await;
    let subscriber = world.subscriber().await;
    let before = world.store.keys("*:8*").await;
    assert_eq!(post(&world, &force_refresh(8)).await.status, 404);
    assert_eq!(post(&world, &format!("{}?userType=demo", force_refresh(7))).await.status, 404);
    assert_eq!(world.store.keys("*:8*").await, before);
    assert!(world.heard_all(&subscriber).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_never_reaches_a_key_is_refused() {
    let world = world_with_a_user(On::Single).await;
    world.sql("UPDATE users SET wallet_balance = 'NaN' WHERE id = 7").await;
    world.caught_up().await;
    let refused = post(&world, &force_refresh(7)).await;
    assert_eq!(refused.status, 409, "{}", refused.json);
    assert!(refused.message().contains("column wallet_balance holds a value"), "{}", refused.json);
    world.sql("UPDATE users SET wallet_balance = 5 WHERE id = 7").await;
    assert_eq!(post(&world, &force_refresh(7)).await.status, 200);
    assert_eq!(compared(&world, 7).await["is_consistent"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_whose_id_is_text_is_refreshed_too() {
    let schema = include_str!("../../harness/schema.sql");
    let schema =
        schema.replace("id                  int", "id text").replace("user_id        int", "user_id text");
    let setup = Setup { schema: Some(schema), config: UNHEALED.to_owned(), ..Setup::on(On::Single) };
    let world = World::running_as(setup).await;
    let id = "a/b c?ü%";
    world.sql(&format!("INSERT INTO users (id, user_type, wallet_balance) VALUES ('{id}', 'live', 5)")).await;
    world.caught_up().await;
    world.store.set(&format!("user_balance:live:{id}"), "4").await;
    let encoded = "a%2Fb%20c%3F%C3%BC%25";
    let answer = post(&world, &force_refresh(encoded)).await;
    assert_eq!((answer.status, &answer.data()["user_id"]), (200, &json!(id)), "{}", answer.json);
    assert_eq!(compared(&world, encoded).await["is_consistent"], true);
    assert_eq!(get(&world, &super::consistency("nobody")).await.status, 404);
}

/// Asked at once, answered at once, and not done later.
async fn is_away(answer: impl Future<Output = Answer>, words: &str) {
    let asked = Instant::now();
    let answer = answer.await;
    assert_eq!(answer.status, 503, "{}", answer.json);
    assert!(answer.message().contains(words), "{}", answer.json);
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_without_a_stream_says_so_at_once() {
    let mut world = World::set_up(Setup { config: UNHEALED.to_owned(), ..Setup::on(On::Single) }).await;
    let proxy = world.through_a_proxy().await;
    world.lockstep.init().await;
    world.lockstep.run().await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    let standby = world.standby().await;
    let (refresh, look) = (force_refresh(7), super::consistency(7));
    is_away(ask(&standby, "POST", &refresh), "another instance holds the slot").await;
    // It looks all the same.
    let compared = ask(&standby, "GET", &super::consistency(7)).await;
    assert_eq!(
        (compared.status, &compared.data()["is_consistent"]),
        (200, &json!(true)),
        "{}",
        compared.json
    );
    assert_eq!(standby.sigterm().await.code(), Some(0));
    proxy.set(Line::Cut);
    world.lockstep.is_not_ready_because("postgres").await;
    is_away(post(&world, &refresh), "there is no stream at the moment").await;
    is_away(get(&world, &look), "postgres").await;
    proxy.set(Line::Open);
    world.lockstep.wait_ready().await;
    assert_eq!(post(&world, &force_refresh(7)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_nothing_is_refreshed_and_nothing_later() {
    let world = world_with_a_user(On::Single).await;
    world.store.single().pause();
    let late = post(&world, &force_refresh(7)).await;
    assert!(matches!(late.status, 503 | 504), "{}", late.json);
    world.lockstep.is_not_ready_because("redis").await;
    let refresh = force_refresh(7);
    is_away(post(&world, &refresh), "redis").await;
    world.store.single().resume();
    world.lockstep.wait_ready().await;
    assert_eq!(post(&world, &force_refresh(7)).await.status, 200);
    world.assert_equal().await;
}

/// An instance is frozen with a refresh under way, another takes over and goes on: the frozen one wakes up and writes
/// nothing older.
#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_of_a_frozen_instance_moves_nothing_back() {
    let world = world_with_a_user(On::Single).await;
    let second = world.standby().await;
    // The row is read and waits for the stream; then the instance is frozen.
    let walsender = Walsender::freeze(&world).await;
    world.sql("UPDATE users SET wallet_balance = 200 WHERE id = 7").await;
    let freeze = async {
        a_row_is_held(&world).await;
        world.lockstep.signal("STOP");
        drop(walsender);
        second.wait_ready().await;
        world.sql("UPDATE users SET wallet_balance = 300 WHERE id = 7").await;
        let is_there = async || (world.store.get("user_balance:live:7").await? == "300").then_some(());
        eventually("the second goes on", is_there).await;
        world.lockstep.signal("CONT");
        let ended = async || world.lockstep.log().contains("the stream ended").then_some(());
        eventually("the frozen one sees that its stream is gone", ended).await;
    };
    let watch = async {
        let answer = world.lockstep.http("POST", &force_refresh(7)).await.expect("an answer");
        Answer::read(answer.0, &answer.1)
    };
    let (answer, ()) = tokio::join!(watch, freeze);
    assert!(matches!(answer.status, 503 | 504 | 200), "{}", answer.json);
    let hash = world.store.hash(&config_of("live:7")).await;
    assert_eq!(
        (hash["balance"].as_str(), world.store.get("user_balance:live:7").await.as_deref()),
        ("300", Some("300"))
    );
    world.assert_equal().await;
    let told: Value = ask(&second, "GET", &super::consistency(7)).await.json;
    assert_eq!(told["data"]["is_consistent"], true, "{told}");
    assert!(lsn(told["data"]["database_lsn"].as_str().unwrap()).is_some());
}
