//! Mistakes in the configuration: collected, then reported together.

use std::cell::RefCell;
use std::fmt;

use crate::error::Fault;

/// Everything that is wrong with a configuration; prints one line a mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<Fault>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, mistake) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            mistake.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Where the readers of all sections drop what they find wrong.
#[derive(Debug, Default)]
pub(super) struct Mistakes(RefCell<Vec<Fault>>);

impl Mistakes {
    /// Adds a mistake found at `place` (file, line and column, or the name of a variable).
    pub fn add(&self, place: &str, fact: impl fmt::Display, cure: impl Into<String>) {
        let fact = if place.is_empty() { fact.to_string() } else { format!("{place}: {fact}") };
        self.0.borrow_mut().push(Fault { fact, cure: cure.into() });
    }

    /// Adds a mistake that another room found in the value at `place`.
    pub fn add_fault(&self, place: &str, fault: &Fault) {
        self.add(place, &fault.fact, fault.cure.as_str());
    }

    /// Mistakes so far.
    pub fn count(&self) -> usize {
        self.0.borrow().len()
    }

    /// The collected mistakes, or `value` when there are none.
    pub fn or<T>(self, value: Option<T>) -> Result<T, ConfigErrors> {
        let mistakes = self.0.into_inner();
        match value {
            Some(value) if mistakes.is_empty() => Ok(value),
            _ => Err(ConfigErrors(mistakes)),
        }
    }
}
