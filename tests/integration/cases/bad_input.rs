//! Mistakes of operators: one message with the fact and the cure, the right exit code, no panic.

use crate::harness::lockstep::Finished;
use crate::harness::{Lockstep, On, Setup, World, eventually};

/// What holds for every mistake.
fn assert_plain(finished: &Finished, code: i32, words: &[&str]) {
    assert_eq!(finished.code, Some(code), "{finished:?}");
    let text = format!("{}{}", finished.stdout, finished.stderr);
    assert!(!text.contains("panicked") && !text.contains("RUST_BACKTRACE"), "{text}");
    assert!(!text.contains("hunter2"), "a secret is shown: {text}");
    if code == 1 {
        let messages: Vec<&str> =
            finished.stderr.lines().filter(|line| line.starts_with("lockstep: ")).collect();
        assert!(messages.len() == 1 && finished.stderr.ends_with(&format!("{}\n", messages[0])), "{text}");
    }
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_mistakes_of_a_configuration_are_named_at_once() {
    let lockstep = Lockstep::new("postgresql://nobody@127.0.0.1:1/none", &["redis://127.0.0.1:1".into()], "");
    let nonsense = [
        (
            "[postgres]\nurl = 'nonsense://x'\n[redis]\nurl = 'http://y'\n[http]\nlisten = 'here'\n",
            vec!["postgres", "redis", "listen"],
        ),
        ("[postgres]\nslott = 'a'\n[rediss]\nurl = 'x'\n", vec!["slott", "rediss"]),
        ("[postgres\nurl = 5", vec!["lockstep.toml"]),
        ("[http]\ntoken_file = '/no/such/file'\n", vec!["token file"]),
        (
            "[[keys]]\nstring = 'b:$type:$id'\nvalue = '$wallet'\n[log]\nformat = 'x'\n",
            vec!["column wallet", "log format"],
        ),
    ];
    for (toml, words) in nonsense {
        lockstep.configure(toml);
        for command in ["run", "check", "init"] {
            assert_plain(&lockstep.finish(&[command]).await, 2, &words);
        }
    }
    assert_plain(&lockstep.finish(&["runn"]).await, 2, &["runn"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_be_reached_is_a_plain_message() {
    let lockstep =
        Lockstep::new("postgresql://nobody:hunter2@127.0.0.1:1/none", &["redis://127.0.0.1:1".into()], "");
    assert_plain(&lockstep.finish(&["init"]).await, 1, &["127.0.0.1"]);
    assert_plain(&lockstep.finish(&["status"]).await, 1, &["127.0.0.1"]);
    assert_plain(&lockstep.finish(&["check"]).await, 3, &["127.0.0.1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_file_that_is_none_is_named() {
    let lockstep = Lockstep::new("postgresql://nobody@127.0.0.1:1/none", &["redis://127.0.0.1:1".into()], "");
    let token = lockstep.config_path().with_file_name("token");
    for (text, word) in [
        ("", "empty"),
        ("short", "shorter"),
        ("one line of text with blanks in it", "blanks"),
        ("hunter2-hunter2-hunter2-hunter2\nhunter2-hunter2-hunter2-hunter2\n", "more than one line"),
    ] {
        std::fs::write(&token, text).unwrap();
        assert_plain(&lockstep.finish(&["run"]).await, 2, &["token", word]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_a_plain_message() {
    let mut setup = Setup::on(On::Single);
    setup.postgres.hba = Some("host all all 127.0.0.1/32 scram-sha-256".into());
    let world = World::set_up(setup).await;
    world.sql("CREATE ROLE reader LOGIN SUPERUSER PASSWORD 'right'").await;
    let url = format!("postgresql://reader:hunter2@127.0.0.1:{}/postgres", world.postgres.port());
    let lockstep = Lockstep::new(&url, &world.store.urls(), "");
    for (command, code) in [("init", 1), ("run", 1), ("status", 1), ("drop", 1), ("check", 3)] {
        assert_plain(&lockstep.finish(&[command]).await, code, &["refuses the password of role", "reader"]);
    }
    // Nobody has to mend Redis first to learn it.
    let lockstep = Lockstep::new(&url, &["redis://127.0.0.1:1".into()], "");
    assert_plain(&lockstep.finish(&["run"]).await, 1, &["refuses the password of role", "reader"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_of_redis_is_a_plain_message() {
    let mut setup = Setup::on(On::Single);
    setup.redis.password = Some("right".into());
    let world = World::set_up(setup).await;
    world.lockstep.init().await;
    let urls: Vec<String> = world.store.urls().iter().map(|url| url.replace("right", "hunter2")).collect();
    let lockstep = Lockstep::new(&world.postgres.url(), &urls, "");
    assert_plain(&lockstep.finish(&["run"]).await, 1, &["redis.url"]);
    assert_plain(&lockstep.finish(&["check"]).await, 3, &["redis.url"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_logical_wal_is_told_how_to_get_it() {
    let mut setup = Setup::on(On::Single);
    setup.postgres = setup.postgres.set("wal_level", "replica");
    let world = World::set_up(setup).await;
    assert_plain(&world.lockstep.finish(&["init"]).await, 1, &["wal_level", "logical"]);
    assert_plain(&world.lockstep.finish(&["run"]).await, 1, &["wal_level", "logical", "restart PostgreSQL"]);
    assert_plain(&world.lockstep.finish(&["check"]).await, 3, &["wal_level", "logical"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_publication_is_named_with_its_cure() {
    let world = World::set_up(Setup::on(On::Single)).await;
    world.lockstep.init().await;
    world.sql("DROP PUBLICATION lockstep").await;
    assert_plain(&world.lockstep.finish(&["check"]).await, 3, &["publication", "lockstep init"]);
    assert_plain(&world.lockstep.finish(&["run"]).await, 1, &["publication", "lockstep init"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_of_another_plugin_or_database_is_left_alone() {
    let world = World::set_up(Setup::on(On::Single)).await;
    world.sql("SELECT pg_create_logical_replication_slot('lockstep', 'test_decoding')").await;
    assert_plain(&world.lockstep.finish(&["init"]).await, 1, &["lockstep", "test_decoding"]);
    world.sql("CREATE PUBLICATION lockstep FOR TABLE users, user_transactions").await;
    assert_plain(&world.lockstep.finish(&["run"]).await, 1, &["lockstep", "test_decoding"]);
    world.sql("SELECT pg_drop_replication_slot('lockstep')").await;
    world.postgres.create_database("other").await;
    let other = world.postgres.client_of("postgres", "other").await;
    other.batch_execute("SELECT pg_create_logical_replication_slot('lockstep', 'pgoutput')").await.unwrap();
    assert_plain(&world.lockstep.finish(&["init"]).await, 1, &["lockstep", "other"]);
    assert_plain(&world.lockstep.finish(&["run"]).await, 1, &["lockstep", "other"]);
    assert_eq!(world.postgres.value("SELECT count(*) FROM pg_replication_slots").await.as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_its_balance_column_is_named() {
    let mut setup = Setup::on(On::Single);
    setup.schema = Some("CREATE TABLE users (id int PRIMARY KEY, user_type text NOT NULL)".into());
    let world = World::set_up(setup).await;
    assert_plain(&world.lockstep.finish(&["init"]).await, 1, &["wallet_balance"]);
    assert_plain(&world.lockstep.finish(&["run"]).await, 1, &["wallet_balance"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_instance_waits_for_the_slot() {
    let world = World::running(On::Single).await;
    world.user("live", 7, "100").await;
    let second = Lockstep::new(&world.postgres.url(), &world.store.urls(), "");
    second.spawn(&["run"]);
    world.credit(7, "1").await;
    world.eventually_equal().await;
    assert!(second.exited().is_none(), "it stands by");
    eventually("it says so", async || {
        let (status, body) = second.http("GET", "/readyz").await.ok()?;
        (status == 503 && body.contains("another instance holds the slot")).then_some(())
    })
    .await;
    world.credit(7, "1").await;
    world.eventually_equal().await;
    assert_eq!(second.log().matches("another instance holds the slot").count(), 1, "{}", second.log());
    assert_eq!(second.metric("lockstep_postgres_reconnects_total").await, 0.0, "waiting is no fault");
    world.lockstep.kill9();
    world.credit(7, "1").await;
    world.eventually_equal().await;
    assert_eq!(second.metric("lockstep_leader").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn drop_names_who_streams_from_the_slot() {
    let world = World::running(On::Single).await;
    let pid = world.postgres.value("SELECT active_pid FROM pg_replication_slots").await.unwrap();
    let who = format!("slot \"lockstep\" streams to pid {pid} (lockstep");
    assert_plain(&world.lockstep.finish(&["drop", "--yes"]).await, 1, &[&who, "stop that program"]);
    assert_eq!(world.postgres.value("SELECT count(*) FROM pg_publication").await.as_deref(), Some("1"));
    world.user("live", 7, "100").await;
    world.eventually_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_tells_how_it_is_used() {
    let lockstep = Lockstep::new("postgresql://nobody@127.0.0.1:1/none", &["redis://127.0.0.1:1".into()], "");
    let whole = lockstep.succeed(&["--help"]).await;
    // A long description goes on in lines that stand further in.
    let is_command = |line: &&str| line.starts_with("  ") && !line.starts_with("   ");
    let listed = whole.lines().skip_while(|line| *line != "Commands:").take_while(|line| !line.is_empty());
    let commands: Vec<&str> =
        listed.filter(is_command).filter_map(|line| line.split_whitespace().next()).collect();
    assert!(
        ["run", "init", "check", "status", "drop"].iter().all(|known| commands.contains(known)),
        "{whole}"
    );
    for command in commands.into_iter().filter(|command| *command != "help") {
        let told = lockstep.succeed(&[command, "--help"]).await;
        assert!(told.contains("--config <FILE>") && told.contains(&format!("lockstep {command}")), "{told}");
    }
}
