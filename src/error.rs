//! The one error that crosses rooms: a fact and its cure, typed by what to do about it.

use std::fmt;

/// What is to be done about an error decides its variant, never its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// May pass by itself: retried with backoff.
    Transient(Fault),
    /// Will not pass by itself: stops the program or quarantines one user.
    Definite(Fault),
}

/// Result of an operation that crosses rooms.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What happened, and what an operator does about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The fact, lowercase, without a stack of prefixes: `slot "s" is invalidated`.
    pub fact: String,
    /// The cure, imperative: `run "lockstep init"`. Empty where waiting is the cure.
    pub cure: String,
}

impl Error {
    /// An error that may pass by itself.
    pub fn transient(fact: impl Into<String>, cure: impl Into<String>) -> Error {
        Error::Transient(Fault { fact: fact.into(), cure: cure.into() })
    }

    /// An error that will not pass by itself.
    pub fn definite(fact: impl Into<String>, cure: impl Into<String>) -> Error {
        Error::Definite(Fault { fact: fact.into(), cure: cure.into() })
    }

    /// Whether a retry may succeed.
    pub fn is_transient(&self) -> bool {
        matches!(self, Error::Transient(_))
    }

    /// The fact and the cure, whatever the class.
    pub fn fault(&self) -> &Fault {
        match self {
            Error::Transient(fault) | Error::Definite(fault) => fault,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cure.as_str() {
            "" => f.write_str(&self.fact),
            cure => write!(f, "{}: {cure}", self.fact),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fault().fmt(f)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_the_fact_then_the_cure() {
        let lost = Error::definite("slot \"s\" is invalidated", "run \"lockstep drop\"");
        assert_eq!(lost.to_string(), "slot \"s\" is invalidated: run \"lockstep drop\"");
        let away = Error::transient("redis 127.0.0.1:6379 refused the connection", "");
        assert_eq!(away.to_string(), "redis 127.0.0.1:6379 refused the connection");
        assert!(away.is_transient() && !lost.is_transient());
    }
}
