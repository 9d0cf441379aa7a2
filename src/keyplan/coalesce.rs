//! Which changes of a key need not be made, because a later plan of the same user makes them over.

use super::{Guard, Pairs, Step, Texts};

impl Step {
    /// Whether it leaves nothing of `before`, an earlier change by another plan: whoever sees the key only after both
    /// cannot tell whether that was made.
    pub fn makes_over(&self, before: &Step) -> bool {
        if [self.guard(), before.guard()].iter().any(|guard| **guard != Guard::ALWAYS) {
            return false;
        }
        match (before, self) {
            (
                Step::Set { key, .. } | Step::Delete { key, .. },
                Step::Set { key: same, .. } | Step::Delete { key: same, .. },
            ) => key == same,
            // What made the hash must not be left out before what only adds to one.
            (
                Step::Hash { key, set, remove, if_exists, .. },
                Step::Hash { key: same, set: sets, remove: removes, if_exists: only, .. },
            ) => key == same && (*if_exists || !*only) && covers((sets, removes), (set, remove)),
            _ => false,
        }
    }
}

/// Whether one change of a hash names every field that another names.
fn covers(by: (&Pairs, &Texts), of: (&Pairs, &Texts)) -> bool {
    // Mostly in the same order: then one pass tells.
    let mut ahead = names(by);
    names(of).all(|name| ahead.any(|other| other == name))
        || names(of).all(|name| names(by).any(|other| other == name))
}

fn names<'a>((set, remove): (&'a Pairs, &'a Texts)) -> impl Iterator<Item = &'a [u8]> {
    set.iter().map(|(name, _)| name).chain(remove.iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(key: &'static str, set: &[&str], remove: &[&str], if_exists: bool) -> Step {
        let set = set.iter().map(|name| (*name, "value")).collect();
        let remove = remove.iter().collect();
        Step::Hash { key: key.into(), set, remove, if_exists, guard: Guard::ALWAYS }
    }

    fn set(key: &'static str, guard: Guard) -> Step {
        Step::Set { key: key.into(), value: "1".into(), ttl: None, guard }
    }

    fn delete(key: &'static str) -> Step {
        Step::Delete { key: key.into(), written: true, guard: Guard::ALWAYS }
    }

    #[test]
    fn a_whole_key_is_made_over_by_its_next_write_or_delete() {
        let always = Guard::ALWAYS;
        assert!(set("a", always).makes_over(&set("a", always)));
        assert!(set("a", always).makes_over(&delete("a")) && delete("a").makes_over(&set("a", always)));
        assert!(!set("a", always).makes_over(&set("b", always)));
    }

    #[test]
    fn fields_are_made_over_where_all_of_them_are_named_again() {
        let first = hash("a", &["x", "y"], &["z"], false);
        assert!(hash("a", &["x", "y", "w"], &["z"], false).makes_over(&first));
        assert!(hash("a", &["z", "x"], &["y"], false).makes_over(&first), "in another order");
        assert!(!hash("a", &["x", "y"], &[], false).makes_over(&first), "z would come back");
        assert!(!hash("b", &["x", "y"], &["z"], false).makes_over(&first));
        assert!(!hash("a", &["x", "y"], &["z"], false).makes_over(&delete("a")), "other fields would live");
    }

    #[test]
    fn what_makes_a_hash_is_not_made_over_by_what_needs_one() {
        let (makes, needs) = (hash("a", &["x"], &[], false), hash("a", &["x"], &[], true));
        assert!(!needs.makes_over(&makes));
        assert!(needs.makes_over(&needs) && makes.makes_over(&needs) && makes.makes_over(&makes));
    }

    #[test]
    fn what_only_the_fence_can_decide_makes_over_nothing() {
        let guarded = Guard { any_changed: 1, ..Guard::ALWAYS };
        assert!(!set("a", guarded).makes_over(&set("a", Guard::ALWAYS)));
        assert!(!set("a", Guard::ALWAYS).makes_over(&set("a", guarded)));
    }
}
