//! Values and names at the edges.

use super::config_of;
use crate::harness::subscriber::BALANCE_UPDATES;
use crate::harness::world::quote;
use crate::harness::{On, Setup, World, eventually};

const TEXT_IDS: &str =
    "CREATE TABLE users (id text PRIMARY KEY, user_type text NOT NULL, wallet_balance numeric(18,6))";
/// Its `user_id` may be of another type than the user's `id`: nothing joins them in the database.
const TRANSACTIONS: &str = "CREATE TABLE user_transactions (id bigserial PRIMARY KEY, transaction_id text, \
    user_id text, user_type text, type text, amount numeric(18,6), status text)";

async fn with_schema(schema: &str) -> World {
    let mut setup = Setup::on(On::Single);
    setup.schema = Some(format!("{schema}; {TRANSACTIONS}"));
    World::running_as(setup).await
}

async fn insert(world: &World, id: &str, user_type: &str) {
    let values = format!("({}, {}, 1)", quote(id), quote(user_type));
    world.sql(&format!("INSERT INTO users (id, user_type, wallet_balance) VALUES {values}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unicode_and_glob_characters_in_names_are_only_characters() {
    let world = with_schema(TEXT_IDS).await;
    let ids = ["ünï☃", "a b", "x*y?[z]", "xAyBz", "quote\"back\\slash", "7:8", "👩‍💻", "^", "it's"];
    for id in ids {
        insert(&world, id, "Dëmo").await;
    }
    world.eventually_equal().await;
    assert_eq!(world.store.keys("user_balance:*").await.len(), ids.len());
    world.store.set("financial_summary:Dëmo:xAyBz:day", "the neighbour's").await;
    world.store.set("financial_summary:Dëmo:x*y?[z]:day", "old").await;
    world.sql("UPDATE users SET wallet_balance = 2 WHERE id = 'x*y?[z]'").await;
    world.caught_up().await;
    assert!(!world.store.exists("financial_summary:Dëmo:x*y?[z]:day").await);
    assert!(world.store.exists("financial_summary:Dëmo:xAyBz:day").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_would_break_a_key_touch_none_and_are_counted() {
    let world = with_schema(TEXT_IDS).await;
    let hostile = [
        ("a{b", "live"),
        ("}", "live"),
        ("new\nline", "live"),
        ("", "live"),
        ("1", "a:b"),
        ("2", "{x}"),
        ("3", ""),
        ("4", "t\tb"),
    ];
    for (id, user_type) in hostile {
        insert(&world, id, user_type).await;
    }
    insert(&world, "good", "live").await;
    world.eventually_equal().await;
    world.sql("UPDATE users SET wallet_balance = 2; DELETE FROM users WHERE id <> 'good'").await;
    world.eventually_equal().await;
    assert_eq!(world.store.keys("user*").await.len(), 2, "{:?}", world.store.keys("user*").await);
    assert!(world.lockstep.metric("lockstep_quarantined_total").await >= hostile.len() as f64);
    let log = world.lockstep.log();
    assert!(!log.contains("new\nline"), "no row data in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn numerics_stay_exact_to_their_limits() {
    let schema = "CREATE TABLE users (id int PRIMARY KEY, user_type text NOT NULL, wallet_balance numeric, margin numeric(18,6))";
    let world = with_schema(schema).await;
    let balances = [
        ("0", "0"),
        ("0.000000", "0"),
        ("-0.000001", "-0.000001"),
        ("100", "100"),
        ("1000000.000000", "1000000"),
        ("10000.500000", "10000.5"),
        ("999999999999.999999", "999999999999.999999"),
        ("-999999999999.999999", "-999999999999.999999"),
        ("123456789012345678901234567890.123456", "123456789012345678901234567890.123456"),
        ("1e30", "1000000000000000000000000000000"),
        ("1e-30", "0.000000000000000000000000000001"),
    ];
    let subscriber = world.subscriber().await;
    for (id, (written, _)) in balances.iter().enumerate() {
        let values = format!("({id}, 'live', {written}, -999999999999.999999)");
        world.sql(&format!("INSERT INTO users VALUES {values}")).await;
    }
    world.eventually_equal().await;
    for (id, (_, canonical)) in balances.iter().enumerate() {
        assert_eq!(world.store.get(&format!("user_balance:live:{id}")).await.as_deref(), Some(*canonical));
        let told = subscriber.wait_for(BALANCE_UPDATES, &format!("live:{id}"), 1).await;
        // A number that reads back from a double as the same text, else a string.
        let number = told[0].payload.contains(&format!("\"wallet_balance\":{canonical}"));
        let string = told[0].payload.contains(&format!("\"wallet_balance\":\"{canonical}\""));
        let exact = canonical.parse::<f64>().is_ok_and(|double| double.to_string() == *canonical);
        assert_eq!((number, string), (exact, !exact), "{}", told[0].payload);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balance_that_is_no_number_never_reaches_a_key() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    world.user("live", 8, "100").await;
    world.caught_up().await;
    let subscriber = world.subscriber().await;
    world.sql("UPDATE users SET wallet_balance = 'NaN' WHERE id = 7").await;
    world.user("live", 9, "9").await;
    world.eventually_equal().await;
    assert!(!world.store.exists(&config_of("live:7")).await, "readers fall back to the database");
    assert_eq!(world.store.get("user_balance:live:9").await.as_deref(), Some("9"), "the stream goes on");
    is_read_again(&world).await;
    assert_eq!(
        counted(&world).await,
        [1.0, 0.0],
        "once, and not again when the row that was read says the same"
    );
    assert!(world.heard_all(&subscriber).await.iter().all(|heard| !heard.payload.contains("NaN")));
    world.sql("UPDATE users SET wallet_balance = 5 WHERE id = 7").await;
    world.eventually_equal().await;
    assert_eq!(world.store.get("user_balance:live:7").await.as_deref(), Some("5"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balance_that_is_put_right_at_once_stays() {
    let world = World::running(On::Cluster).await;
    for id in 1..=20 {
        world.user("live", id, "100").await;
    }
    world.caught_up().await;
    // Read again while the next change is on its way: what is sent late must not take its keys away.
    for balance in ["'NaN'", "3", "'NaN'", "4"] {
        world.sql(&format!("UPDATE users SET wallet_balance = {balance}")).await;
    }
    world.eventually_equal().await;
    for id in 1..=20 {
        let balance = world.store.get(&format!("user_balance:live:{id}")).await;
        assert_eq!(balance.as_deref(), Some("4"), "user {id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_in_doubt_whose_row_is_sound_is_healed_and_counted() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    let row = "INSERT INTO user_transactions (transaction_id, user_id, user_type, type, amount, status) \
               VALUES ('T', 7, 'live', 'profit', 'NaN', 'completed')";
    world.sql(row).await;
    eventually("the user is healed", async || (counted(&world).await == [1.0, 1.0]).then_some(())).await;
    world.eventually_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_in_doubt_whom_no_table_can_hold_do_not_keep_the_others_from_being_healed() {
    let schema =
        "CREATE TABLE users (id int PRIMARY KEY, user_type text NOT NULL, wallet_balance numeric(18,6))";
    let world = with_schema(schema).await;
    insert(&world, "7", "live").await;
    world.eventually_equal().await;
    for id in ["hunter2", "99999999999", "7"] {
        let row = "INSERT INTO user_transactions (transaction_id, user_id, user_type, type, amount, status)";
        world.sql(&format!("{row} VALUES ('T', '{id}', 'live', 'profit', 'NaN', 'completed')")).await;
    }
    eventually("the user who is there is healed", async || {
        (counted(&world).await == [3.0, 1.0]).then_some(())
    })
    .await;
    world.eventually_equal().await;
    world.lockstep.wait_ready().await;
    assert!(!world.lockstep.log().contains("hunter2"), "no row data in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_a_domain_are_those_of_the_type_below_it() {
    let schema = "CREATE DOMAIN number AS numeric(18,6); CREATE DOMAIN money_amount AS number CHECK (VALUE < 1000); \
        CREATE DOMAIN flag AS boolean; CREATE DOMAIN moment AS timestamptz; CREATE DOMAIN user_id AS int; \
        CREATE TABLE users (id user_id PRIMARY KEY, user_type text NOT NULL, wallet_balance money_amount, \
        is_active flag, leverage number, created_at moment)";
    let world = with_schema(schema).await;
    let subscriber = world.subscriber().await;
    world.sql("INSERT INTO users VALUES (7, 'live', 1.50, true, 100.00, '2026-01-15 10:30+00')").await;
    world.eventually_equal().await;
    world.sql("UPDATE users SET wallet_balance = 2.50, is_active = false").await;
    world.eventually_equal().await;
    let told = world.heard_all(&subscriber).await.pop().expect("an event");
    assert_eq!(told.json["user_id"], serde_json::json!(7));
    for field in ["\"wallet_balance\":2.5,", "\"is_active\":0,", "\"leverage\":100,"] {
        assert!(told.payload.contains(field), "{field}: {}", told.payload);
    }
}

/// Waits until whoever was in doubt has been read and written again.
async fn is_read_again(world: &World) {
    let said = "cannot be written";
    eventually("the user was read again", async || world.lockstep.log().contains(said).then_some(())).await;
    world.caught_up().await;
}

/// Quarantined and healed.
async fn counted(world: &World) -> [f64; 2] {
    let quarantined = world.lockstep.metric("lockstep_quarantined_total").await;
    [quarantined, world.lockstep.metric("lockstep_healed_total").await]
}

#[tokio::test(flavor = "multi_thread")]
async fn bigint_and_uuid_ids_are_names_like_any_other() {
    let schema =
        "CREATE TABLE users (id bigint PRIMARY KEY, user_type text NOT NULL, wallet_balance numeric(18,6))";
    let world = with_schema(schema).await;
    let subscriber = world.subscriber().await;
    world.sql("INSERT INTO users VALUES (9007199254740993, 'live', 1), (42, 'live', 1)").await;
    world.eventually_equal().await;
    let told = subscriber.wait_for(BALANCE_UPDATES, "live:9007199254740993", 1).await;
    assert!(
        told[0].payload.contains("\"user_id\":\"9007199254740993\""),
        "no double carries it: {}",
        told[0].payload
    );
    let told = subscriber.wait_for(BALANCE_UPDATES, "live:42", 1).await;
    assert!(told[0].payload.contains("\"user_id\":42"), "{}", told[0].payload);

    let schema =
        "CREATE TABLE users (id uuid PRIMARY KEY, user_type text NOT NULL, wallet_balance numeric(18,6))";
    let world = with_schema(schema).await;
    world.sql("INSERT INTO users SELECT gen_random_uuid(), 'live', n FROM generate_series(1, 20) n").await;
    world.eventually_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_text_that_did_not_change_keeps_its_field() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    // Random enough that compression does not keep it in the row: it is stored out of line.
    let long = "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 500) n)";
    world.sql(&format!("UPDATE users SET sending_orders = {long} WHERE id = 7")).await;
    world.eventually_equal().await;
    world.credit(7, "1").await;
    eventually("the deposit arrives", async || {
        (world.store.get("user_balance:live:7").await.as_deref() == Some("101")).then_some(())
    })
    .await;
    world.eventually_equal().await;
    assert_eq!(world.store.hash(&config_of("live:7")).await["sending_orders"].len(), 16_000);
}
