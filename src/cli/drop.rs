//! `lockstep drop`

use std::io::{self, IsTerminal, Write};

use super::Exit;
use super::output::say;
use crate::catalog::Catalog;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::setup::{self, Step};
use crate::wire::sql;

/// Remove what init added, so that nothing holds WAL: the slot, the publication, the identity indexes
///
/// A slot that somebody streams from is left alone, and nothing else is removed then. What stays: the role
/// and its grants (DROP OWNED BY name; DROP ROLE name), and every key in Redis.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Do not ask; needed where there is no terminal
    #[arg(long)]
    yes: bool,
}

pub(super) async fn run(config: &Config, args: Args) -> Result<Exit> {
    let client = sql::connect(&config.postgres).await?;
    let catalog = Catalog::read(&client, config).await?;
    let steps = setup::removal(&catalog, config)?;
    if steps.is_empty() {
        say("nothing of Lockstep is left in the database");
        return Ok(Exit::Done);
    }
    if !args.yes && !agreed(&steps)? {
        return Err(Error::definite("nothing was removed", "answer \"yes\", or give --yes"));
    }
    let watcher = sql::connect(&config.postgres).await?;
    for step in &steps {
        setup::apply(&client, &watcher, step, &mut |line| say(line)).await?;
        say(format_args!("{}: {}", step.what, step.outcome()));
    }
    Ok(Exit::Done)
}

fn agreed(steps: &[Step]) -> Result<bool> {
    let failed = |e: io::Error| Error::definite(format!("the terminal cannot be used ({e})"), "give --yes");
    if !io::stdin().is_terminal() {
        return Ok(false);
    }
    say("This removes:");
    steps.iter().for_each(|step| say(format_args!("  {}", step.what)));
    write!(io::stdout(), "Type \"yes\": ").and_then(|()| io::stdout().flush()).map_err(failed)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(failed)?;
    Ok(answer.trim() == "yes")
}
