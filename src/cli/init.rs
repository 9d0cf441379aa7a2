//! `lockstep init`

use std::path::PathBuf;

use super::Exit;
use super::output::{complain, say};
use crate::catalog::Catalog;
use crate::config::{Config, Secret};
use crate::error::{Error, Result};
use crate::preflight::{self, Item};
use crate::setup::{self, NewRole, Step};
use crate::wire::sql;

/// Create what Lockstep needs in the database: replica identity, publication, slot, and a role if asked
///
/// Can be run again at any time: each step says "created", "changed" or "already there". Connect as the
/// owner of the tables, or as superuser.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print the SQL that is left to do, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Also create this login role with REPLICATION and SELECT on the followed columns, nothing else
    #[arg(long, value_name = "NAME")]
    role: Option<String>,
    /// File whose first line is the role's password; else LOCKSTEP_ROLE_PASSWORD, else none
    #[arg(long, value_name = "FILE", requires = "role")]
    role_password_file: Option<PathBuf>,
}

pub(super) async fn run(config: &Config, args: Args) -> Result<Exit> {
    let role = new_role(&args)?;
    let client = sql::connect(&config.postgres).await?;
    let catalog = Catalog::read(&client, config).await?;
    let steps = setup::plan(&client, &catalog, config, role.as_ref()).await?;
    if let Some(Item { topic, fact, cure, .. }) = preflight::without_lists(&catalog, config) {
        complain(format_args!("{topic}: {fact}: {cure}"));
    }
    if args.dry_run {
        print_sql(&steps);
        return Ok(Exit::Done);
    }
    let watcher = sql::connect(&config.postgres).await?;
    for step in &steps {
        setup::apply(&client, &watcher, step, &mut |line| say(line)).await?;
        say(format_args!("{}: {}", step.what, step.outcome()));
    }
    Ok(Exit::Done)
}

fn new_role(args: &Args) -> Result<Option<NewRole>> {
    let Some(name) = args.role.clone() else { return Ok(None) };
    let password = match &args.role_password_file {
        Some(file) => {
            let text = std::fs::read_to_string(file).map_err(|e| {
                let fact = format!("the password file {} cannot be read ({})", file.display(), e.kind());
                Error::definite(fact, "give a readable file after --role-password-file")
            })?;
            text.lines().next().map(str::to_owned)
        }
        None => std::env::var("LOCKSTEP_ROLE_PASSWORD").ok(),
    };
    Ok(Some(NewRole { name, password: password.filter(|text| !text.is_empty()).map(Secret::new) }))
}

fn print_sql(steps: &[Step]) {
    for step in steps {
        match step.statements() {
            [] => say(format_args!("-- {}: already there\n", step.what)),
            statements => {
                say(format_args!("-- {}", step.what));
                statements.iter().for_each(|statement| say(statement.shown()));
            }
        }
    }
}
