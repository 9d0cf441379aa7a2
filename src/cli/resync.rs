//! `lockstep resync`

use std::time::Duration;

use postgres_protocol::escape::escape_literal;
use tokio_postgres::SimpleQueryMessage;

use super::Exit;
use super::output::say;
use crate::catalog::{Slot, query_error};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::pipeline::asked;
use crate::pipeline::quarantine::{self, State};
use crate::resync::asked::Question;
use crate::wire::sql;

/// How often Redis is asked whether the resync is done.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Write users again from the database, beside the stream: all, those of some tables, or single ones
///
/// The request travels through the stream: a running instance does it at once, else the next start does. Keys of
/// users who are not in the database are removed. Who held a wrong balance is told to subscribers.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only users of this table; may be given again
    #[arg(long, value_name = "SCHEMA.NAME")]
    table: Vec<String>,
    /// Only this user; may be given again
    #[arg(long, value_name = "TYPE:ID", value_parser = parse_user)]
    user: Vec<(String, String)>,
    /// Only what is in quarantine: users whose last change could not be applied as written
    #[arg(long)]
    quarantined: bool,
    /// Return only when it is done
    #[arg(long)]
    wait: bool,
}

fn parse_user(text: &str) -> std::result::Result<(String, String), String> {
    let (user_type, id) = text
        .split_once(':')
        .filter(|(user_type, id)| !user_type.is_empty() && !id.is_empty())
        .ok_or("give it as TYPE:ID, live:7 for example")?;
    Ok((user_type.to_owned(), id.to_owned()))
}

pub(super) async fn run(config: &Config, args: Args) -> Result<Exit> {
    let users_tables: Vec<String> =
        config.tables.iter().filter(|spec| spec.is_users()).map(ToString::to_string).collect();
    if let Some(unknown) = args.table.iter().find(|table| !users_tables.contains(table)) {
        let cure = format!("name one of {}", users_tables.join(", "));
        return Err(Error::definite(format!("{unknown} is no followed table of users"), cure));
    }
    let question = Question { tables: args.table, users: args.user, quarantined: args.quarantined };
    let asked = ask(config, &question).await?;
    if args.wait {
        match done(config, asked).await? {
            0 => say("done"),
            open => {
                say(format_args!("done: {open} entries stay in quarantine, \"lockstep status\" tells why"))
            }
        }
    } else {
        say(format_args!("asked for at {asked}: \"lockstep status\" tells when it is done"));
    }
    Ok(Exit::Done)
}

/// Returns a position behind the request.
async fn ask(config: &Config, question: &Question) -> Result<Lsn> {
    let slot = &config.postgres.slot;
    let client = sql::connect(&config.postgres).await?;
    if Slot::read(&client, slot).await?.is_none() {
        return Err(Error::definite(format!("there is no slot {slot:?}"), "run \"lockstep init\""));
    }
    let text = serde_json::to_string(question).unwrap_or_default();
    let statement = format!(
        "SELECT pg_logical_emit_message(true, {}, {})",
        escape_literal(&asked::prefix(slot)),
        escape_literal(&text)
    );
    let failed = |error| query_error("asking for a resync", &error);
    client.simple_query(&statement).await.map_err(failed)?;
    // After the commit, which is behind the message itself.
    let messages = client.simple_query("SELECT pg_current_wal_insert_lsn()").await.map_err(failed)?;
    let lsn = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    let unexpected = || Error::definite("the database told no position", "report this as a bug");
    lsn.and_then(|lsn| lsn.parse().ok()).map(Lsn::before_page_header).ok_or_else(unexpected)
}

/// Waits until every node is past the request and it is on no record; how many entries of the quarantine are open.
async fn done(config: &Config, asked: Lsn) -> Result<usize> {
    let mut sink = super::sink(config).await?;
    loop {
        let records = sink.read_records().await?;
        let passed = records
            .nodes
            .iter()
            .all(|node| node.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.applied >= asked));
        if passed && records.asked.is_none() {
            let entries = quarantine::entries(records.quarantine.as_deref().unwrap_or_default());
            return Ok(entries.iter().filter(|entry| entry.state == State::Open).count());
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
