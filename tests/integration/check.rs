//! `lockstep check` names each fault with its cure.

use crate::harness::{
    COLUMN_LISTS, Postgres, PostgresOptions, Redis, RedisOptions, not_before, postgres_major,
};
use crate::program::{Program, TABLES};

async fn server(options: PostgresOptions) -> Postgres {
    let postgres = Postgres::start(options).await;
    postgres.sql(TABLES).await;
    postgres
}

/// A server where all is well.
async fn sound() -> (Postgres, Program) {
    let postgres = server(PostgresOptions::default().set("max_slot_wal_keep_size", "1GB")).await;
    let program = Program::new(&postgres, "");
    let ended = program.run(&["init"]).await;
    assert_eq!(ended.code, 0, "{ended:#?}");
    (postgres, program)
}

/// That `check` exits with 3 and has a line with the fact, then the cure.
async fn assert_fault(program: &Program, fact: &str, cure: &str) {
    let ended = program.run(&["check"]).await;
    assert_eq!(ended.code, 3, "{ended:#?}");
    let line = ended.line(fact);
    assert!(line.starts_with('✗') && line.contains(cure), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_init_all_is_well() {
    let (postgres, _) = sound().await;
    let redis = Redis::start(RedisOptions::default()).await;
    let program = Program::new(&postgres, &format!("[redis]\nurl = \"{}\"", redis.url()));
    let ended = program.run(&["check"]).await;
    assert_eq!(ended.code, 0, "{ended:#?}");
    // PostgreSQL 14 publishes secrets too, and nobody can help it.
    let warnings = usize::from(postgres_major() < COLUMN_LISTS);
    let warned: Vec<&str> = ended.out.lines().filter(|line| !line.starts_with('✓')).collect();
    assert_eq!(warned.len(), warnings, "{ended:#?}");
    let is_known =
        |line: &&str| line.starts_with("! publication lockstep: PostgreSQL 14 has no column lists");
    assert!(warned.iter().all(is_known), "{ended:#?}");
    let json = program.run(&["check", "--json"]).await;
    let items: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    let items = items.as_array().unwrap();
    let with = |verdict: &str| items.iter().filter(|item| item["verdict"] == verdict).count();
    assert_eq!((with("pass"), with("warning")), (items.len() - warnings, warnings), "{json:#?}");
    let status = program.run(&["status", "--json"]).await;
    let status: serde_json::Value = serde_json::from_str(&status.out).unwrap();
    assert_eq!((&status["slot"], &status["loaded"]), (&"lockstep".into(), &false.into()));
    assert!(status["confirmed_flush_lsn"].as_str().unwrap().contains('/'), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_redis_are_named() {
    let (postgres, _) = sound().await;
    let options = RedisOptions {
        acl: vec!["narrow on >pw ~user:* ~lockstep:* &user_updates +@all -acl".into()],
        ..RedisOptions::default()
    };
    let redis = Redis::start(options).await;
    let url = redis.url().replace("redis://", "redis://narrow:pw@");
    let program = Program::new(&postgres, &format!("[redis]\nurl = \"{url}\""));
    assert_fault(&program, "PUBLISH balance_updates", "ACL SETUSER").await;
    assert_fault(&program, "SET user_balance:live:1", "ACL SETUSER").await;
    redis.call(&["CONFIG", "SET", "maxmemory", "100mb"]).await;
    redis.call(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
    assert_fault(&program, "maxmemory-policy is allkeys-lru", "noeviction").await;
    redis.kill9();
    assert_fault(&program, "✗ redis", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_set_up_for_logical_replication_is_named() {
    let options = PostgresOptions::default()
        .set("wal_level", "replica")
        .set("synchronous_standby_names", "ANY 1 (a, *)")
        .set("max_slot_wal_keep_size", "-1");
    let postgres = Postgres::start(options).await;
    let program = Program::new(&postgres, "");
    assert_fault(&program, "wal_level is replica", "ALTER SYSTEM SET wal_level = 'logical'").await;
    assert_fault(&program, "makes commits wait for Lockstep", "name the real standbys").await;
    assert_fault(&program, "max_slot_wal_keep_size is -1", "ALTER SYSTEM SET max_slot_wal_keep_size").await;
    assert_fault(&program, "table public.users does not exist", "[[tables]]").await;
    assert_fault(&program, "publication \"lockstep\" does not exist", "lockstep init").await;
    assert_fault(&program, "slot \"lockstep\" does not exist", "lockstep init").await;
    let refused = program.run(&["init"]).await;
    assert_eq!(
        (refused.code, refused.err.as_str()),
        (
            1,
            "lockstep: wal_level is replica: run ALTER SYSTEM SET wal_level = 'logical' and restart PostgreSQL\n"
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_not_ours_is_named() {
    let postgres = server(PostgresOptions::default()).await;
    postgres.create_database("other").await;
    postgres.sql("SELECT pg_create_logical_replication_slot('plugin', 'test_decoding')").await;
    postgres.sql("SELECT pg_create_physical_replication_slot('physical')").await;
    let other = postgres.client_of("postgres", "other").await;
    other.batch_execute("SELECT pg_create_logical_replication_slot('elsewhere', 'pgoutput')").await.unwrap();
    for (slot, fact) in [
        ("plugin", "slot \"plugin\" uses the plugin \"test_decoding\", not pgoutput"),
        ("physical", "slot \"physical\" is a physical slot"),
        ("elsewhere", "slot \"elsewhere\" belongs to the database \"other\", not \"postgres\""),
    ] {
        let program = Program::new(&postgres, &format!("slot = \"{slot}\""));
        assert_fault(&program, fact, "choose another name under postgres.slot").await;
        let refused = program.run(&["init"]).await;
        assert_eq!(refused.code, 1, "{refused:#?}");
        assert!(refused.err.starts_with(&format!("lockstep: {fact}")), "{refused:#?}");
        let kept = program.run(&["drop", "--yes"]).await;
        assert_eq!(kept.code, 1, "{kept:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_the_tables_are_named() {
    let (postgres, program) = sound().await;
    postgres.sql("ALTER TABLE users REPLICA IDENTITY DEFAULT").await;
    assert_fault(&program, "does not cover user_type", "lockstep init").await;
    postgres.sql("ALTER TABLE users REPLICA IDENTITY NOTHING").await;
    assert_fault(&program, "no usable replica identity", "REPLICA IDENTITY DEFAULT").await;
    let refused = program.run(&["init"]).await;
    assert!(refused.code == 1 && refused.err.contains("users is NOTHING"), "{refused:#?}");
    postgres.sql("ALTER TABLE user_transactions RENAME status TO state").await;
    assert_fault(&program, "table public.user_transactions has no column \"status\"", "[[tables]]").await;
    postgres.sql("DROP PUBLICATION lockstep; ALTER TABLE users ALTER wallet_balance TYPE float8").await;
    assert_fault(&program, "column public.users.wallet_balance is of type double precision", "numeric").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_the_publications_columns_are_named() {
    if not_before(COLUMN_LISTS, "the columns of a publication") {
        return;
    }
    let (postgres, program) = sound().await;
    for (columns, fact) in [
        (
            "id, user_type, email, wallet_balance, \"group\", password_hash",
            "secrets perhaps, are published: password_hash",
        ),
        ("id, user_type, email, wallet_balance", "followed are not published: group"),
        ("id, user_type", "needed are not published: wallet_balance"),
        ("id, wallet_balance", "the replica identity is not published: user_type"),
    ] {
        postgres
            .sql(&format!("ALTER PUBLICATION lockstep SET TABLE users ({columns}), user_transactions"))
            .await;
        assert_fault(&program, fact, "lockstep init").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_the_publication_are_named() {
    let (postgres, program) = sound().await;
    let cure = "lockstep init";
    postgres.sql("ALTER PUBLICATION lockstep SET TABLE users").await;
    assert_fault(&program, "table public.user_transactions is not published", cure).await;
    postgres.sql("ALTER PUBLICATION lockstep SET (publish = 'insert, update')").await;
    assert_fault(&program, "leaves out some of insert, update, delete, truncate", cure).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_rights_is_named() {
    let (postgres, _) = sound().await;
    postgres.sql("CREATE ROLE nobody LOGIN").await;
    let program = Program::with_url(&postgres.url_for("nobody", "postgres"), "");
    assert_fault(&program, "role \"nobody\" may not replicate", "ALTER ROLE \"nobody\" REPLICATION").await;
    assert_fault(&program, "the role may not SELECT id, user_type", "lockstep init --role").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_and_failures_have_their_exit_codes() {
    let postgres = Postgres::start(PostgresOptions::default()).await;
    let program = Program::new(&postgres, "slto = 1\n[log]\nformat = \"xml\"");
    let ended = program.run(&["check"]).await;
    assert_eq!((ended.code, ended.err.lines().count()), (2, 2), "{ended:#?}");
    assert!(ended.err.lines().all(|line| line.starts_with("lockstep: ")), "{ended:#?}");
    assert_eq!(program.run(&["chekc"]).await.code, 2);
    let program = Program::new(&postgres, "");
    let printed = program.run(&["check", "--print-config"]).await;
    assert_eq!(printed.code, 0, "{printed:#?}");
    printed.line("[[keys]]");
    postgres.kill9();
    let ended = program.run(&["status"]).await;
    ended.line("wrong");
    assert_eq!((ended.code, ended.err.lines().count()), (1, 1), "{ended:#?}");
    assert_fault(&program, "✗ postgres", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_publishes_secrets_is_refused_and_named() {
    if not_before(COLUMN_LISTS, "the column list that REPLICA IDENTITY FULL excludes") {
        return;
    }
    let (postgres, program) = sound().await;
    postgres.sql("DROP PUBLICATION lockstep; ALTER TABLE users REPLICA IDENTITY FULL").await;
    let cure = "run ALTER TABLE public.users REPLICA IDENTITY DEFAULT";
    assert_fault(&program, "REPLICA IDENTITY FULL, which excludes a column list", cure).await;
    assert_fault(&program, "are published: password_hash, bank_iban", cure).await;
    let refused = program.run(&["init"]).await;
    assert!(refused.code == 1 && refused.err.contains(cure), "{refused:#?}");
    postgres.sql("ALTER TABLE users DROP password_hash, DROP bank_iban").await;
    assert_eq!(program.run(&["init"]).await.code, 0, "there is nothing that could be left out");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_what_it_can_and_fails_where_something_is_wrong() {
    let (postgres, _) = sound().await;
    let redis = Redis::start(RedisOptions::default()).await;
    let program = Program::new(&postgres, &format!("[redis]\nurl = \"{}\"", redis.url()));
    let well = program.run(&["status"]).await;
    assert_eq!(well.code, 0, "{well:#?}");
    postgres.sql("SELECT pg_drop_replication_slot('lockstep')").await;
    let gone = program.run(&["status"]).await;
    assert_eq!(gone.code, 1, "{gone:#?}");
    assert!(gone.line("wrong").contains("does not exist: run \"lockstep init\""), "{gone:#?}");
    gone.line("loaded");
    postgres.sql("SELECT pg_create_logical_replication_slot('lockstep', 'pgoutput')").await;
    redis.kill9();
    let half = program.run(&["status"]).await;
    assert_eq!(half.code, 1, "{half:#?}");
    half.line("nobody streams from it");
    assert!(half.line("wrong").contains("redis") && half.err.contains("redis"), "{half:#?}");
    let json = program.run(&["status", "--json"]).await;
    let status: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert!(json.code == 1 && status["loaded"].is_null() && status["faults"][0].is_string(), "{status}");
}
