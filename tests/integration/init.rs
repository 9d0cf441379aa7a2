//! `lockstep init` and `lockstep drop` against a real server.

use crate::harness::{COLUMN_LISTS, Postgres, PostgresOptions, not_before, postgres_major};
use crate::program::{Program, TABLES};

async fn server() -> Postgres {
    let postgres = Postgres::start(PostgresOptions::default().set("max_slot_wal_keep_size", "1GB")).await;
    postgres.sql(TABLES).await;
    postgres
}

/// Everything that init may create.
async fn traces(postgres: &Postgres) -> Vec<String> {
    let sql = "
        SELECT 'slot ' || slot_name FROM pg_replication_slots
        UNION ALL SELECT 'publication ' || pubname FROM pg_publication
        UNION ALL SELECT 'index ' || relname FROM pg_class WHERE relname LIKE 'lockstep%'
        UNION ALL SELECT 'identity ' || relname FROM pg_class
            WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relreplident <> 'd'
        UNION ALL SELECT 'role ' || rolname FROM pg_roles WHERE rolname LIKE 'follower%'
        ORDER BY 1";
    postgres.rows(sql).await.into_iter().flatten().flatten().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn init_creates_all_and_a_second_time_nothing() {
    let postgres = server().await;
    let program = Program::new(&postgres, "");
    let first = program.run(&["init"]).await;
    assert_eq!(first.code, 0, "{first:#?}");
    assert!(first.line("replica identity of public.users").ends_with("created"));
    assert!(first.line("replica identity of public.user_transactions").ends_with("created"));
    assert!(first.line("publication lockstep").ends_with("created"));
    assert!(first.line("slot lockstep").ends_with("created"));
    let made = traces(&postgres).await;
    assert_eq!(
        made,
        [
            "identity user_transactions",
            "identity users",
            "index lockstep_identity_user_transactions",
            "index lockstep_identity_users",
            "publication lockstep",
            "slot lockstep"
        ]
    );
    let second = program.run(&["init"]).await;
    assert_eq!(second.code, 0, "{second:#?}");
    assert!(second.out.lines().all(|line| line.ends_with("already there")), "{second:#?}");
    assert_eq!(traces(&postgres).await, made);
    postgres
        .sql("INSERT INTO users VALUES (1, 'live'); UPDATE users SET email = 'x'; DELETE FROM users")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_publication_leaves_secrets_out_or_init_says_that_it_cannot() {
    let postgres = server().await;
    let program = Program::new(&postgres, "");
    let planned = program.run(&["init", "--dry-run"]).await;
    let ended = program.run(&["init"]).await;
    assert_eq!(ended.code, 0, "{ended:#?}");
    if postgres_major() < COLUMN_LISTS {
        let warning = "lockstep: publication lockstep: PostgreSQL 14 has no column lists: every column";
        for said in [&planned.err, &ended.err, &program.run(&["init"]).await.err] {
            assert!(said.starts_with(warning) && said.contains("upgrade to 15"), "{said}");
        }
        return;
    }
    assert_eq!(ended.err, "");
    let sql =
        "SELECT tablename || ': ' || array_to_string(attnames, ' ') FROM pg_publication_tables ORDER BY 1";
    let published: Vec<String> = postgres.rows(sql).await.into_iter().flatten().flatten().collect();
    assert_eq!(
        published,
        [
            "user_transactions: id transaction_id user_id user_type type amount status admin_id",
            "users: id user_type email wallet_balance group",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_prints_the_sql_and_changes_nothing() {
    let postgres = server().await;
    let printed = Program::new(&postgres, "").run(&["init", "--dry-run", "--role", "follower"]).await;
    assert_eq!(printed.code, 0, "{printed:#?}");
    for sql in [
        "CREATE UNIQUE INDEX CONCURRENTLY",
        "CREATE PUBLICATION \"lockstep\"",
        "CREATE ROLE \"follower\"",
        "pg_create_logical_replication_slot('lockstep', 'pgoutput'",
        "PASSWORD '***'",
    ] {
        printed.line(sql);
    }
    assert!(!printed.out.contains("hunter2") && !printed.out.contains("SCRAM"), "{printed:#?}");
    assert_eq!(traces(&postgres).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_leftover_index_is_built_again() {
    let postgres = server().await;
    // A duplicate key makes the concurrent build fail and leave its index behind.
    postgres
        .sql(
            "ALTER TABLE users DROP CONSTRAINT users_pkey; INSERT INTO users VALUES (1, 'live'), (1, 'live')",
        )
        .await;
    let client = postgres.client().await;
    let build = "CREATE UNIQUE INDEX CONCURRENTLY lockstep_identity_users ON users (id, user_type)";
    assert!(client.batch_execute(build).await.is_err());
    postgres.sql("DELETE FROM users; ALTER TABLE users ALTER id SET NOT NULL").await;
    let ended = Program::new(&postgres, "").run(&["init"]).await;
    assert_eq!(ended.code, 0, "{ended:#?}");
    let sql = "SELECT indisvalid AND indisreplident FROM pg_index WHERE indexrelid = 'lockstep_identity_users'::regclass";
    assert_eq!(postgres.value(sql).await.as_deref(), Some("t"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_constant_user_type_needs_no_index() {
    let postgres = server().await;
    let tables = "[[tables]]\nname = \"users\"\nkind = \"users\"\nuser_type = \"live\"";
    assert_eq!(Program::new(&postgres, tables).run(&["init"]).await.code, 0);
    assert_eq!(traces(&postgres).await, ["publication lockstep", "slot lockstep"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nullable_user_type_is_reported_and_left_alone() {
    let postgres = server().await;
    postgres.sql("ALTER TABLE users ALTER user_type DROP NOT NULL").await;
    let ended = Program::new(&postgres, "").run(&["init"]).await;
    assert_eq!(ended.code, 1, "{ended:#?}");
    assert_eq!(ended.err.lines().count(), 1, "{ended:#?}");
    assert!(ended.err.starts_with("lockstep: column public.users.user_type allows NULL"), "{ended:#?}");
    assert!(ended.err.contains("SET NOT NULL"), "{ended:#?}");
    assert_eq!(traces(&postgres).await, [""; 0]);
}

/// That `init` runs, leaves this identity to `user_transactions`, and `check` warns with the cure.
async fn assert_kept(postgres: &Postgres, identity: &str, cure: &str) {
    let program = Program::new(postgres, "");
    let ended = program.run(&["init"]).await;
    assert_eq!(ended.code, 0, "{ended:#?}");
    assert!(ended.line("replica identity of public.user_transactions").ends_with("already there"));
    let kept = "SELECT relreplident FROM pg_class WHERE relname = 'user_transactions'";
    assert_eq!(postgres.value(kept).await.as_deref(), Some(identity));
    let check = program.run(&["check"]).await;
    let line = check.line("an edit of a completed row is told");
    assert!(line.starts_with('!') && line.contains(cure), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nullable_status_leaves_the_identity_of_the_transactions_as_it_is() {
    let postgres = server().await;
    postgres.sql("ALTER TABLE user_transactions ALTER status DROP NOT NULL").await;
    assert_kept(&postgres, "d", "ALTER COLUMN status SET NOT NULL").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_of_the_transactions_that_somebody_chose_stays() {
    let postgres = server().await;
    let chosen = "CREATE UNIQUE INDEX theirs ON user_transactions (transaction_id); \
                  ALTER TABLE user_transactions ALTER transaction_id SET NOT NULL, REPLICA IDENTITY USING INDEX theirs";
    postgres.sql(chosen).await;
    assert_kept(&postgres, "i", "set to something else on purpose").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_that_another_publication_has_never_fail_for_a_new_identity() {
    if not_before(COLUMN_LISTS, "another publication that lists columns") {
        return;
    }
    let postgres = server().await;
    postgres.sql("CREATE PUBLICATION narrow FOR TABLE user_transactions (id, amount)").await;
    assert_kept(&postgres, "d", "publication \"narrow\" lists columns").await;
    postgres.sql("INSERT INTO user_transactions (id, status) VALUES (1, 'pending')").await;
    postgres.sql("UPDATE user_transactions SET status = 'completed'").await;
    postgres.sql("DROP PUBLICATION narrow").await;
    let ended = Program::new(&postgres, "").run(&["init"]).await;
    assert!(ended.line("replica identity of public.user_transactions").ends_with("created"));
    postgres.sql("UPDATE user_transactions SET status = 'pending', notes = ''").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_identity_of_the_transactions_tells_all_and_stays() {
    let postgres = server().await;
    postgres.sql("ALTER TABLE user_transactions DROP id, DROP notes, REPLICA IDENTITY FULL").await;
    let program = Program::new(&postgres, "");
    let ended = program.run(&["init"]).await;
    assert!(ended.line("replica identity of public.user_transactions").ends_with("already there"));
    assert!(program.run(&["check"]).await.line("table public.user_transactions").starts_with('✓'));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_publication_is_brought_to_the_configured_columns() {
    let postgres = server().await;
    postgres.sql("CREATE TABLE other (id int PRIMARY KEY); CREATE PUBLICATION lockstep FOR TABLE users, other WITH (publish = 'insert')").await;
    let program = Program::new(&postgres, "");
    let ended = program.run(&["init"]).await;
    assert_eq!(ended.code, 0, "{ended:#?}");
    assert!(ended.line("publication lockstep").ends_with("changed"));
    let check = program.run(&["check"]).await;
    let well = if postgres_major() < COLUMN_LISTS { "! publication lockstep: PostgreSQL 14" } else { "✓" };
    assert!(check.line("publication lockstep").starts_with(well), "{check:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_may_stream_and_read_what_is_followed_and_nothing_else() {
    let postgres = server().await;
    let ended = Program::new(&postgres, "").run(&["init", "--role", "follower"]).await;
    assert_eq!(ended.code, 0, "{ended:#?}");
    assert!(!postgres.log().contains("hunter2"));
    let client = postgres.client_of("follower", "postgres").await;
    client.batch_execute("SELECT id, wallet_balance FROM users").await.unwrap();
    assert!(client.batch_execute("SELECT password_hash FROM users").await.is_err());
    assert!(client.batch_execute("UPDATE users SET email = ''").await.is_err());
    let check = Program::with_url(&postgres.url_for("follower", "postgres"), "").run(&["check"]).await;
    assert!(!check.out.contains('✗') || check.out.contains("✗ redis"), "{check:#?}");
    let again = Program::new(&postgres, "").run(&["init", "--role", "follower"]).await;
    assert!(again.out.lines().all(|line| line.ends_with("already there")), "{again:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn init_names_the_transaction_that_the_slot_waits_for() {
    let postgres = server().await;
    let idle = postgres.client().await;
    let pid: i32 = idle.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    idle.batch_execute("BEGIN; CREATE TABLE elsewhere ()").await.unwrap();
    let tables = "[[tables]]\nname = \"users\"\nkind = \"users\"\nuser_type = \"live\"";
    let program = Program::new(&postgres, tables);
    let call = program.run(&["init"]);
    let release = async {
        // Its second look: the first one has been answered by then.
        let looked = "SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE '%pg_blocking_pids(%' \
                      AND application_name = 'lockstep' AND query_start > backend_start + interval '3 s'";
        postgres.eventually_value(looked, "t").await;
        idle.batch_execute("COMMIT").await.unwrap();
    };
    let (ended, ()) = tokio::join!(call, release);
    assert_eq!(ended.code, 0, "{ended:#?}");
    assert!(ended.line("waits for").contains(&format!("pid {pid}")), "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn drop_removes_what_init_added_and_nothing_else() {
    let postgres = server().await;
    postgres
        .sql("CREATE INDEX lockstep_unrelated ON users (email); CREATE PUBLICATION other FOR TABLE users")
        .await;
    let before = traces(&postgres).await;
    let program = Program::new(&postgres, "");
    assert_eq!(program.run(&["init"]).await.code, 0);
    let unasked = program.run(&["drop"]).await;
    assert_eq!((unasked.code, unasked.err.contains("--yes")), (1, true), "{unasked:#?}");
    let ended = program.run(&["drop", "--yes"]).await;
    assert_eq!(ended.code, 0, "{ended:#?}");
    assert_eq!(traces(&postgres).await, before);
    let again = program.run(&["drop", "--yes"]).await;
    assert_eq!((again.code, again.out.trim()), (0, "nothing of Lockstep is left in the database"));
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_names_are_quoted() {
    let postgres = server().await;
    postgres.sql("CREATE SCHEMA \"a.b\"; CREATE TABLE \"a.b\".\"us\"\"ers; x\" (\"Id\" uuid PRIMARY KEY, wallet_balance numeric)").await;
    let tables = "publication = 'pub\"; DROP TABLE users; --'\n[[tables]]\nname = '\"a.b\".\"us\"\"ers; x\"'\n\
                  kind = \"users\"\nuser_type = \"live\"\nid_column = \"Id\"";
    let program = Program::new(&postgres, tables);
    let ended = program.run(&["init", "--role", "follower\"'{table}"]).await;
    assert_eq!(ended.code, 0, "{ended:#?}");
    assert_eq!(program.run(&["drop", "--yes"]).await.code, 0);
    assert_eq!(postgres.value("SELECT count(*) FROM users").await.as_deref(), Some("0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partitioned_table_is_told_what_it_needs_and_then_set_up_partition_by_partition() {
    let postgres = server().await;
    postgres
        .sql(
            "CREATE TABLE players (id int PRIMARY KEY, user_type text NOT NULL, wallet_balance numeric) \
             PARTITION BY HASH (id); \
             CREATE TABLE players_0 PARTITION OF players FOR VALUES WITH (MODULUS 2, REMAINDER 0); \
             CREATE TABLE players_1 PARTITION OF players FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
        )
        .await;
    let tables = "[[tables]]\nname = \"players\"\nkind = \"users\"\nuser_type_column = \"user_type\"";
    let program = Program::new(&postgres, tables);
    let refused = program.run(&["init"]).await;
    assert_eq!(refused.code, 1, "{refused:#?}");
    let (_, cure) = refused.err.split_once("run CREATE").expect("the index that is needed");
    let (index, _) = cure.split_once(", which blocks").expect("and what it costs");
    postgres.sql(&format!("CREATE{index}")).await;
    let ended = program.run(&["init"]).await;
    assert_eq!(ended.code, 0, "{ended:#?}");
    assert!(program.run(&["init"]).await.out.lines().all(|line| line.ends_with("already there")));
    // A partition that comes later has the index, not yet the identity.
    let parent = "ALTER TABLE players DETACH PARTITION players_1; DROP TABLE players_1; \
                  CREATE TABLE players_1 PARTITION OF players FOR VALUES WITH (MODULUS 2, REMAINDER 1)";
    postgres.sql(parent).await;
    program
        .run(&["check"])
        .await
        .line("identity of partition players_1 of public.players does not cover id, user_type");
    assert_eq!(program.run(&["init"]).await.code, 0);
    let identities = "SELECT string_agg(relreplident::text, '' ORDER BY relname) FROM pg_class \
                      WHERE relname IN ('players', 'players_0', 'players_1')";
    assert_eq!(postgres.value(identities).await.as_deref(), Some("iii"));
}
