//! `postgres.shards`: the users split over as many slots, each followed by a process of its own.

use std::ops::RangeInclusive;

use super::TableSpec;

/// How many shards there can be: each costs the database a walsender that decodes all of its WAL.
pub const SHARDS_BOUNDS: RangeInclusive<usize> = 1..=16;

/// Which part of the users is followed. Whose part a user is of is told by the id alone, whatever the user type, so that
/// a row of `user_transactions` goes where its user does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: u32,
    count: u32,
}

impl Default for Shard {
    fn default() -> Shard {
        Shard::WHOLE
    }
}

impl Shard {
    /// All users.
    pub const WHOLE: Shard = Shard { index: 0, count: 1 };

    /// Part `index`, counted from 0, of `count`; `None` where there is none of that number.
    pub fn new(index: usize, count: usize) -> Option<Shard> {
        let (index, count) = (u32::try_from(index).ok()?, u32::try_from(count).ok()?);
        (index < count).then_some(Shard { index, count })
    }

    /// That of all these tables.
    pub fn of(tables: &[TableSpec]) -> Shard {
        tables.first().map_or(Shard::WHOLE, |table| table.shard)
    }

    /// Its number, counted from 0.
    pub fn index(self) -> u32 {
        self.index
    }

    /// How many there are.
    pub fn count(self) -> u32 {
        self.count
    }

    /// Whether the user of this id is of it: an integer by its remainder, as [`condition`](Shard::condition) says it in
    /// SQL; any other text by its 64-bit FNV-1a digest.
    pub fn holds(self, id: &str) -> bool {
        self.count == 1 || self.whose(id) == u64::from(self.index)
    }

    /// The number of the shard that follows the user of this id.
    pub fn whose(self, id: &str) -> u64 {
        match id.parse::<i64>() {
            Ok(id) => id.rem_euclid(i64::from(self.count)).unsigned_abs(),
            Err(_) => fnv1a(id.as_bytes()) % u64::from(self.count),
        }
    }

    /// [`holds`](Shard::holds) in SQL, of an integer column, quoted where needed; `None` where it holds for all. The
    /// remainder of a negative number is negative there.
    pub fn condition(self, column: &str) -> Option<String> {
        let Shard { index, count } = self;
        (count > 1).then(|| format!("((({column} % {count}) + {count}) % {count}) = {index}"))
    }

    /// The name of something that each shard has one of. It names the number of shards as well: with another number none
    /// of them follows the same users.
    pub fn name(self, of_all: &str) -> String {
        match self.count {
            1 => of_all.to_owned(),
            count => format!("{of_all}_{}of{count}", self.index),
        }
    }

    /// Whether a name, not its own, is one that [`name`](Shard::name) makes of the same, for whatever number of shards.
    pub fn is_anothers(self, own: &str, name: &str) -> bool {
        let of_all = self.of_all(own);
        let rest = name.strip_prefix(of_all).and_then(|rest| rest.strip_prefix('_'));
        let numbers = rest.and_then(|rest| rest.split_once("of"));
        let is_number = |text: &str| text.parse::<u32>().is_ok();
        let is_part = numbers.is_some_and(|(index, count)| is_number(index) && is_number(count));
        name != own && (name == of_all || is_part)
    }

    /// Of what name [`name`](Shard::name) has made this one.
    pub fn of_all(self, name: &str) -> &str {
        name.strip_suffix(&self.name("")).unwrap_or(name)
    }
}

/// FNV-1a, 64 bits: the same in every version and on every machine, as std's hashers need not be.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |digest, byte| {
        (digest ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_is_of_one_shard() {
        let ids = ["0", "1", "7", "-7", "9223372036854775807", "-9223372036854775808", "a0ee", "", "7x"];
        for count in SHARDS_BOUNDS {
            let shards: Vec<Shard> = (0..count).filter_map(|index| Shard::new(index, count)).collect();
            assert_eq!(shards.len(), count);
            for id in ids {
                assert_eq!(shards.iter().filter(|shard| shard.holds(id)).count(), 1, "{id} of {count}");
            }
        }
        assert_eq!(Shard::new(2, 2), None);
    }

    #[test]
    fn whose_part_a_user_is_of_never_changes() {
        let part =
            |id: &str| (0..16).find(|index| Shard::new(*index, 16).is_some_and(|shard| shard.holds(id)));
        assert_eq!(["17", "-1", "a", "foobar"].map(part), [1, 15, 12, 8].map(Some));
    }

    #[test]
    fn whoever_follows_all_needs_no_condition() {
        let shard = Shard::new(1, 3).unwrap();
        assert_eq!(shard.condition("id").as_deref(), Some("(((id % 3) + 3) % 3) = 1"));
        assert_eq!(shard.name("lockstep"), "lockstep_1of3");
        assert_eq!(shard.of_all("lockstep_1of3"), "lockstep");
        assert_eq!(Shard::WHOLE.condition("id"), None);
        let others = |shard: Shard, own: &str| {
            ["lockstep", "lockstep_0of2", "lockstep_1of3", "lockstep_other", "other"]
                .map(|name| shard.is_anothers(own, name))
        };
        assert_eq!(others(shard, "lockstep_1of3"), [true, true, false, false, false]);
        assert_eq!(others(Shard::WHOLE, "lockstep"), [false, true, true, false, false]);
        assert_eq!(
            (Shard::WHOLE.name("lockstep").as_str(), Shard::WHOLE.of_all("lockstep")),
            ("lockstep", "lockstep")
        );
    }
}
