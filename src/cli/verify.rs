//! `lockstep verify`

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::Exit;
use super::asking::{ask, done};
use super::output::{grouped, say, table};
use super::resync::refuse_unknown;
use crate::catalog::Slot;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::keyplan::KeyMap;
use crate::metrics::Metrics;
use crate::resync::asked::Question;
use crate::verify::report::{Class, Example, MAX_FOUND, Report, Shown};
use crate::verify::{Scope, Verifier};
use crate::wire::sql;

/// Users in one request for a repair.
const REQUEST_USERS: usize = 500;
/// How often it is looked whether anybody still streams, and how many such looks in a row must find nobody.
const STREAM_INTERVAL: Duration = Duration::from_secs(1);
const STREAM_LOOKS: u32 = 10;

/// Compare the whole database with the whole Redis; exit code 3 if something differs
///
/// Writes nothing. Whoever differs is looked at again after the stream has passed, so that a busy system gives no
/// false alarm. Finds keys of users who are not in the database as well.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only users of this table; may be given again
    #[arg(long, value_name = "SCHEMA.NAME")]
    table: Vec<String>,
    /// Read at most so many users from the database in a second; 0: as fast as it goes
    #[arg(long, value_name = "N", default_value_t = 0)]
    users_per_second: usize,
    /// Have the running instance heal what differs, and wait until it has
    #[arg(long)]
    repair: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Show in examples what the database says and what Redis holds
    #[arg(long)]
    show_values: bool,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Told {
    #[serde(flatten)]
    report: Report,
    /// What became of a repair; `null` where there was none.
    repair: Option<Repair>,
}

/// What became of a repair, in users and keys of nobody.
#[derive(Debug, Clone, Copy, Serialize)]
struct Repair {
    /// How much is well again.
    healed: u64,
    /// How much still differs.
    left: u64,
}

pub(super) async fn run(config: Config, key_map: KeyMap, args: Args) -> Result<Exit> {
    refuse_unknown(&config, &args.table)?;
    let config = Arc::new(config);
    let verifier = Verifier::new(Arc::clone(&config), Arc::new(key_map), Metrics::new()?.sink);
    if !verifier.is_loaded().await? {
        tracing::warn!("no load is finished: users who are not loaded yet are absent");
    }
    let scope =
        Scope { tables: args.table, users_per_second: args.users_per_second, shows_values: args.show_values };
    let report = verifier.verify(scope.clone()).await?;
    if !args.repair || report.is_clean() {
        let exit = if report.is_clean() { Exit::Done } else { Exit::Found };
        print(Told { report, repair: None }, args.json)?;
        return Ok(exit);
    }
    match repair(&config, &verifier, &report, scope).await {
        Ok(repair) => {
            print(Told { report, repair: Some(repair) }, args.json)?;
            Ok(if repair.left == 0 { Exit::Done } else { Exit::Found })
        }
        Err(fault) => {
            print(Told { report, repair: None }, args.json)?;
            Err(fault)
        }
    }
}

/// Asks the running instance to write again whoever differs, waits, and looks again.
async fn repair(config: &Config, verifier: &Verifier, report: &Report, scope: Scope) -> Result<Repair> {
    is_streamed(config).await?;
    let users = report.found.iter().map(|user| (user.user_type.to_string(), user.id.to_string()));
    let users: Vec<(String, String)> = users.collect();
    let questions: Vec<Question> = match report.found_more {
        true => vec![Question { tables: scope.tables.clone(), ..Question::default() }],
        false => users
            .chunks(REQUEST_USERS)
            .map(|users| Question { users: users.to_vec(), ..Question::default() })
            .collect(),
    };
    match report.found_more {
        true => {
            tracing::info!("more than {MAX_FOUND} users differ: whole tables are asked to be written again")
        }
        false => tracing::info!(users = users.len(), "users are asked to be written again"),
    }
    let mut asked = None;
    for question in &questions {
        asked = Some(ask(config, question).await?);
    }
    if let Some(asked) = asked {
        tokio::select! {
            healed = done(config, asked) => { healed?; }
            fault = nobody_streams(config) => return Err(fault),
        }
    }
    let after = match report.found_more {
        true => verifier.verify(scope).await?,
        false => verifier.verify_users(report.found.clone()).await?,
    };
    let (before, left) = (differing(report), differing(&after));
    Ok(Repair { healed: before.saturating_sub(left), left })
}

fn differing(report: &Report) -> u64 {
    report.absent + report.wrong + report.orphaned_keys + report.unconfirmed
}

/// Whether an instance streams, which can be asked.
async fn is_streamed(config: &Config) -> Result<()> {
    let name = &config.postgres.slot;
    let client = sql::connect(&config.postgres).await?;
    match Slot::read(&client, name).await? {
        None => Err(Error::definite(format!("there is no slot {name:?}"), "run \"lockstep init\"")),
        Some(Slot { holder: None, .. }) => Err(Error::transient(
            format!("nothing streams from the slot {name:?}, so nothing can be healed"),
            "start \"lockstep run\", then verify again",
        )),
        Some(_) => Ok(()),
    }
}

/// Returns when nobody has streamed for a while.
async fn nobody_streams(config: &Config) -> Error {
    let mut looks = 0;
    loop {
        tokio::time::sleep(STREAM_INTERVAL).await;
        match is_streamed(config).await {
            Ok(()) => looks = 0,
            Err(fault) => {
                looks += 1;
                if looks >= STREAM_LOOKS {
                    return fault;
                }
            }
        }
    }
}

fn print(told: Told, json: bool) -> Result<()> {
    if json {
        let text = serde_json::to_string_pretty(&told);
        say(text.map_err(|e| Error::definite(format!("the report is no JSON ({e})"), "leave out --json"))?);
        return Ok(());
    }
    let Told { report, repair } = told;
    let mut rows = vec![
        ("users compared", grouped(report.users)),
        ("equal", grouped(report.equal)),
        ("absent", grouped(report.absent)),
        ("wrong", grouped(report.wrong)),
        (
            "orphaned keys",
            format!("{} of {} users", grouped(report.orphaned_keys), grouped(report.orphaned_users)),
        ),
        ("not confirmed", grouped(report.unconfirmed)),
    ];
    for (why, users) in &report.not_confirmed_because {
        rows.push(("", format!("{} not confirmed: {why}", grouped(*users))));
    }
    if report.changing > 0 {
        rows.push(("changed meanwhile", grouped(report.changing)));
    }
    if report.without_keys > 0 {
        rows.push(("rows without keys", grouped(report.without_keys)));
    }
    rows.push(("seconds", format!("{:.1}", report.seconds)));
    rows.push(("users a second", format!("{:.0}", report.users_per_second)));
    if let Some(Repair { healed, left }) = repair {
        rows.push(("healed", grouped(healed)));
        rows.push(("still different", grouped(left)));
    }
    table(&rows);
    if !report.differences.is_empty() {
        say("\ndifferences, by users");
        let rows: Vec<(&str, String)> =
            report.differences.iter().map(|(name, users)| (name.as_str(), grouped(*users))).collect();
        table(&rows);
        say("\nexamples");
        report.examples.iter().for_each(|example| say(described(example)));
    }
    Ok(())
}

/// An example for people.
fn described(example: &Example) -> String {
    let class = match example.class {
        Class::Absent => "absent",
        Class::Wrong => "wrong",
        Class::Orphaned => "orphaned",
    };
    let certainty = if example.confirmed { "" } else { ", not confirmed" };
    let differences: Vec<String> = example.differences.iter().map(shown).collect();
    format!("{} ({class}{certainty}): {}", example.user, differences.join(", "))
}

fn shown(shown: &Shown) -> String {
    match (&shown.database, &shown.redis) {
        (None, None) => shown.name(),
        (database, redis) => {
            let or_none =
                |value: &Option<String>| value.as_ref().map_or("nothing".to_owned(), |v| format!("{v:?}"));
            format!("{} is {}, not {}", shown.name(), or_none(redis), or_none(database))
        }
    }
}
