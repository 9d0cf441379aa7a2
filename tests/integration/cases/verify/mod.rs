//! `lockstep verify`: the whole database against the whole Redis, and nothing is written.

mod busy;
mod faults;
mod repair;
mod sample;

use serde_json::Value;

use crate::cases::config_of;
use crate::harness::{Lockstep, On, Setup, World, eventually};

on_both!(
    what_is_equal_is_said_to_be_equal,
    every_class_of_difference_is_told_apart,
    a_reader_needs_no_right_to_write,
);

/// What is wrong is left to `verify`.
const UNWATCHED: &str = "[audit]\nforeign_writes = \"off\"\n";

/// So many users `live:1`, `live:2`, ... with a balance of 100, whom nobody watches.
async fn unwatched(on: On, users: u32) -> World {
    let world = World::running_as(Setup { config: UNWATCHED.to_owned(), ..Setup::on(on) }).await;
    for id in 1..=users {
        world.user("live", id, "100").await;
    }
    world.caught_up().await;
    world
}

/// Exit code and report.
async fn verified(world: &World, more: &[&str]) -> (i32, Value) {
    let ended = world.lockstep.finish(&[&["verify", "--json"], more].concat()).await;
    let report = serde_json::from_str(&ended.stdout);
    let report = report.unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    (ended.code.expect("an exit code"), report)
}

/// The number of users by what is the matter with them.
fn counts(report: &Value) -> [u64; 5] {
    ["equal", "absent", "wrong", "orphaned_keys", "unconfirmed"].map(|class| report[class].as_u64().unwrap())
}

/// What differs of a user, as the examples tell it: `user:{T:U}:config email`.
fn told(report: &Value, user: &str) -> Vec<String> {
    let examples = report["examples"].as_array().unwrap();
    let of_user = examples.iter().filter(|example| example["user"] == user);
    let differences = of_user.flat_map(|example| example["differences"].as_array().unwrap());
    let mut told: Vec<String> = differences
        .map(|shown| match shown["field"].as_str() {
            Some(field) => format!("{} {field}", shown["key"].as_str().unwrap()),
            None => shown["key"].as_str().unwrap().to_owned(),
        })
        .collect();
    told.sort();
    told
}

async fn what_is_equal_is_said_to_be_equal(on: On) {
    let world = unwatched(on, 6).await;
    world.credit(1, "5").await;
    world.sql("UPDATE users SET email = NULL, leverage = NULL WHERE id = 2").await;
    // The keys of whom cannot be written are gone, and that is as it should be.
    world.sql("UPDATE users SET wallet_balance = 'NaN' WHERE id = 6").await;
    world.caught_up().await;
    let gone = async || (!world.store.exists(&config_of("live:6")).await).then_some(());
    eventually("the keys are deleted", gone).await;
    // It has expired.
    world.store.call("user_balance:live:3", &["DEL", "user_balance:live:3"]).await;
    world.store.hset(&config_of("live:4"), "session", "of another program").await;
    // A derived key that somebody has computed again.
    world.store.set("user_stats:live:5", "fresh").await;
    let (code, report) = verified(&world, &[]).await;
    assert_eq!((code, counts(&report)), (0, [6, 0, 0, 0, 0]), "{report:#}");
    assert_eq!((&report["users"], &report["examples"]), (&6.into(), &Value::Array(Vec::new())));
    assert!(report["seconds"].as_f64().unwrap() > 0.0 && report["users_per_second"].as_f64().unwrap() > 0.0);
    assert!(world.lockstep.succeed(&["verify"]).await.contains("equal"));
}

/// Four users who are wrong in a way each, one whose hash is gone, and three keys of two users who never were.
async fn spoil(world: &World) {
    world.store.hset(&config_of("live:1"), "balance", "66.25").await;
    world.store.hset(&config_of("live:1"), "email", "someone@example.com").await;
    world.store.set("user_balance:live:2", "77.75").await;
    world.store.hset("user:{live:3}:portfolio", "wallet_balance", "66.25").await;
    let key = config_of("live:4");
    world.store.call(&key, &["DEL", &key]).await;
    world.store.set(&key, "of another type").await;
    let key = config_of("live:5");
    world.store.call(&key, &["DEL", &key]).await;
    world.store.hset(&config_of("live:99"), "balance", "66.25").await;
    world.store.set("user_balance:live:99", "66.25").await;
    world.store.set("financial_summary:demo:1:week", "66.25").await;
}

/// Keys that look like ours at a glance.
const OF_OTHERS: [&str; 7] = [
    "user:{live:1}:session",
    "user_balance:live",
    "user_balances:live:99",
    "financial_summary:live",
    "session:live:99",
    "user:{live}:config",
    "{live:99}",
];

async fn every_class_of_difference_is_told_apart(on: On) {
    let world = unwatched(on, 7).await;
    spoil(&world).await;
    for key in OF_OTHERS {
        world.store.set(key, "of another program").await;
    }
    let (code, report) = verified(&world, &[]).await;
    assert_eq!((code, counts(&report)), (3, [2, 1, 4, 3, 0]), "{report:#}");
    assert_eq!(report["orphaned_users"], 2, "{report:#}");
    assert_eq!(told(&report, "live:1"), ["user:{T:U}:config balance", "user:{T:U}:config email"]);
    assert_eq!(told(&report, "live:2"), ["user_balance:T:U"]);
    assert_eq!(told(&report, "live:3"), ["user:{T:U}:portfolio wallet_balance"]);
    for user in ["live:4", "live:5"] {
        assert_eq!(told(&report, user), ["user:{T:U}:config"], "{user}");
    }
    assert_eq!(told(&report, "live:99"), ["user:{T:U}:config", "user_balance:T:U"]);
    assert_eq!(told(&report, "demo:1"), ["financial_summary:T:U:*"]);
    let differences = &report["differences"];
    assert_eq!(differences["user:{T:U}:config"], 3, "{differences:#}");
    assert_eq!(differences["user_balance:T:U"], 2, "{differences:#}");
    assert_eq!(differences["user:{T:U}:config email"], 1, "{differences:#}");
    let classes = ["absent", "wrong", "orphaned"];
    let examples = report["examples"].as_array().unwrap();
    assert!(examples.iter().all(|example| classes.contains(&example["class"].as_str().unwrap())));
    assert!(examples.iter().all(|example| example["confirmed"] == true), "{report:#}");

    let shown = world.lockstep.finish(&["verify"]).await;
    assert_eq!(shown.code, Some(3));
    assert!(shown.stdout.contains("live:2 (wrong): user_balance:T:U\n"), "{}", shown.stdout);
    assert!(shown.stdout.contains("live:5 (absent): user:{T:U}:config\n"), "{}", shown.stdout);
    for text in [&report.to_string(), &shown.stdout, &shown.stderr] {
        let values = ["66.25", "77.75", "someone@example.com", "of another"];
        assert!(!values.iter().any(|value| text.contains(value)), "{text}");
    }
    let shown = world.lockstep.finish(&["verify", "--show-values"]).await;
    let said = "live:2 (wrong): user_balance:T:U is \"77.75\", not \"100\"\n";
    assert!(shown.stdout.contains(said), "{}", shown.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_verified_alone() {
    let world = unwatched(On::Single, 2).await;
    world.store.set("user_balance:live:1", "7").await;
    let (code, report) = verified(&world, &["--table", "public.users", "--users-per-second", "1000"]).await;
    assert_eq!((code, counts(&report)), (3, [1, 0, 1, 0, 0]), "{report:#}");
    let refused = world.lockstep.finish(&["verify", "--table", "public.orders"]).await;
    assert_eq!(refused.code, Some(1));
    let message = "public.orders is no followed table of users: name one of public.users";
    assert!(refused.stderr.contains(message), "{}", refused.stderr);
}

/// Neither in Redis nor in the database.
async fn a_reader_needs_no_right_to_write(on: On) {
    let mut setup = Setup { config: UNWATCHED.to_owned(), ..Setup::on(on) };
    let rules = "reader on >PASSWORD ~* resetchannels -@all +hello +auth +ping +info +select +client|id \
                 +cluster|slots +script|load +get +hmget +exists +scan +asking";
    setup.redis.acl = vec!["default on nopass ~* &* +@all".into(), rules.into()];
    let world = World::running_as(setup).await;
    world.user("live", 1, "100").await;
    world.user("live", 2, "100").await;
    world.caught_up().await;
    spoil_one(&world).await;
    world.sql("CREATE ROLE reader LOGIN; GRANT SELECT ON users TO reader; ALTER ROLE reader SET default_transaction_read_only = on").await;
    let configuration = world.lockstep.configuration().replace("://127", "://reader:PASSWORD@127");
    let reader = Lockstep::new(&world.postgres.url(), &world.store.urls(), "");
    reader.configure(
        &configuration.replace(&world.postgres.url(), &world.postgres.url_for("reader", "postgres")),
    );
    let ended = reader.finish(&["verify", "--json"]).await;
    assert_eq!(ended.code, Some(3), "{ended:?}");
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(counts(&report), [1, 0, 1, 1, 0], "{report:#}");
    let slots = world.postgres.value("SELECT count(*) FROM pg_replication_slots").await;
    assert_eq!(slots.as_deref(), Some("1"));
}

async fn spoil_one(world: &World) {
    world.store.set("user_balance:live:1", "7").await;
    world.store.set("user_balance:live:99", "7").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_tables_with_types_of_their_own_are_told_apart() {
    let mut setup = Setup::on(On::Single);
    setup.schema = Some(
        "CREATE TABLE live_users (id int PRIMARY KEY, wallet_balance numeric(18,6), email text);
         CREATE TABLE demo_users (id uuid PRIMARY KEY, wallet_balance numeric(18,6));"
            .into(),
    );
    setup.config = format!(
        "{UNWATCHED}\n[[tables]]\nname = \"public.live_users\"\nkind = \"users\"\nuser_type = \"live\"\n\
         [[tables]]\nname = \"public.demo_users\"\nkind = \"users\"\nuser_type = \"demo\"\n"
    );
    let world = World::running_as(setup).await;
    let id = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    world
        .sql(&format!(
            "INSERT INTO live_users VALUES (7, 5, 'a@example.com'); INSERT INTO demo_users VALUES ('{id}', 6)"
        ))
        .await;
    world.caught_up().await;
    let (code, report) = verified(&world, &[]).await;
    assert_eq!((code, counts(&report)), (0, [2, 0, 0, 0, 0]), "{report:#}");
    let balance = format!("user_balance:demo:{id}");
    world.store.set(&balance, "7").await;
    // No table can hold the first; a robot is followed by no table; the third is no uuid.
    for orphan in ["user_balance:live:abc", "user_balance:robot:7", "user_balance:demo:7"] {
        world.store.set(orphan, "7").await;
    }
    let (code, report) = verified(&world, &[]).await;
    assert_eq!((code, counts(&report)), (3, [1, 0, 1, 2, 0]), "{report:#}");
    let (code, report) = verified(&world, &["--table", "public.live_users"]).await;
    assert_eq!((code, counts(&report)), (3, [1, 0, 0, 1, 0]), "{report:#}");
}
