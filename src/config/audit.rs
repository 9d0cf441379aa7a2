//! `[audit]`: what is done about keys that other programs wrote.

use std::str::FromStr;
use std::time::Duration;

use super::section::Section;

/// Default of `grace`: an update written by hand just before or after its own commit is no alarm.
const GRACE: Duration = Duration::from_secs(1);
/// Default of `users_per_second`: 100,000 users in 17 minutes.
const USERS_PER_SECOND: usize = 100;

/// `[audit]`
#[derive(Debug, Clone)]
pub struct Audit {
    /// What is done about a foreign write that leaves a key wrong.
    pub foreign_writes: ForeignWrites,
    /// Time between a write and the comparison with the database.
    pub grace: Duration,
    /// Users that the continuous audit compares in a second; 0: there is none.
    pub users_per_second: usize,
}

/// What is done about a foreign write that leaves a key wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForeignWrites {
    /// The user is written again from the database.
    Heal,
    /// It is counted.
    Observe,
    /// Nobody looks.
    Off,
}

impl ForeignWrites {
    /// Its word in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            ForeignWrites::Heal => "heal",
            ForeignWrites::Observe => "observe",
            ForeignWrites::Off => "off",
        }
    }
}

impl FromStr for ForeignWrites {
    type Err = ();

    fn from_str(word: &str) -> Result<ForeignWrites, ()> {
        let all = [ForeignWrites::Heal, ForeignWrites::Observe, ForeignWrites::Off];
        all.into_iter().find(|mode| mode.word() == word).ok_or(())
    }
}

/// Reads the section.
pub(super) fn read(mut section: Section<'_>) -> Audit {
    let mode = section.text("foreign_writes");
    let cure = "use \"heal\", \"observe\" or \"off\"";
    let audit = Audit {
        foreign_writes: section.parse("foreign_writes", mode.as_ref(), cure).unwrap_or(ForeignWrites::Heal),
        grace: section.duration("grace", GRACE, Duration::from_millis(100)..=Duration::from_secs(60)),
        users_per_second: section.count("users_per_second", USERS_PER_SECOND, 0..=1_000_000),
    };
    section.finish();
    audit
}
