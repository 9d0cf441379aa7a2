//! `lockstep man`

use std::io::{self, Write};

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::{Cli, EXIT_CODES, Exit};
use crate::error::{Error, Result};

/// Print the manual page, all commands in it
///
/// lockstep man > /usr/local/share/man/man1/lockstep.1; to read it at once: lockstep man | man -l -
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run() -> Result<Exit> {
    let page = page().map_err(|e| {
        Error::definite(format!("the page cannot be made ({e})"), "report it with the version")
    })?;
    // A reader that has gone needs no more of it.
    let _ = io::stdout().write_all(&page);
    Ok(Exit::Done)
}

/// One page: whoever looks for an option does not know in which of many pages it would stand.
fn page() -> io::Result<Vec<u8>> {
    let mut program = Cli::command();
    program.build();
    let mut page = Vec::new();
    let man = Man::new(program.clone());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    for command in program.get_subcommands().filter(|command| command.get_name() != "help") {
        page.extend(section(command)?);
    }
    writeln!(page, ".SH \"EXIT STATUS\"\n{EXIT_CODES}")?;
    Ok(page)
}

/// A command's own page as one section of the program's.
fn section(command: &Command) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone());
    let mut own = Vec::new();
    man.render_synopsis_section(&mut own)?;
    man.render_description_section(&mut own)?;
    man.render_options_section(&mut own)?;
    let mut section = format!(".SH \"lockstep {}\"\n", command.get_name()).into_bytes();
    for line in String::from_utf8_lossy(&own).lines() {
        match line.strip_prefix(".SH ") {
            Some(title) => writeln!(section, ".SS {title}")?,
            None => writeln!(section, "{line}")?,
        }
    }
    Ok(section)
}
