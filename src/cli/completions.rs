//! `lockstep completions`

use std::io::{self, Write};

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Exit};

/// Print what a shell needs to complete commands and options
///
/// bash: lockstep completions bash > /usr/share/bash-completion/completions/lockstep
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The shell
    shell: Shell,
}

pub(super) fn run(args: &Args) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "lockstep", &mut script);
    // A reader that has gone needs no more of it.
    let _ = io::stdout().write_all(&script);
    Exit::Done
}
