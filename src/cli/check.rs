//! `lockstep check`

use super::Exit;
use super::output::say;
use crate::catalog::Catalog;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::preflight::{self, Item};
use crate::wire::sql;

/// Check every precondition and say the cure of each that does not hold
///
/// Exits with 3 if one fails. Changes nothing.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print the effective configuration instead, the key map included, secrets masked
    #[arg(long)]
    print_config: bool,
    /// Print the items as a JSON array
    #[arg(long, conflicts_with = "print_config")]
    json: bool,
}

pub(super) async fn run(config: &Config, args: Args) -> Result<Exit> {
    if args.print_config {
        say(config.to_toml().trim_end());
        return Ok(Exit::Done);
    }
    let mut items =
        database(config).await.unwrap_or_else(|error| vec![Item::unreachable("postgres", &error)]);
    items.extend(redis(config).await.unwrap_or_else(|error| vec![Item::unreachable("redis", &error)]));
    match args.json {
        true => say(json(&items)?),
        false => items.iter().for_each(say),
    }
    Ok(if items.iter().any(Item::fails) { Exit::Found } else { Exit::Done })
}

async fn database(config: &Config) -> Result<Vec<Item>> {
    let client = sql::connect(&config.postgres).await?;
    let catalog = Catalog::read(&client, config).await?;
    Ok(preflight::database(&catalog, config))
}

async fn redis(config: &Config) -> Result<Vec<Item>> {
    let mut sink = super::sink(config).await?;
    preflight::redis(&mut sink, config).await
}

fn json(items: &[Item]) -> Result<String> {
    serde_json::to_string_pretty(items)
        .map_err(|e| Error::definite(format!("the items are no JSON ({e})"), "leave out --json"))
}
