//! `lockstep run`.

use super::Exit;
use crate::app::{self, RunOptions};
use crate::config::Config;
use crate::error::Result;
use crate::keyplan::KeyMap;

/// Loads all users unless Redis holds them already, then follows the stream until SIGTERM
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Trust that Redis already matches the slot's position: load nothing
    #[arg(long)]
    no_snapshot: bool,
}

pub async fn run(config: Config, key_map: KeyMap, args: Args) -> Result<Exit> {
    app::run(config, key_map, RunOptions { snapshot: !args.no_snapshot }).await?;
    Ok(Exit::Done)
}
