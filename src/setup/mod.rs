//! What `init` creates and `drop` removes: the templates of `sql/`, filled, planned, then applied.

mod apply;
mod identity;
mod plan;
mod publication;
mod quote;
mod remove;
mod role;

pub use apply::apply;
pub use plan::plan;
pub use quote::{ident, literal};
pub use remove::removal;
pub use role::NewRole;

use quote::fill;

/// One thing that is to be there, or to be gone.
#[derive(Debug, Clone)]
pub struct Step {
    /// What it is about: `publication lockstep`.
    pub what: String,
    /// What is left to do.
    pub todo: Todo,
}

/// What is left to do for a step.
#[derive(Debug, Clone)]
pub enum Todo {
    /// Nothing: it is as it should be.
    Nothing,
    /// It is not there yet.
    Create(Vec<Statement>),
    /// It is there, and not as it should be.
    Change(Vec<Statement>),
    /// It is to go.
    Remove(Vec<Statement>),
}

/// SQL that runs as one.
#[derive(Debug, Clone)]
pub struct Statement {
    /// What is sent.
    pub sql: String,
    /// What is shown instead, where it holds a secret.
    pub shown: Option<String>,
    /// How it meets other transactions.
    pub pace: Pace,
}

/// How a statement meets other transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Takes a strong lock for an instant: bounded by a lock timeout, tried again.
    Brief,
    /// Waits for older transactions without blocking anybody: who holds it up is named meanwhile.
    Patient,
}

impl Statement {
    fn brief(template: &str, values: &[(&str, &str)]) -> Statement {
        Statement { sql: fill(template, values), shown: None, pace: Pace::Brief }
    }

    fn patient(template: &str, values: &[(&str, &str)]) -> Statement {
        Statement { sql: fill(template, values), shown: None, pace: Pace::Patient }
    }

    /// The text for people.
    pub fn shown(&self) -> &str {
        self.shown.as_deref().unwrap_or(&self.sql)
    }
}

impl Step {
    fn nothing(what: impl Into<String>) -> Step {
        Step { what: what.into(), todo: Todo::Nothing }
    }

    /// The statements that are left.
    pub fn statements(&self) -> &[Statement] {
        match &self.todo {
            Todo::Nothing => &[],
            Todo::Create(statements) | Todo::Change(statements) | Todo::Remove(statements) => statements,
        }
    }

    /// How it stands once it is done.
    pub fn outcome(&self) -> &'static str {
        match self.todo {
            Todo::Nothing => "already there",
            Todo::Create(_) => "created",
            Todo::Change(_) => "changed",
            Todo::Remove(_) => "removed",
        }
    }
}
