//! `lockstep run`.

use tokio::runtime::Builder;

use super::{Exit, runtime};
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

pub fn run(config: Config, key_map: KeyMap, args: Args) -> Result<Exit> {
    let (stream, beside) =
        (runtime(&mut Builder::new_current_thread())?, runtime(&mut Builder::new_multi_thread())?);
    let options = RunOptions { snapshot: !args.no_snapshot };
    stream.block_on(app::run(config, key_map, options, beside.handle()))?;
    Ok(Exit::Done)
}
