//! Key maps: what any `[[keys]]` compiles to, and the keys that it renders for users of any name.

use lockstep::balance::{Event, Kind, User};
use lockstep::config::{KeyMapSpec, TableSpec};
use lockstep::keyplan::{KeyMap, Step};

use super::{pieces, plans};

pub const WORDS: &[&str] = &[
    "[[keys]]",
    "hash = ",
    "string = ",
    "delete = ",
    "delete_pattern = ",
    "publish = ",
    "fields = ",
    "columns = ",
    "defaults = ",
    "payload = ",
    "when = ",
    "when_changed = ",
    "on = ",
    "if_exists = true",
    "ttl = ",
    "value = ",
    "$type",
    "$id",
    "$balance",
    "$time",
    "$abs(",
    "$json(",
    "$transaction.",
    "$$",
    "{$type:$id}",
    "balance_change",
];

/// A user's type, his id and the key map, each a piece.
pub fn run(input: &[u8]) {
    let texts: Vec<&str> =
        pieces::split(input).into_iter().filter_map(|piece| std::str::from_utf8(piece).ok()).collect();
    let [user_type, id, map, ..] = texts.as_slice() else { return };
    let Ok(spec) = KeyMapSpec::from_toml(map) else { return };
    let Ok(map) = KeyMap::compile(&spec, &TableSpec::defaults()) else { return };
    events().iter().for_each(|event| plans::check(&map, event));
    if !lockstep::config::tables::is_sound_type(user_type) || !lockstep::config::tables::is_sound_id(id) {
        return;
    }
    let user = User { user_type: (*user_type).into(), id: (*id).into(), numeric_id: false };
    let keys = map.keys_of(&user);
    for key in keys.iter().filter_map(Step::key) {
        let key = std::str::from_utf8(key).expect("a key of texts is text");
        let (of_type, of_id) = map.parse_key(key).expect("a key of a user tells a user");
        let owner = User { user_type: of_type.into(), id: of_id.into(), numeric_id: false };
        let has_it = map.keys_of(&owner).iter().any(|step| match step {
            Step::DeletePattern { prefix, suffix, .. } => {
                key.as_bytes().starts_with(prefix) && key.as_bytes().ends_with(suffix)
            }
            step => step.key().is_some_and(|other| other == key.as_bytes()),
        });
        assert!(has_it, "{key} tells a user who has no such key");
    }
}

/// Of every kind, with rows as a server sends them.
fn events() -> Vec<Event> {
    let mut events = Vec::new();
    for (kind, seed) in super::load::seeds().iter().enumerate() {
        if let Some(event) = super::load::event(seed) {
            let kind = [Kind::Created, Kind::Updated, Kind::Deleted, Kind::Loaded][kind % 4];
            events.push(Event { kind, ..event });
        }
    }
    events
}

pub fn seeds() -> Vec<Vec<u8>> {
    let maps = [
        include_str!("../../../src/keyplan/default.toml"),
        include_str!("../../../deploy/example-keymap.toml"),
    ];
    let users = [("live", "7"), ("demo", "0b5c:x"), ("vip*", "[7]")];
    let mut seeds = Vec::new();
    for map in maps {
        for (user_type, id) in users {
            seeds.push(pieces::join([user_type, id, map]));
        }
        // One step at a time is quicker to read.
        for step in map.split("[[keys]]").skip(1) {
            seeds.push(pieces::join(["live", "7", &format!("[[keys]]{step}")]));
        }
    }
    seeds
}
