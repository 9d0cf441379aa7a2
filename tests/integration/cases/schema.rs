//! Tables that change, tables that are split, and a key map of one's own.

use crate::harness::oracle::UserTable;
use crate::harness::subscriber::BALANCE_UPDATES;
use crate::harness::workload::Workload;
use crate::harness::{On, Setup, Subscriber, World, eventually};

on_both!(the_example_key_map_does_what_it_says);

#[tokio::test(flavor = "multi_thread")]
async fn alter_table_under_load_is_followed() {
    let world = World::running(On::Single).await;
    world.sql("INSERT INTO users (id, user_type, wallet_balance) SELECT n, 'live', 1000 FROM generate_series(1, 50) n").await;
    let subscriber = world.subscriber().await;
    let workload = Workload::start(&world.postgres, 3, 1, 50).await;
    for change in [
        "ALTER TABLE users ADD COLUMN nickname text DEFAULT 'nobody'",
        "ALTER TABLE users DROP COLUMN bank_account",
        "ALTER TABLE users RENAME COLUMN security_answer TO answer",
        "ALTER TABLE users ALTER COLUMN password_hash TYPE varchar(300)",
        "ALTER TABLE users ADD COLUMN first text, ADD COLUMN second numeric(20,2) DEFAULT 1",
    ] {
        workload.progress(50).await;
        world.sql(change).await;
    }
    workload.progress(50).await;
    workload.stop().await;
    world.eventually_equal().await;
    subscriber.assert_each_once();
    subscriber.assert_commit_order();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_followed_column_that_disappears_is_named_and_the_rest_goes_on() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    world.sql("ALTER TABLE users RENAME COLUMN mam_status TO mam_state").await;
    world.credit(7, "1").await;
    eventually("the column is named", async || {
        let metrics = world.lockstep.metrics().await.ok()?;
        let named = |(name, value): (&String, &f64)| {
            name.starts_with("lockstep_mapping_gap") && name.contains("mam_status") && *value == 1.0
        };
        metrics.iter().any(named).then_some(())
    })
    .await;
    let (status, body) = world.lockstep.http("GET", "/readyz").await.unwrap();
    assert!(status == 503 && body.contains("mam_status"), "{status} {body}");
    assert_eq!(world.store.get("user_balance:live:7").await.as_deref(), Some("101"));
}

async fn publish(world: &World, tables: &str) {
    world.sql(&format!("ALTER PUBLICATION lockstep SET TABLE {tables}")).await;
}

/// A published column can be dropped only once it is out of the publication (CONTRACT 6.1).
#[tokio::test(flavor = "multi_thread")]
async fn a_followed_column_that_is_dropped_under_load_is_named_until_it_is_back() {
    let world = World::running(On::Single).await;
    world.sql("INSERT INTO users (id, user_type, wallet_balance) SELECT n, 'live', 1000 FROM generate_series(1, 50) n").await;
    let workload = Workload::start(&world.postgres, 3, 1, 50).await;
    workload.progress(50).await;
    let whole = world.postgres.published_without("").await;
    publish(&world, &world.postgres.published_without("mam_id").await).await;
    world.sql("ALTER TABLE users DROP COLUMN mam_id").await;
    workload.progress(50).await;
    let gap = "lockstep_mapping_gap{column=\"public.users.mam_id\"}";
    eventually("the column is named", async || {
        let (status, body) = world.lockstep.http("GET", "/readyz").await.ok()?;
        let named = status == 503 && body.contains("mam_id") && world.lockstep.metric(gap).await == 1.0;
        named.then_some(())
    })
    .await;
    world.sql("ALTER TABLE users ADD COLUMN mam_id int").await;
    publish(&world, &whole).await;
    workload.progress(50).await;
    workload.stop().await;
    world.lockstep.wait_ready().await;
    assert_eq!(world.lockstep.metric(gap).await, 0.0);
    world.sql("UPDATE users SET mam_id = 5").await;
    world.eventually_equal().await;
}

/// The README's order: configuration, `init`, the DDL, `run` again.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_is_taken_out_as_the_readme_says_can_be_dropped() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    world.caught_up().await;
    let columns = "email, leverage, margin, net_profit, account_number, group, status, is_active, country_id, \
        sending_orders, mam_status, pam_id, pam_status, copy_trading_wallet, copytrader_id, copytrading_status, \
        created_at, updated_at";
    let columns: Vec<&str> = columns.split(", ").collect();
    let tables = format!(
        "[[tables]]\nname = 'users'\nkind = 'users'\nuser_type_column = 'user_type'\ncolumns = {columns:?}\n\
         [[tables]]\nname = 'user_transactions'\nkind = 'transactions'\n"
    );
    world.lockstep.configure(&(world.lockstep.configuration() + &tables));
    world.lockstep.init().await;
    world.sql("ALTER TABLE users DROP COLUMN mam_id").await;
    world.credit(7, "1").await;
    eventually("the running instance names what it was told to follow", async || {
        let (status, body) = world.lockstep.http("GET", "/readyz").await.ok()?;
        (status == 503 && body.contains("mam_id")).then_some(())
    })
    .await;
    assert_eq!(world.lockstep.sigterm().await.code(), Some(0));
    world.lockstep.run().await;
    world.credit(7, "1").await;
    world.caught_up().await;
    world.lockstep.wait_ready().await;
    world.assert_equal().await;
}

/// A limit of PostgreSQL's that the README names; it goes away when this fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_truncated_by_its_own_name_is_not_in_the_stream() {
    let mut setup = Setup::on(On::Single);
    setup.schema = Some(
        "CREATE TABLE users (id int, user_type text, wallet_balance numeric(18,6), PRIMARY KEY (id, user_type))
            PARTITION BY LIST (user_type);
         CREATE TABLE live PARTITION OF users FOR VALUES IN ('live');
         CREATE TABLE demo PARTITION OF users FOR VALUES IN ('demo');
         CREATE TABLE user_transactions (id int PRIMARY KEY, transaction_id text, user_id int, user_type text,
            type text, amount numeric(18,6), status text)"
            .into(),
    );
    let world = World::running_as(setup).await;
    let insert = "INSERT INTO users VALUES (1, 'live', 10), (2, 'demo', 20)";
    world.sql(insert).await;
    world.sql("TRUNCATE users").await;
    world.caught_up().await;
    world.assert_equal().await;
    world.sql(insert).await;
    world.sql("TRUNCATE live").await;
    world.caught_up().await;
    assert_eq!(world.store.get("user_balance:live:1").await.as_deref(), Some("10"));
    // The same with DELETE is.
    world.sql("DELETE FROM demo").await;
    world.caught_up().await;
    assert_eq!(world.store.get("user_balance:demo:2").await, None);
}

const SPLIT: &str = "\
    CREATE TABLE live_users (id int PRIMARY KEY, email text, wallet_balance numeric(18,6), \"group\" text);
    CREATE TABLE demo_users (id int PRIMARY KEY, wallet_balance numeric(18,6));
    CREATE TABLE user_transactions (id bigserial PRIMARY KEY, transaction_id text UNIQUE, user_id int, user_type text,
        type text, amount numeric(18,6), status text, admin_id int, created_at timestamptz DEFAULT now());";
const SPLIT_CONFIG: &str = "
[[tables]]
name = \"public.live_users\"
kind = \"users\"
user_type = \"live\"
[[tables]]
name = \"public.demo_users\"
kind = \"users\"
user_type = \"demo\"
[[tables]]
name = \"public.user_transactions\"
kind = \"transactions\"
user_type_column = \"user_type\"
";

#[tokio::test(flavor = "multi_thread")]
async fn split_tables_are_users_of_different_kinds() {
    let mut setup = Setup::on(On::Single);
    setup.schema = Some(SPLIT.into());
    setup.config = SPLIT_CONFIG.into();
    setup.tables = vec![UserTable::constant("live_users", "live"), UserTable::constant("demo_users", "demo")];
    let world = World::set_up(setup).await;
    world
        .sql("INSERT INTO live_users VALUES (1, 'a@b', 10, 'g'); INSERT INTO demo_users VALUES (1, 20)")
        .await;
    world.lockstep.init().await;
    world.lockstep.run().await;
    world.eventually_equal().await;
    let updated = async || world.store.hash(&super::config_of("live:1")).await.contains_key("last_updated");
    assert!(!updated().await, "the row does not tell when");
    let subscriber = world.subscriber().await;
    world
        .sql(
            "BEGIN; UPDATE live_users SET wallet_balance = 11 WHERE id = 1; INSERT INTO demo_users VALUES (2, 5); \
             INSERT INTO user_transactions (transaction_id, user_id, user_type, type, amount, status) \
             VALUES ('L1', 1, 'live', 'profit', 1, 'completed'), ('C1', 1, 'copy', 'profit', 1, 'completed'); COMMIT",
        )
        .await;
    world.eventually_equal().await;
    assert_eq!(world.store.get("user_balance:live:1").await.as_deref(), Some("11"));
    assert_eq!(world.store.get("user_balance:demo:1").await.as_deref(), Some("20"));
    assert!(updated().await, "the commit does");
    let told = subscriber.wait_for(BALANCE_UPDATES, "live:1", 1).await;
    assert_eq!(told[0].transaction_ids(), ["L1"]);
    world.caught_up().await;
    assert!(world.store.keys("*copy:1*").await.is_empty(), "a user type that nobody configured");
    world.sql("TRUNCATE demo_users").await;
    world.eventually_equal().await;
    assert!(world.store.exists("user_balance:live:1").await, "the other table's users stay");
}

const BESIDE_A_CONSTANT: &str = "
[[tables]]
name = \"public.users\"
kind = \"users\"
user_type_column = \"user_type\"
[[tables]]
name = \"public.vip_users\"
kind = \"users\"
user_type = \"vip\"
";

#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_of_a_table_of_many_types_leaves_the_users_of_another_table() {
    let mut setup = Setup::on(On::Single);
    setup.config = BESIDE_A_CONSTANT.into();
    setup.tables = vec![UserTable::users(), UserTable::constant("vip_users", "vip")];
    let world = World::set_up(setup).await;
    world.sql("CREATE TABLE vip_users (id int PRIMARY KEY, wallet_balance numeric(18,6))").await;
    world.sql("INSERT INTO vip_users VALUES (1, 5), (7, 6)").await;
    world.lockstep.init().await;
    world.lockstep.run().await;
    world.user("live", 7, "1").await;
    world.user("demo", 8, "1").await;
    world.eventually_equal().await;
    let subscriber = world.subscriber().await;
    world.sql("TRUNCATE users CASCADE").await;
    world.eventually_equal().await;
    assert_eq!(world.store.get("user_balance:vip:7").await.as_deref(), Some("6"));
    let mut gone: Vec<String> = world.heard_all(&subscriber).await.iter().map(|heard| heard.user()).collect();
    gone.sort();
    assert_eq!(gone, ["demo:8", "live:7"]);
}

/// A column of another type has to be out of the publication meanwhile (CONTRACT 6.1).
#[tokio::test(flavor = "multi_thread")]
async fn a_followed_column_that_is_retyped_under_load_is_followed_as_what_it_is() {
    let world = World::running(On::Single).await;
    world.sql("INSERT INTO users (id, user_type, wallet_balance) SELECT n, 'live', 1000 FROM generate_series(1, 50) n").await;
    let workload = Workload::start(&world.postgres, 3, 1, 50).await;
    workload.progress(50).await;
    let whole = world.postgres.published_without("").await;
    publish(&world, &world.postgres.published_without("leverage").await).await;
    world.sql("ALTER TABLE users ALTER leverage TYPE numeric(10,2)").await;
    workload.progress(50).await;
    publish(&world, &whole).await;
    workload.progress(50).await;
    workload.stop().await;
    let subscriber = world.subscriber().await;
    world.sql("UPDATE users SET leverage = 1.50").await;
    world.eventually_equal().await;
    world.lockstep.wait_ready().await;
    let heard = world.heard_all(&subscriber).await;
    let told = heard.iter().rfind(|heard| heard.user() == "live:7").expect("an event");
    assert!(told.payload.contains("\"leverage\":1.5,"), "{}", told.payload);
}

async fn the_example_key_map_does_what_it_says(on: On) {
    let map = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/example-keymap.toml");
    let mut setup = Setup::on(on);
    setup.config = std::fs::read_to_string(map).expect("the example key map");
    let world = World::running_as(setup).await;
    world.user("live", 123, "100").await;
    world.caught_up().await;
    let of_group = ["user_group_config:live:123", "margin_requirements:live:123", "spread_config:live:123"];
    for key in of_group.into_iter().chain(["user_summary:live:123"]) {
        world.store.set(key, "old").await;
    }
    world.store.hset("user_portfolio:{live:123}", "wallet_balance", "100").await;
    let own = Subscriber::to(world.store.any_node(), &["portfolio_force_recalc", "group_updates"]).await;

    world.credit(123, "50").await;
    let recalc = world.heard_all(&own).await;
    assert!(!world.store.exists("user_summary:live:123").await);
    assert_eq!(world.store.hash("user_portfolio:{live:123}").await["wallet_balance"], "150");
    for key in of_group {
        assert!(world.store.exists(key).await, "{key}: the group did not change");
    }
    assert_eq!(recalc.len(), 1, "{recalc:#?}");
    assert_eq!(recalc[0].channel, "portfolio_force_recalc");
    assert_eq!(recalc[0].text("type"), "FORCE_PORTFOLIO_RECALC");
    assert_eq!(recalc[0].json["users"], serde_json::json!([{"user_type": "live", "user_id": "123"}]));
    assert_eq!(recalc[0].text("reason"), "deposit");

    world.sql("UPDATE users SET \"group\" = 'vip' WHERE id = 123").await;
    let heard = world.heard_all(&own).await;
    for key in of_group {
        assert!(!world.store.exists(key).await, "{key}: the group changed");
    }
    assert!(heard.iter().any(|heard| heard.channel == "group_updates"), "{heard:#?}");

    world.sql("UPDATE users SET email = NULL WHERE id = 123").await;
    world.caught_up().await;
    assert_eq!(world.store.hash("user:{live:123}:config").await["email"], "none", "a default for NULL");
}
