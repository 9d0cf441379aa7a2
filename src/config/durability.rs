//! When what was written to Redis counts as kept.

use std::fmt;
use std::str::FromStr;

/// Most replicas that may be waited for.
const MOST_REPLICAS: u8 = 9;

/// What must hold of a checkpoint, and so of everything before it, before PostgreSQL may forget it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// The master has it in memory.
    #[default]
    Applied,
    /// So many replicas have it too (`WAIT`).
    Replicated(u8),
    /// The master has it on its disk (`WAITAOF`, Redis 7.2).
    Fsynced,
}

impl FromStr for Durability {
    type Err = ();

    fn from_str(text: &str) -> Result<Durability, ()> {
        match text {
            "applied" => Ok(Durability::Applied),
            "fsynced" => Ok(Durability::Fsynced),
            text => {
                let replicas = text.strip_prefix("replicated(").and_then(|text| text.strip_suffix(')'));
                match replicas.and_then(|replicas| replicas.trim().parse().ok()) {
                    Some(replicas @ 1..=MOST_REPLICAS) => Ok(Durability::Replicated(replicas)),
                    _ => Err(()),
                }
            }
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Durability::Applied => f.write_str("applied"),
            Durability::Replicated(replicas) => write!(f, "replicated({replicas})"),
            Durability::Fsynced => f.write_str("fsynced"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_read_back() {
        for text in ["applied", "replicated(1)", "replicated(9)", "fsynced"] {
            assert_eq!(text.parse::<Durability>().unwrap().to_string(), text);
        }
        for wrong in ["", "replicated", "replicated()", "replicated(0)", "replicated(10)", "Fsynced"] {
            assert_eq!(wrong.parse::<Durability>(), Err(()), "{wrong}");
        }
    }
}
