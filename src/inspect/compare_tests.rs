use std::sync::Arc;

use super::*;
use crate::balance::{Kind, Mapping, Reread};
use crate::config::{KeyMapSpec, TableSpec};
use crate::keyplan::KeyMap;
use crate::lsn::{Lsn, Position, Xid64};
use crate::pgoutput::{Column, Datum, PgTime, Relation, ReplicaIdentity, Tuple};
use crate::resync::read::Rows;
use crate::txn::CommitInfo;

const COLUMNS: [(&str, u32, &str); 7] = [
    ("id", 23, "7"),
    ("user_type", 25, "live"),
    ("wallet_balance", 1700, "100.000000"),
    ("leverage", 23, "200"),
    ("account_number", 25, "0010"),
    ("is_active", 16, "t"),
    ("created_at", 1184, "2026-01-15 10:30:00+00"),
];
const CONFIG: &str = "user:{live:7}:config";
/// What the stream has to pass.
const READ_BEFORE: Lsn = Lsn(0x500);

fn row() -> Row {
    let columns = COLUMNS.iter().map(|(name, type_oid, _)| Column {
        is_key: *name == "id",
        name: (*name).into(),
        type_oid: *type_oid,
        type_modifier: -1,
    });
    let relation = Arc::new(Relation {
        oid: 1,
        schema: "public".into(),
        name: "users".into(),
        identity: ReplicaIdentity::Default,
        columns: columns.collect(),
    });
    let data: Vec<Datum<'_>> = COLUMNS.iter().map(|(.., text)| Datum::Text(text.as_bytes())).collect();
    let tuple = Tuple::from_columns(&data).unwrap();
    let commit = CommitInfo { commit_lsn: READ_BEFORE, time: PgTime(1), xid: Xid64(20) };
    let kind = Kind::Reread(Reread::Heal);
    let mut mapping = Mapping::new(&TableSpec::defaults());
    let event = mapping.row_event(&relation, &tuple, kind, &Arc::new(commit)).unwrap();
    let plan = key_map().plan(&event);
    let rows = Rows {
        snapshot: "20:20:".parse().unwrap(),
        rows: vec![tuple],
        read_before: READ_BEFORE,
        is_flushed: true,
    };
    Row { rows, event, plan, times: vec!["created_at".into()] }
}

fn key_map() -> KeyMap {
    let spec = KeyMapSpec::from_toml(crate::config::keys::BUILT_IN).unwrap();
    KeyMap::compile(&spec, &TableSpec::defaults()).unwrap()
}

/// A fence of transaction `xid` that remembers this balance.
fn fence(xid: Option<u64>, balance: &'static str) -> Option<Written> {
    let position = Position { commit_lsn: Lsn(0x400), ordinal: 1 };
    let (xid, balance) = (xid.map(Xid64), Some(balance.into()));
    Some(Written { epoch: 1, position, xid, is_gone: false, balance })
}

/// Both caches as they were written for the row, the config hash with other values for some fields, behind a fence.
fn judged(others: &[(&str, Option<&'static str>)], fence: Option<Written>, passed: bool) -> Vec<KeyState> {
    let (row, timed) = (row(), key_map().timed());
    let sheet = Sheet::new(&row, &timed);
    let seen = sheet.wanted().into_iter().map(|(key, wanted)| {
        let right = |name: &[u8]| {
            let hashes = row.plan.steps.iter().filter_map(|step| match step {
                Step::Hash { key: known, set, .. } if *known == key => Some(set),
                _ => None,
            });
            let set = hashes.into_iter().next()?;
            set.iter().find(|(known, _)| *known == name).map(|(_, value)| Bytes::copy_from_slice(value))
        };
        let held = match &wanted {
            Wanted::Fields(_) if key != CONFIG => Held::Absent,
            Wanted::Fields(names) => Held::Fields(
                names
                    .iter()
                    .map(|name| match others.iter().find(|(other, _)| other.as_bytes() == *name) {
                        Some((_, value)) => value.map(Bytes::from),
                        None => right(name),
                    })
                    .collect(),
            ),
            _ => Held::Text("100".into()),
        };
        Seen { held, ttl_s: None, fence: fence.clone(), is_steady: true }
    });
    let seen: Vec<Seen> = seen.collect();
    sheet.judge(&seen, passed)
}

/// The one field that differs.
fn differing(others: &[(&str, Option<&'static str>)], fence: Option<Written>, passed: bool) -> FieldState {
    let keys = judged(others, fence, passed);
    let differ = keys.into_iter().flat_map(|key| key.fields).filter(|field| field.state != State::Equal);
    let mut differ: Vec<_> = differ.collect();
    assert_eq!(differ.len(), 1, "{differ:#?}");
    differ.remove(0)
}

#[test]
fn what_was_written_is_equal_and_numbers_are_compared_as_numbers() {
    for same in [
        &[][..],
        &[("wallet_balance", Some("100.0")), ("balance", Some("1e2")), ("leverage", Some("200.00"))],
        &[("created_at", Some("some other time"))],
        &[("last_updated", Some("never"))],
    ] {
        let keys = judged(same, fence(Some(9), "100"), true);
        assert!(keys.iter().all(|key| key.state == State::Equal), "{same:?} {keys:#?}");
    }
    let text = differing(&[("account_number", Some("10"))], fence(Some(9), "100"), true);
    assert_eq!((text.state, text.difference), (State::Foreign, None), "text is no number");
    let id = differing(&[("id", Some("7.0"))], fence(Some(9), "100"), true);
    assert_eq!(id.state, State::Foreign);
}

#[test]
fn what_was_never_written_for_the_row_is_foreign() {
    for fence in [fence(Some(9), "100"), fence(None, "100"), None] {
        let field = differing(&[("balance", Some("99.9"))], fence, true);
        assert_eq!(field.state, State::Foreign);
        assert_eq!(field.difference.as_deref(), Some("-0.1"));
        assert_eq!((field.database.as_deref(), field.redis.as_deref()), (Some("100"), Some("99.9")));
        assert_eq!(field.since, None);
    }
    let gone = differing(&[("leverage", None)], fence(Some(9), "100"), true);
    assert_eq!((gone.state, gone.redis), (State::Foreign, None), "somebody took it away");
}

#[test]
fn what_was_written_for_an_older_row_is_stale_since_then() {
    let field = differing(&[("balance", Some("90"))], fence(Some(9), "90"), true);
    assert_eq!((field.state, field.since.as_deref()), (State::Stale, Some("0/400")));
    assert_eq!(field.difference.as_deref(), Some("-10"));
    let other = differing(&[("balance", Some("80"))], fence(Some(9), "90"), true);
    assert_eq!(other.state, State::Foreign, "neither the older balance nor this one");
    let beside = differing(&[("leverage", Some("100"))], fence(Some(9), "90"), true);
    assert_eq!(beside.state, State::Stale);
}

#[test]
fn nothing_is_called_wrong_that_may_be_on_its_way() {
    let wrong = [("balance", Some("90"))];
    let state = |fence, passed| differing(&wrong, fence, passed).state;
    assert_eq!(state(fence(Some(9), "100"), false), State::InFlight, "the stream has not passed the reading");
    assert_eq!(state(None, false), State::InFlight);
    assert_eq!(state(fence(Some(21), "90"), true), State::InFlight, "a commit that the reading does not see");
    let later = fence(None, "90").map(|written| Written {
        position: Position { commit_lsn: Lsn(READ_BEFORE.0 + 1), ordinal: 0 },
        ..written
    });
    assert_eq!(state(later, true), State::InFlight, "read from the database again, later");
}

#[test]
fn a_key_that_is_not_there_is_absent() {
    let (row, timed) = (row(), key_map().timed());
    let sheet = Sheet::new(&row, &timed);
    let all_absent = |fence: Option<Written>, passed| {
        let absent = Seen { held: Held::Absent, ttl_s: None, fence, is_steady: true };
        let seen = vec![absent; sheet.wanted().len()];
        let keys = sheet.judge(&seen, passed);
        keys.iter().map(|key| (key.state, key.is_sound(), key.differences().len())).collect::<Vec<_>>()
    };
    // The hash, the balance, and the portfolio, which need not be there.
    let expected = [(State::Absent, false, 1), (State::Absent, true, 1), (State::Equal, true, 0)];
    assert_eq!(all_absent(fence(Some(9), "100"), true), expected);
    assert_eq!(all_absent(None, true), expected);
    let in_flight = all_absent(None, false);
    assert_eq!(in_flight[0].0, State::InFlight, "it may be a new user");
    assert_eq!(in_flight[1].0, State::Absent, "it may have expired");
}

#[test]
fn a_key_of_another_type_is_foreign() {
    let (row, timed) = (row(), key_map().timed());
    let sheet = Sheet::new(&row, &timed);
    let other = Seen { held: Held::OtherType, ttl_s: None, fence: fence(Some(9), "100"), is_steady: true };
    let keys = sheet.judge(&vec![other; sheet.wanted().len()], true);
    assert!(keys.iter().all(|key| key.state == State::Foreign), "{keys:#?}");
}
