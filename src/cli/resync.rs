//! `lockstep resync`

use super::Exit;
use super::asking::{ask, done};
use super::output::say;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::resync::asked::Question;

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
    refuse_unknown(config, &args.table)?;
    refuse_anothers(config, &args.user)?;
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

/// Refuses users whom another shard follows.
fn refuse_anothers(config: &Config, users: &[(String, String)]) -> Result<()> {
    let shard = config.postgres.shard;
    match users.iter().find(|(_, id)| !shard.holds(id)) {
        None => Ok(()),
        Some((user_type, id)) => {
            let fact = format!("{user_type}:{id} is followed by another shard");
            let cure = format!("ask with LOCKSTEP_SHARD={}, of {}", shard.whose(id), shard.count());
            Err(Error::definite(fact, cure))
        }
    }
}

/// Refuses what is no followed table of users.
pub(super) fn refuse_unknown(config: &Config, tables: &[String]) -> Result<()> {
    let known: Vec<String> =
        config.tables.iter().filter(|spec| spec.is_users()).map(ToString::to_string).collect();
    match tables.iter().find(|table| !known.contains(table)) {
        None => Ok(()),
        Some(unknown) => {
            let cure = format!("name one of {}", known.join(", "));
            Err(Error::definite(format!("{unknown} is no followed table of users"), cure))
        }
    }
}
