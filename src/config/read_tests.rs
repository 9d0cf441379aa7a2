use std::collections::HashMap;

use super::super::{Endpoint, TableKind, UserType};
use super::*;
use crate::keyplan::KeyMap;

fn read(text: &str) -> Result<Config, ConfigErrors> {
    read_with(text, &[])
}

fn read_with(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let mut env: HashMap<_, _> = env.iter().copied().collect();
    env.insert("USER", "somebody");
    let env = |name: &str| env.get(name).map(|value| (*value).to_owned());
    Config::read("lockstep.toml", text, &env, KeyMap::compile).map(|(config, _)| config)
}

fn mistakes(text: &str) -> Vec<String> {
    read(text).unwrap_err().0.iter().map(ToString::to_string).collect()
}

/// That exactly these mistakes are found; each expected text is in the mistake at its place.
fn assert_mistakes(text: &str, expected: &[&str]) {
    let found = mistakes(text);
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "{expected:?} is not in {found:?}");
    }
}

#[test]
fn without_file_and_environment_everything_has_its_default() {
    let config = read("").unwrap();
    assert_eq!(config.postgres.slot, "lockstep");
    assert_eq!(config.postgres.publication, "lockstep");
    assert_eq!(config.redis.seeds, [("127.0.0.1".to_owned(), 6379)]);
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:9855");
    assert_eq!(config.http.token, None);
    assert_eq!(config.log.format, LogFormat::Text);
    assert_eq!(config.log.level, "info");
    assert_eq!(config.stream.status_interval, Duration::from_secs(1));
    assert_eq!(config.tables, TableSpec::defaults());
    assert_eq!(config.key_map, KeyMapSpec::from_toml(keys::BUILT_IN).unwrap());
}

#[test]
fn a_mistake_in_the_key_map_is_found_with_the_others() {
    let text = "[[keys]]\nhash = \"a\"\nkey = \"b\"\nfields = { c = \"d\" }\n[redis]\nurll = 1";
    assert_mistakes(text, &["unknown key \"urll\"", "[[keys]] entry 1 has the unknown key \"key\""]);
}

#[test]
fn a_mistake_in_the_key_maps_templates_is_found_with_the_others() {
    let text = "[redis]\nurll = 1\n[[keys]]\nstring = \"balance:$id\"\nvalue = \"$wallet\"";
    let no_type = "lockstep.toml:3:1: [[keys]] entry 1: ";
    assert_mistakes(text, &["urll", no_type, "no followed table of users has the column wallet"]);
}

#[test]
fn tables_that_are_not_understood_do_not_make_mistakes_of_the_key_map() {
    let text = "[[tables]]\nname = \"users\"\nkind = \"user\"\n[[keys]]\nhash = \"a:$type:$id\"\nfields = { m = \"$mood\" }";
    assert_mistakes(text, &["kind \"user\" is not known"]);
}

#[test]
fn the_environment_wins_over_the_file() {
    let text = "[postgres]\nslot = \"a\"\n[redis]\nurl = \"redis://a:1\"\n[log]\nformat = \"text\"";
    let env = [
        ("LOCKSTEP_SLOT", "b"),
        ("LOCKSTEP_REDIS_URL", "redis://b:2, redis://c:3"),
        ("LOCKSTEP_LOG_FORMAT", "json"),
        ("LOCKSTEP_LOG", "debug"),
        ("LOCKSTEP_HTTP_LISTEN", "0.0.0.0:80"),
        ("LOCKSTEP_RETAINED_WAL_MAX", "1GiB"),
    ];
    let config = read_with(text, &env).unwrap();
    assert_eq!(config.postgres.slot, "b");
    assert_eq!(config.postgres.retained_wal_max, 1 << 30);
    assert_eq!(config.redis.seeds, [("b".to_owned(), 2), ("c".to_owned(), 3)]);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.log.level, "debug");
    assert_eq!(config.http.listen.port(), 80);
}

#[test]
fn a_size_is_named_with_its_unit_and_its_bounds() {
    let cure = "give a size from 64MiB to 1024TiB, \"8GiB\" for example";
    let not_one = format!("retained_wal_max = \"8GB\" is not an amount of data: {cure}");
    assert_mistakes("[postgres]\nretained_wal_max = \"8GB\"", &[&not_one]);
    assert_mistakes("[postgres]\nretained_wal_max = \"1MiB\"", &["\"1MiB\" is out of bounds"]);
    assert_eq!(read_with("", &[]).unwrap().postgres.retained_wal_max, 8 << 30);
}

#[test]
fn the_margin_is_no_reason_to_give_the_position_up() {
    let margin = |text| read_with(text, &[]).unwrap().replay_margin();
    let ten = Duration::from_secs(10);
    assert_eq!(margin(""), (ten, 64 << 20));
    assert_eq!(margin("[postgres]\nretained_wal_max = \"64MiB\""), (ten, 32 << 20));
    let large = "[postgres]\nretained_wal_max = \"1GiB\"\n[redis]\nreplay_margin_bytes = 17179869184";
    assert_eq!(margin(large), (ten, 512 << 20));
}

#[test]
fn each_shard_has_a_slot_and_a_publication_of_its_own() {
    let text = "[postgres]\nshards = 2\nslot = \"a\"";
    let config = read_with(text, &[("LOCKSTEP_SHARD", "1")]).unwrap();
    let shard = Shard::new(1, 2).unwrap();
    assert_eq!((config.postgres.slot.as_str(), config.postgres.shard), ("a_1of2", shard));
    assert_eq!(config.postgres.publication, "lockstep_1of2");
    assert!(config.tables.iter().all(|table| table.shard == shard));
    let again = read(&config.to_toml()).unwrap();
    assert_eq!((again.postgres.slot, again.postgres.shard), (config.postgres.slot, shard));
}

#[test]
fn a_shard_that_is_not_there_or_not_named_is_a_mistake() {
    assert_mistakes("[postgres]\nshards = 2", &["postgres.shards = 2, and no postgres.shard says which"]);
    assert_mistakes("[postgres]\nshards = 2\nshard = 2", &["postgres.shard = 2 is none of 2"]);
    assert_mistakes("[postgres]\nshard = 1", &["postgres.shard = 1 is none of 1"]);
    assert_mistakes("[postgres]\nshards = 17\nshard = 0", &["shards = 17 is out of bounds"]);
    let env = [("LOCKSTEP_SHARDS", "two"), ("LOCKSTEP_SHARD", "0")];
    let told = read_with("", &env).unwrap_err().0;
    assert_eq!(told.len(), 1);
    assert!(told[0].to_string().contains("shards = \"two\" is out of bounds"), "{told:?}");
    let long = format!("[postgres]\nshards = 2\nshard = 0\nslot = \"{}\"", "x".repeat(60));
    assert_mistakes(&long, &["is no slot name"]);
}

#[test]
fn an_empty_variable_is_an_unset_one() {
    assert_eq!(read_with("", &[("LOCKSTEP_SLOT", "")]).unwrap().postgres.slot, "lockstep");
}

#[test]
fn malformed_toml_is_named_by_line_and_column() {
    let found = mistakes("[postgres]\nslot = \"a\n[redis]\nurl = = 1\n");
    assert!(found.len() >= 2, "{found:#?}");
    assert!(found[0].starts_with("lockstep.toml:2:"), "{found:#?}");
    assert!(found[1].starts_with("lockstep.toml:4:"), "{found:#?}");
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let text = r#"
colour = "blue"
[postgres]
slto = "lockstep"
slot = "Not A Slot"
[redis]
url = "http://127.0.0.1"
[http]
listen = "localhost"
token_file = "/nonexistent/token"
[log]
format = "xml"
level = "info=loud=very"
[stream]
window_rows = 0
status_interval = "10 parsecs"
ready_lag = 10
[load]
workers = "two"
"#;
    assert_mistakes(
        text,
        &[
            "lockstep.toml:4:1: unknown key \"slto\" in [postgres]: did you mean \"slot\"?",
            "lockstep.toml:5:8: postgres.slot \"Not A Slot\" is no slot name: use 1 to 63",
            "lockstep.toml:7:7: ",
            "lockstep.toml:9:10: listen \"localhost\" is not understood: give an address and a port",
            "lockstep.toml:10:14: the token file /nonexistent/token cannot be read",
            "lockstep.toml:12:10: log format \"xml\" is not known: write \"text\" or \"json\"",
            "lockstep.toml:13:9: log level",
            "lockstep.toml:15:15: window_rows = 0 is out of bounds: give a number from 1",
            "lockstep.toml:16:19: status_interval = \"10 parsecs\" is not a length of time: give a time from",
            "lockstep.toml:17:13: ready_lag is a whole number, not a length of time",
            "lockstep.toml:19:11: workers is a string: give a whole number",
            "lockstep.toml:2:1: unknown key \"colour\": remove it, or use one of postgres, redis,",
        ],
    );
}

#[test]
fn a_mistake_in_a_variable_names_the_variable() {
    let errors = read_with("", &[("LOCKSTEP_SLOT", "a-b"), ("LOCKSTEP_HTTP_LISTEN", "9855")]).unwrap_err();
    let lines: Vec<_> = errors.to_string().lines().map(str::to_owned).collect();
    assert!(lines[0].starts_with("LOCKSTEP_SLOT: postgres.slot \"a-b\" is no slot name"), "{errors}");
    assert!(lines[1].starts_with("LOCKSTEP_HTTP_LISTEN: listen \"9855\" is not understood"), "{errors}");
}

#[test]
fn a_missing_file_is_a_mistake_with_its_cure() {
    let errors = Config::load(Some(Path::new("/nonexistent/lockstep.toml")), KeyMap::compile).unwrap_err();
    assert_eq!(errors.0.len(), 1);
    assert!(errors.to_string().contains("/nonexistent/lockstep.toml cannot be read"), "{errors}");
    assert!(errors.to_string().contains("--config"), "{errors}");
}

#[test]
fn a_bad_url_is_a_mistake_and_its_password_is_not_shown() {
    let text = "[postgres]\nurl = \"postgres://u:hunter2@host:port/db\"\n[redis]\nurl = \"redis://:hunter2@h:99999\"";
    let found = mistakes(text);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].starts_with("lockstep.toml:2:7: "), "{found:#?}");
    assert!(found[1].starts_with("lockstep.toml:4:7: "), "{found:#?}");
    assert!(found.iter().all(|mistake| !mistake.contains("hunter2")), "{found:#?}");
}

#[test]
fn split_tables_are_read() {
    let config = read(
        r#"
[[tables]]
name = "live_users"
kind = "users"
user_type = "live"
balance_column = "balance"
[[tables]]
name = 'crm."Demo"'
kind = "users"
user_type = "demo"
id_column = "uid"
columns = ["email"]
[[tables]]
name = "user_transactions"
kind = "transactions"
"#,
    )
    .unwrap();
    let kinds: Vec<_> = config.tables.iter().map(|t| (t.to_string(), t.user_type.clone())).collect();
    assert_eq!(
        kinds,
        [
            ("public.live_users".to_owned(), UserType::Constant("live".into())),
            ("crm.Demo".to_owned(), UserType::Constant("demo".into())),
            ("public.user_transactions".to_owned(), UserType::Column("user_type".into())),
        ]
    );
    assert_eq!(
        config.tables[1].kind,
        TableKind::Users { id_column: "uid".into(), balance_column: "wallet_balance".into() }
    );
    assert_eq!(config.tables[1].columns, Some(vec!["email".to_owned()]));
}

#[test]
fn every_mistake_in_tables_is_named() {
    let text = r#"
[[tables]]
kind = "users"
user_type = "live"
[[tables]]
name = "a"
kind = "user"
user_type = "x"
[[tables]]
name = "b c"
kind = "users"
[[tables]]
name = "live"
kind = "users"
user_type = "live"
user_id_column = "id"
[[tables]]
name = "also_live"
kind = "users"
user_type = "live"
[[tables]]
name = "public.live"
kind = "users"
user_type = "demo"
[[tables]]
name = "t1"
kind = "transactions"
[[tables]]
name = "t2"
kind = "transactions"
[[tables]]
name = "d"
kind = "users"
user_type = "a:b"
[[tables]]
name = "e"
kind = "users"
user_type = "e"
user_type_column = "e"
"#;
    let long = format!("[[tables]]\nname = \"f\"\nkind = \"users\"\nuser_type = \"{}\"", "x".repeat(513));
    assert_mistakes(&long, &["use a type of 1 to 512 bytes"]);
    assert_mistakes(
        text,
        &[
            "lockstep.toml:2:1: the table has no name",
            "lockstep.toml:7:8: kind \"user\" is not known",
            "lockstep.toml:10:8: name \"b c\" is not the name of a table",
            "lockstep.toml:9:1: the table of users does not say their user type",
            "lockstep.toml:16:1: unknown key \"user_id_column\" in [[tables]]: did you mean",
            "public.live and public.also_live both have users of type \"live\"",
            "the table public.live is configured twice",
            "public.t1 and public.t2 are both tables of transactions",
            "user_type \"a:b\" makes keys that collide",
            "user_type and user_type_column are both given",
        ],
    );
}

#[test]
fn tables_without_users_are_a_mistake() {
    assert_mistakes("[[tables]]\nname = \"t\"\nkind = \"transactions\"", &["no table of kind \"users\""]);
}

#[test]
fn the_example_configuration_says_what_the_defaults_are() {
    let example = include_str!("../../deploy/lockstep.toml");
    let uncommented: String = example.lines().map(|line| uncomment(line) + "\n").collect();
    for text in [example, &uncommented] {
        let config = read(text).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(config.stream.window_rows, WINDOW_ROWS);
        assert_eq!(config.stream.window_bytes, WINDOW_BYTES);
        assert_eq!(config.stream.flight_events, FLIGHT_EVENTS);
        assert_eq!(config.stream.status_interval, STATUS_INTERVAL);
        assert_eq!(config.stream.ready_lag, READY_LAG);
        assert_eq!((config.load.workers, config.load.chunk_rows), (LOAD_WORKERS, CHUNK_ROWS));
        assert_eq!(config.tables, TableSpec::defaults());
    }
}

/// `#key = value` is a setting that is commented out, `# text` is prose.
fn uncomment(line: &str) -> String {
    line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line).to_owned()
}

#[test]
fn what_is_printed_is_read_back_and_shows_no_password() {
    let text = r#"
[postgres]
url = "postgres://me:hunter2@db.example:5433/money?sslmode=require"
[redis]
url = ["rediss://ls:hunter2@a:1", "rediss://ls:hunter2@b:2"]
root_cert = "/etc/lockstep/redis-ca.pem"
[[tables]]
name = 'crm."Live Users"'
kind = "users"
user_type = "live"
columns = ["email", "group"]
"#;
    let config = read(text).unwrap();
    let printed = config.to_toml();
    assert!(!printed.contains("hunter2"), "{printed}");
    let again = read(&printed).unwrap_or_else(|errors| panic!("{errors}\n{printed}"));
    assert_eq!(again.to_toml(), printed);
    assert_eq!(again.tables, config.tables);
    assert_eq!(again.key_map, config.key_map);
    assert_eq!(again.postgres.endpoints, config.postgres.endpoints);
    assert_eq!(again.redis.seeds, config.redis.seeds);
    assert_eq!(again.redis.root_cert.as_deref(), Some(Path::new("/etc/lockstep/redis-ca.pem")));
}

#[test]
fn a_root_certificate_without_tls_is_odd() {
    let env = [("LOCKSTEP_REDIS_ROOT_CERT", "/ca.pem")];
    assert!(read_with("", &env).unwrap().warnings[0].contains("redis.root_cert is of no use"));
    let config = read_with("[redis]\nurl = \"rediss://a\"\nroot_cert = \"/other.pem\"", &env).unwrap();
    assert_eq!(config.redis.root_cert.as_deref(), Some(Path::new("/ca.pem")));
    assert_eq!(config.warnings, [] as [&str; 0]);
}

#[test]
fn every_variable_of_the_database_and_of_the_token_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, "0123456789abcdef0123456789abcdef").unwrap();
    std::fs::set_permissions(&token_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let text = "[postgres]\nurl = \"postgres://a@b/c\"\npublication = \"d\"\n[http]\ntoken_file = \"/e\"";
    let token_path = token_file.display().to_string();
    let env = [
        ("LOCKSTEP_POSTGRES_URL", "postgres://ls@db.example:5433/money"),
        ("LOCKSTEP_PUBLICATION", "money"),
        ("LOCKSTEP_HTTP_TOKEN_FILE", token_path.as_str()),
        // libpq's own come behind LOCKSTEP_POSTGRES_URL.
        ("PGHOST", "elsewhere"),
        ("PGDATABASE", "another"),
    ];
    let config = read_with(text, &env).unwrap();
    let postgres = &config.postgres;
    assert_eq!((postgres.user.as_str(), postgres.database.as_str()), ("ls", "money"));
    assert_eq!(postgres.endpoints, [Endpoint::Tcp("db.example".into(), 5433)]);
    assert_eq!(postgres.publication, "money");
    assert_eq!(config.http.token_file.as_deref(), Some(token_file.as_path()));
    assert_eq!(config.http.token.unwrap().expose(), "0123456789abcdef0123456789abcdef");
    let errors =
        read_with("", &[("LOCKSTEP_POSTGRES_URL", "http://a"), ("LOCKSTEP_PUBLICATION", "")]).unwrap_err();
    assert!(errors.to_string().starts_with("LOCKSTEP_POSTGRES_URL: "), "{errors}");
}
