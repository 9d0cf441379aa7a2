//! What a key map says of keys that it did not render: whose they are, and what of them can be compared.

use super::key::KeyTemplate;
use super::keymap::{Action, KeyMap, Step};
use super::template::Source;

/// What a comparison with the database leaves out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timed {
    /// Fields of any hash.
    pub fields: Vec<Vec<u8>>,
    /// What strings begin with.
    pub strings: Vec<Vec<u8>>,
}

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is only ever deleted.
    Deleted,
    /// It is written, and goes by itself.
    Expires,
    /// It is written, and stays.
    Lasts,
}

impl KeyMap {
    /// Whose key it is, by the first template that it fits, and what becomes of it; `None` where that is nobody who is
    /// followed.
    pub fn whose<'k>(&self, key: &'k str) -> Option<(&'k str, &'k str, Fate)> {
        let fits = |(at, template): (usize, &KeyTemplate)| Some((at, template.parse_key(key)?));
        let (at, (user_type, id)) = self.templates.iter().enumerate().find_map(fits)?;
        self.shard.holds(id).then(|| (user_type, id, self.fate(at)))
    }

    /// The type of whose key it is, where that is only ever deleted, by whatever template it fits.
    pub fn derived_of<'k>(&self, key: &'k str) -> Option<&'k str> {
        let (user_type, _, fate) = self.whose(key)?;
        let mut fitting =
            self.templates.iter().enumerate().filter(|(_, other)| other.parse_key(key).is_some());
        (fate == Fate::Deleted && !fitting.any(|(at, _)| self.writes(at))).then_some(user_type)
    }

    /// The first template that a key fits, as it was written.
    pub fn template_of(&self, key: &str) -> Option<&str> {
        let fits = self.templates.iter().find(|template| template.parse_key(key).is_some());
        fits.map(KeyTemplate::text)
    }

    fn fate(&self, template: usize) -> Fate {
        let expires = |step: &Step| match &step.action {
            Action::String { key, ttl, .. } => *key == template && ttl.is_some(),
            _ => false,
        };
        match self.writes(template) {
            false => Fate::Deleted,
            true if self.steps.iter().any(expires) => Fate::Expires,
            true => Fate::Lasts,
        }
    }

    /// The first hash that is written whether it exists or not, and the first string.
    pub fn first_written(&self) -> (Option<&KeyTemplate>, Option<&KeyTemplate>) {
        let hash = self.steps.iter().find_map(|step| match &step.action {
            Action::Hash(hash) if !hash.if_exists => Some(hash.key),
            _ => None,
        });
        let string = self.steps.iter().find_map(|step| match &step.action {
            Action::String { key, .. } => Some(*key),
            _ => None,
        });
        let template = |at: Option<usize>| at.and_then(|at| self.templates.get(at));
        (template(hash), template(string))
    }

    /// What holds the time of the event that wrote it, and so is another one after every reading.
    pub fn timed(&self) -> Timed {
        let is_time = |source: &Source| *source == Source::Time;
        let mut timed = Timed::default();
        for step in &self.steps {
            match &step.action {
                Action::Hash(hash) => {
                    let fields = hash.fields.iter().filter(|field| field.value.sources().any(is_time));
                    timed.fields.extend(fields.map(|field| field.name.clone().into_bytes()));
                }
                Action::String { key, value, .. } if value.sources().any(is_time) => {
                    let head = self.templates.get(*key).map(KeyTemplate::literal_head);
                    timed.strings.extend(head.map(|head| head.as_bytes().to_vec()));
                }
                _ => {}
            }
        }
        timed
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{KeyMapSpec, Shard, TableSpec};

    use super::*;

    fn built_in() -> KeyMap {
        let spec = KeyMapSpec::from_toml(crate::config::keys::BUILT_IN).unwrap();
        KeyMap::compile(&spec, &TableSpec::defaults()).unwrap()
    }

    #[test]
    fn a_key_tells_whose_it_is_and_whether_it_is_written() {
        let map = built_in();
        assert_eq!(map.whose("user:{live:7}:config"), Some(("live", "7", Fate::Lasts)));
        assert_eq!(map.whose("user_balance:live:7"), Some(("live", "7", Fate::Expires)));
        assert_eq!(map.whose("user:live:7:config"), Some(("live", "7", Fate::Deleted)));
        assert_eq!(map.whose("user_stats:live:7"), Some(("live", "7", Fate::Deleted)));
        assert_eq!(map.whose("financial_summary:live:7:week"), Some(("live", "7", Fate::Deleted)));
        assert_eq!(map.whose("lockstep:fence:{live:7}"), None);
        assert_eq!(map.whose("user:{live:7}:session"), None);
        assert_eq!(map.template_of("user_balance:live:7"), Some("user_balance:$type:$id"));
    }

    #[test]
    fn a_key_that_any_template_writes_is_not_derived_though_the_first_that_fits_deletes_it() {
        let keys = "[[keys]]\ndelete_pattern = \"user:$type:$id:*\"\n[[keys]]\nstring = \"user:$type:$id:balance\"\nvalue = \"$balance\"";
        let map = KeyMap::compile(&KeyMapSpec::from_toml(keys).unwrap(), &TableSpec::defaults()).unwrap();
        assert_eq!(map.derived_of("user:live:7:stats"), Some("live"));
        assert_eq!(map.derived_of("user:live:7:balance"), None);
        assert_eq!(built_in().derived_of("user_balance:live:7"), None);
    }

    #[test]
    fn keys_of_users_whom_another_shard_follows_are_nobodys() {
        let spec = KeyMapSpec::from_toml(crate::config::keys::BUILT_IN).unwrap();
        let shard = Shard::new(1, 2).unwrap();
        let tables: Vec<_> =
            TableSpec::defaults().into_iter().map(|table| TableSpec { shard, ..table }).collect();
        let map = KeyMap::compile(&spec, &tables).unwrap();
        assert_eq!(map.whose("user_balance:live:7"), Some(("live", "7", Fate::Expires)));
        assert_eq!(map.parse_key("user_balance:live:7"), Some(("live", "7")));
        assert_eq!((map.whose("user_balance:live:8"), map.parse_key("user_balance:live:8")), (None, None));
    }

    #[test]
    fn what_holds_the_time_of_the_write_is_known() {
        let timed = built_in().timed();
        let fields: Vec<_> = timed.fields.iter().map(|field| std::str::from_utf8(field).unwrap()).collect();
        assert_eq!(fields, ["last_balance_update", "last_updated", "balance_updated_at"]);
        assert!(timed.strings.is_empty());
    }
}
