//! The command line: one file a subcommand. Results go to standard output, the one error and the log to
//! standard error.

mod asking;
mod bench;
mod check;
mod completions;
mod demo;
mod drop;
mod health;
mod init;
mod instance;
mod logging;
mod man;
mod output;
mod resync;
mod run;
mod status;
mod throwaway;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::keyplan::KeyMap;
use crate::metrics::Metrics;
use crate::sink::{self, Options, Sink};

/// Keeps every Redis key that depends on a balance equal to PostgreSQL.
#[derive(Debug, Parser)]
#[command(name = "lockstep", version, after_help = EXIT_CODES)]
struct Cli {
    /// Configuration (TOML); without it, defaults and LOCKSTEP_* and PG* variables
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 check or verify found something";

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    OnServers(OnServers),
    Demo(demo::Args),
    Bench(bench::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// Commands about the servers that the configuration names.
#[derive(Debug, Subcommand)]
enum OnServers {
    Init(init::Args),
    Check(check::Args),
    Run(run::Args),
    Resync(resync::Args),
    Verify(verify::Args),
    Status(status::Args),
    Health(health::Args),
    Drop(drop::Args),
}

/// How a command ended, where it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    /// All done.
    Done,
    /// `check` found a precondition that does not hold, or `verify` a difference.
    Found,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        // Both write the only configuration they use: the caller's may be about real servers.
        Command::Demo(args) => block_on(demo::run(args)),
        Command::Bench(args) => block_on(bench::run(args)),
        // About the program, not about servers: a broken configuration is no reason to refuse.
        Command::Completions(args) => Ok(completions::run(&args)),
        Command::Man(_) => man::run(),
        Command::OnServers(command) => {
            let (config, key_map) = match Config::load(cli.config.as_deref(), KeyMap::compile) {
                Ok(understood) => understood,
                Err(errors) => {
                    errors.0.iter().for_each(output::complain);
                    return ExitCode::from(2);
                }
            };
            logging::start(&config.log);
            config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            execute(command, config, key_map)
        }
    };
    match outcome {
        Ok(Exit::Done) => ExitCode::SUCCESS,
        Ok(Exit::Found) => ExitCode::from(3),
        Err(error) => {
            output::complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn execute(command: OnServers, config: Config, key_map: KeyMap) -> Result<Exit> {
    match command {
        OnServers::Init(args) => block_on(init::run(&config, args)),
        OnServers::Check(args) => block_on(check::run(&config, args)),
        OnServers::Run(args) => run::run(config, key_map, args),
        OnServers::Resync(args) => block_on(resync::run(&config, args)),
        OnServers::Verify(args) => block_on(verify::run(config, key_map, args)),
        OnServers::Status(args) => block_on(status::run(&config, args)),
        OnServers::Health(args) => block_on(health::run(&config, args)),
        OnServers::Drop(args) => block_on(drop::run(&config, args)),
    }
}

fn block_on(command: impl Future<Output = Result<Exit>>) -> Result<Exit> {
    runtime(&mut Builder::new_multi_thread())?.block_on(command)
}

fn runtime(of: &mut Builder) -> Result<Runtime> {
    of.enable_all()
        .build()
        .map_err(|e| Error::definite(format!("the runtime cannot start ({e})"), "raise the limit of threads"))
}

/// The way into Redis for a look at it.
async fn sink(config: &Config) -> Result<Sink> {
    let options = Options::new(&config.postgres.slot, Metrics::new()?.sink);
    Sink::connect(&config.redis, options).await.map_err(sink::told_where_to_look)
}
