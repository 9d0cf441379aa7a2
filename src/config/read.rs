//! File and environment -> [`Config`]: every mistake at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::de::{DeTable, ValueDeserializer};
use tracing_subscriber::EnvFilter;

use super::mistake::{ConfigErrors, Mistakes};
use super::section::{Context, Found, Section, Source};
use super::shard::{SHARDS_BOUNDS, Shard};
use super::{
    Config, Durability, KeyMapSpec, Load, Log, LogFormat, Postgres, Redis, Stream, TableSpec, audit, http,
    keys, postgres, read_tables, redis,
};
use crate::error::Fault;

/// Largest configuration file, in bytes: more is some other file.
const LARGEST_FILE: u64 = 1 << 20;

/// Default of `window_rows`: what a wide row does to the keys takes about 7 KiB until it has left, so that a window
/// takes about 14 MiB.
const WINDOW_ROWS: usize = 2048;
/// Default of `window_bytes`.
const WINDOW_BYTES: usize = 4 << 20;
/// Default of `flight_events`.
const FLIGHT_EVENTS: usize = 512;
/// Default of `status_interval`, a sixth of the stream's `wal_sender_timeout`.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// Longest `status_interval`: one update may be late, and the stream goes on.
const STATUS_INTERVAL_LIMIT: Duration = Duration::from_secs(2);
/// Default of `ready_lag`.
const READY_LAG: Duration = Duration::from_secs(10);
/// Default of `load.workers`.
const LOAD_WORKERS: usize = 2;
/// Default of `load.users_per_second`: no limit.
const USERS_PER_SECOND: usize = 0;
/// Default of `load.chunk_rows`.
const CHUNK_ROWS: usize = 1000;

impl Config {
    /// Reads the file, if one is named, and the process's environment over it, and has `compile` make a
    /// key map of it: the room that understands one is to the right of this leaf.
    pub fn load<K>(
        file: Option<&Path>,
        compile: impl FnOnce(&KeyMapSpec, &[TableSpec]) -> Result<K, Vec<Fault>>,
    ) -> Result<(Config, K), ConfigErrors> {
        let env = |name: &str| std::env::var(name).ok();
        match file {
            None => Config::read("", "", &env, compile),
            Some(path) => {
                let text = read_file(path).map_err(|fault| ConfigErrors(vec![fault]))?;
                Config::read(&path.display().to_string(), &text, &env, compile)
            }
        }
    }

    /// Reads a configuration's text; `name` stands in front of its mistakes.
    pub fn read<K>(
        name: &str,
        text: &str,
        env: &dyn Fn(&str) -> Option<String>,
        compile: impl FnOnce(&KeyMapSpec, &[TableSpec]) -> Result<K, Vec<Fault>>,
    ) -> Result<(Config, K), ConfigErrors> {
        let mistakes = Mistakes::default();
        let source = Source { name, text };
        let (table, errors) = DeTable::parse_recoverable(text);
        report_syntax(source, &errors, &mistakes);
        if !errors.is_empty() {
            // What was recovered from broken text would only produce mistakes that are not there.
            return mistakes.or(None);
        }
        let config = {
            let context = Context { source, env, mistakes: &mistakes };
            let mut root = Section::root(&context, table.get_ref());
            let config = read_all(&context, &mut root, compile);
            root.finish();
            config
        };
        mistakes.or(config)
    }
}

/// One mistake a line, from the top: what follows on the same line is mostly its echo.
fn report_syntax(source: Source<'_>, errors: &[toml::de::Error], mistakes: &Mistakes) {
    let mut found: Vec<_> =
        errors.iter().map(|error| (error.span().map_or(0, |span| span.start), error.message())).collect();
    found.sort_unstable();
    found.dedup_by_key(|(offset, _)| source.line(*offset));
    for (offset, message) in found {
        let fact = format!("not TOML: {}", message.replace('\n', ", "));
        mistakes.add(&source.place(offset), fact, "correct the line; https://toml.io has the rules");
    }
}

fn read_file(path: &Path) -> Result<String, Fault> {
    let name = path.display();
    let fault = |why: String| Fault {
        fact: format!("the configuration file {name} {why}"),
        cure: "give the path of a readable TOML file after --config".into(),
    };
    let metadata = fs::metadata(path).map_err(|e| fault(format!("cannot be read ({})", e.kind())))?;
    if metadata.len() > LARGEST_FILE {
        return Err(fault("is larger than 1 MiB".into()));
    }
    fs::read_to_string(path).map_err(|e| fault(format!("cannot be read ({})", e.kind())))
}

fn read_all<K>(
    context: &Context<'_>,
    root: &mut Section<'_>,
    compile: impl FnOnce(&KeyMapSpec, &[TableSpec]) -> Result<K, Vec<Fault>>,
) -> Option<(Config, K)> {
    let mut warnings = Vec::new();
    let postgres = read_postgres(context, root.section("postgres"), &mut warnings);
    let redis = read_redis(context, root.section("redis"), &mut warnings);
    let http = http::read(context, root.section("http"), &mut warnings);
    let log = read_log(context, root.section("log"));
    let stream = read_stream(root.section("stream"));
    let load = read_load(root.section("load"));
    let audit = audit::read(root.section("audit"));
    let before_tables = context.mistakes.count();
    let mut tables = match root.sections("tables") {
        Some(sections) => read_tables::read(sections, context.mistakes),
        None => TableSpec::defaults(),
    };
    if let Some(postgres) = &postgres {
        tables.iter_mut().for_each(|table| table.shard = postgres.shard);
    }
    let sound_tables = context.mistakes.count() == before_tables;
    let (Found { value: key_map, place }, key_map_toml) = read_keys(context, root)?;
    // Against tables that are not understood, every column of the map would look like a mistake.
    let compiled = sound_tables.then(|| compile(&key_map, &tables))?;
    let compiled = compiled.map_err(|faults| {
        faults.iter().for_each(|fault| context.mistakes.add_fault(&place, fault));
    });
    let config = Config {
        postgres: postgres?,
        redis: redis?,
        http: http?,
        log: log?,
        audit,
        tables,
        key_map,
        key_map_toml,
        stream,
        load,
        warnings,
    };
    Some((config, compiled.ok()?))
}

fn read_postgres(
    context: &Context<'_>,
    mut section: Section<'_>,
    warnings: &mut Vec<String>,
) -> Option<Postgres> {
    let url = section.text_or_env("url", "LOCKSTEP_POSTGRES_URL");
    let slot = section.text_or_env("slot", "LOCKSTEP_SLOT");
    let publication = section.text_or_env("publication", "LOCKSTEP_PUBLICATION");
    let shards = section.count_or_env("shards", "LOCKSTEP_SHARDS", SHARDS_BOUNDS);
    let shard = section.count_or_env("shard", "LOCKSTEP_SHARD", 0..=SHARDS_BOUNDS.end() - 1);
    let retained_wal_max = section.size_or_env(
        "retained_wal_max",
        "LOCKSTEP_RETAINED_WAL_MAX",
        postgres::DEFAULT_RETAINED_WAL_MAX,
        postgres::RETAINED_WAL_BOUNDS,
    );
    section.finish();
    let checked = |found: Option<Found<String>>, check: fn(&str) -> Result<String, String>| {
        let found = found?;
        check(&found.value).map_err(|mistake| context.mistakes.add(&found.place, mistake, "")).ok()
    };
    let shard = read_shard(context, shards, shard);
    let of_shard = |found: Option<Found<String>>| {
        let found = found.unwrap_or(Found { value: postgres::DEFAULT_NAME.to_owned(), place: String::new() });
        Some(Found { value: shard.name(&found.value), place: found.place })
    };
    let slot = checked(of_shard(slot), postgres::slot_name);
    let publication = checked(of_shard(publication), postgres::publication_name);
    match Postgres::read(url.as_ref().map(|url| url.value.as_str()), context.env) {
        Ok((mut postgres, odd)) => {
            warnings.extend(odd);
            postgres.slot = slot.unwrap_or(postgres.slot);
            postgres.publication = publication.unwrap_or(postgres.publication);
            postgres.shard = shard;
            postgres.retained_wal_max = retained_wal_max;
            Some(postgres)
        }
        Err(faults) => {
            let place = url.as_ref().map_or("", |url| url.place.as_str());
            faults.iter().for_each(|fault| context.mistakes.add(place, fault, ""));
            None
        }
    }
}

/// Which part of the users is followed.
fn read_shard(context: &Context<'_>, shards: Option<usize>, shard: Option<usize>) -> Shard {
    let shards = shards.unwrap_or(1);
    let fact = match shard {
        None if shards > 1 => format!("postgres.shards = {shards}, and no postgres.shard says which of them"),
        shard => match Shard::new(shard.unwrap_or(0), shards) {
            Some(shard) => return shard,
            None => format!("postgres.shard = {} is none of {shards}", shard.unwrap_or(0)),
        },
    };
    let cure =
        format!("give each process another postgres.shard or LOCKSTEP_SHARD, from 0 to {}", shards - 1);
    context.mistakes.add("", fact, cure);
    Shard::WHOLE
}

fn read_redis(context: &Context<'_>, mut section: Section<'_>, warnings: &mut Vec<String>) -> Option<Redis> {
    let in_file = section.texts("url", true);
    let root_cert = section.text_or_env("root_cert", "LOCKSTEP_REDIS_ROOT_CERT");
    let durability = section.text("durability");
    let durability = durability.as_ref().map_or(Some(Durability::Applied), |found| {
        let cure = "write \"applied\", \"replicated(1)\" (to \"replicated(9)\") or \"fsynced\"";
        section.parse("durability", Some(found), cure)
    });
    let longest = Duration::from_secs(600);
    let replay_margin = section.duration("replay_margin", redis::REPLAY_MARGIN, Duration::ZERO..=longest);
    let replay_margin_bytes =
        section.count("replay_margin_bytes", redis::REPLAY_MARGIN_BYTES, 0..=16 << 30) as u64;
    section.finish();
    let split = |text: &str| text.split(',').map(|url| url.trim().to_owned()).collect();
    let in_env = context.env("LOCKSTEP_REDIS_URL");
    let urls = in_env.map(|found| Found { value: split(&found.value), place: found.place }).or(in_file);
    let urls = urls
        .unwrap_or_else(|| Found { value: vec!["redis://127.0.0.1:6379".to_owned()], place: String::new() });
    match Redis::parse(&urls.value) {
        Ok(mut redis) => {
            redis.replay_margin = replay_margin;
            redis.replay_margin_bytes = replay_margin_bytes;
            redis.durability = durability?;
            redis.root_cert = root_cert.map(|found| PathBuf::from(found.value));
            if redis.root_cert.is_some() && !redis.tls {
                warnings
                    .push("redis.root_cert is of no use: redis.url asks for no TLS (rediss://)".to_owned());
            }
            Some(redis)
        }
        Err(faults) => {
            faults.iter().for_each(|fault| context.mistakes.add_fault(&urls.place, fault));
            None
        }
    }
}

fn read_log(context: &Context<'_>, mut section: Section<'_>) -> Option<Log> {
    let format = section.text_or_env("format", "LOCKSTEP_LOG_FORMAT");
    let level = section.text_or_env("level", "LOCKSTEP_LOG");
    section.finish();
    let format = match format.as_ref().map(|found| (found.value.as_str(), found)) {
        None | Some(("text", _)) => Some(LogFormat::Text),
        Some(("json", _)) => Some(LogFormat::Json),
        Some((other, found)) => {
            let fact = format!("log format {other:?} is not known");
            context.mistakes.add(&found.place, fact, "write \"text\" or \"json\"");
            None
        }
    };
    let level = level.unwrap_or_else(|| Found { value: "info".into(), place: String::new() });
    if EnvFilter::builder().parse(&level.value).is_err() {
        let fact = format!("log level {:?} is not understood", level.value);
        let cure = "write error, warn, info, debug or trace, or a filter: \"info,lockstep=debug\"";
        context.mistakes.add(&level.place, fact, cure);
    }
    Some(Log { format: format?, level: level.value })
}

/// The key map, and its text for people.
fn read_keys(context: &Context<'_>, root: &mut Section<'_>) -> Option<(Found<KeyMapSpec>, String)> {
    let mut faults = Vec::new();
    let Some(given) = root.raw("keys") else {
        let built_in =
            KeyMapSpec::from_toml(keys::BUILT_IN).map_err(|mut mistakes| faults.append(&mut mistakes));
        faults.iter().for_each(|fault| context.mistakes.add_fault("", fault));
        // Like a map of one's own: without its comments.
        let shown = keys::BUILT_IN.parse::<toml::Table>().ok()?.to_string();
        return Some((Found { value: built_in.ok()?, place: String::new() }, shown));
    };
    let place = context.source.place(given.span().start);
    let value = match toml::Value::deserialize(ValueDeserializer::from(given.clone())) {
        Ok(value) => value,
        Err(error) => {
            context.mistakes.add(&place, format!("[[keys]]: {}", error.message()), "correct the value");
            return None;
        }
    };
    let key_map = keys::parse(&value, &mut faults);
    faults.iter().for_each(|fault| context.mistakes.add_fault(&place, fault));
    let shown = toml::Table::from_iter([("keys".to_owned(), value)]).to_string();
    faults.is_empty().then_some((Found { value: key_map, place }, shown))
}

fn read_stream(mut section: Section<'_>) -> Stream {
    let (ms, minute) = (Duration::from_millis(1), Duration::from_secs(60));
    let stream = Stream {
        window_rows: section.count("window_rows", WINDOW_ROWS, 1..=1 << 20),
        window_bytes: section.count("window_bytes", WINDOW_BYTES, 64 << 10..=1 << 30),
        flight_events: section.count("flight_events", FLIGHT_EVENTS, 1..=1 << 16),
        status_interval: section.duration(
            "status_interval",
            STATUS_INTERVAL,
            ms * 100..=STATUS_INTERVAL_LIMIT,
        ),
        ready_lag: section.duration("ready_lag", READY_LAG, ms..=minute * 60 * 24),
    };
    section.finish();
    stream
}

fn read_load(mut section: Section<'_>) -> Load {
    let load = Load {
        workers: section.count("workers", LOAD_WORKERS, 1..=64),
        chunk_rows: section.count("chunk_rows", CHUNK_ROWS, 1..=100_000),
        users_per_second: section.count("users_per_second", USERS_PER_SECOND, 0..=10_000_000),
    };
    section.finish();
    load
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
