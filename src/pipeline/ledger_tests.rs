use super::super::unwatched::MAX_USERS;
use super::*;
use crate::balance::{Event, Field, Kind, Value};
use crate::config::{KeyMapSpec, TableSpec};
use crate::lsn::{Lsn, Position, Xid64};
use crate::pgoutput::PgTime;
use crate::sink::Applied;
use crate::txn::CommitInfo;

const GRACE: Duration = Duration::from_secs(1);
/// Where everything was committed.
const COMMIT: Lsn = Lsn(16);
/// From report to report.
const QUARTER: Duration = Duration::from_millis(250);
const APPLIED: Outcome = Outcome::Applied(Applied { as_update: false, retyped_keys: 0 });

/// A ledger that watches since `now`.
fn live() -> Ledger {
    let spec = KeyMapSpec::from_toml(crate::config::keys::BUILT_IN).unwrap();
    let key_map = Arc::new(KeyMap::compile(&spec, &TableSpec::defaults()).unwrap());
    let audit = Audit { foreign_writes: ForeignWrites::Heal, grace: GRACE, users_per_second: 0 };
    let ledger = Ledger::new(&audit, key_map, crate::metrics::Metrics::new().unwrap().audit);
    resume(&ledger);
    ledger
}

/// Watches, and what is written from here on left since.
fn resume(ledger: &Ledger) {
    ledger.resume();
    ledger.departs(None);
    ledger.departs(None);
    // What they may have seen is not this test's.
    let mut state = ledger.state();
    state.out.blink();
    state.landed.blink();
}

#[test]
fn a_flight_that_left_before_anybody_watched_is_none_that_was_watched() {
    let now = Instant::now();
    let ledger = live();
    let of = |id: &str| vec![plan(&ledger, id, Kind::Updated, Value::Text("5".into()))];
    ledger.interrupt();
    ledger.departs(None);
    ledger.resume();
    // The next one leaves before this one is counted.
    ledger.departs(None);
    ledger.wrote(of("1"), &[APPLIED], true, now);
    ledger.departs(None);
    ledger.wrote(of("2"), &[APPLIED], true, now);
    assert!(ledger.take_due(9, now).is_empty());
    let mut due = ledger.take_due(9, now + GRACE);
    due.sort_by(|one, other| one.user.id.cmp(&other.user.id));
    assert_eq!(due.iter().map(|suspect| suspect.cause.unwatched).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn an_end_of_watching_is_counted_once() {
    let ledger = live();
    ledger.interrupt();
    ledger.stand_down();
    assert_eq!(ledger.metrics.unwatched.get(), 1);
    resume(&ledger);
    ledger.stand_down();
    assert_eq!(ledger.metrics.unwatched.get(), 2);
}

fn plan(ledger: &Ledger, id: &str, kind: Kind, value: Value) -> KeyPlan {
    let commit = CommitInfo { commit_lsn: COMMIT, time: PgTime(0), xid: Xid64(9) };
    ledger.key_map.plan(&Event {
        user: user(id),
        kind,
        commit: Arc::new(commit),
        position: Position { commit_lsn: COMMIT, ordinal: 0 },
        fields: vec![Field { name: "wallet_balance".into(), value }],
        balance_column: "wallet_balance".into(),
        changed: None,
        completed: Vec::new(),
        doubt: None,
    })
}

fn user(id: &str) -> User {
    User { user_type: "live".into(), id: id.into(), numeric_id: true }
}

fn keys_of(id: usize) -> [Bytes; 1] {
    [format!("user:{{live:{id}}}:config").into()]
}

fn keys(keys: &[&'static str]) -> Vec<Bytes> {
    keys.iter().map(|key| Bytes::from(*key)).collect()
}

#[test]
fn who_is_announced_is_looked_at_a_grace_later_and_once() {
    let now = Instant::now();
    let ledger = live();
    ledger.announced(&keys(&["user:{live:1}:config", "user_balance:live:1", "user:{live:1}:session"]), now);
    ledger.announced(&keys(&["user_balance:live:2"]), now + GRACE / 2);
    assert!(ledger.take_due(9, now + GRACE - Duration::from_millis(1)).is_empty());
    let due = ledger.take_due(9, now + GRACE);
    assert_eq!(due.len(), 1);
    assert_eq!((&*due[0].user.id, due[0].written.is_some()), ("1", false));
    assert_eq!(ledger.take_due(9, now + GRACE * 2).len(), 1);
    assert!(ledger.take_due(9, now + GRACE * 9).is_empty());
}

#[test]
fn of_a_key_that_goes_by_itself_it_is_known_that_it_was_the_only_one() {
    let now = Instant::now();
    let ledger = live();
    let announced =
        ["user_balance:live:1", "user_balance:live:1", "user_balance:live:2", "user:{live:2}:config"];
    ledger.announced(&keys(&announced), now);
    let due = ledger.take_due(9, now + GRACE);
    let only: Vec<_> = due.iter().map(|suspect| suspect.only.clone()).collect();
    assert_eq!(only, [Some("user_balance:live:1".into()), None]);
}

#[test]
fn whom_we_wrote_is_looked_at_even_where_nothing_is_announced() {
    let now = Instant::now();
    let ledger = live();
    let whole = plan(&ledger, "1", Kind::Updated, Value::Text("5".into()));
    let partly = plan(&ledger, "2", Kind::Updated, Value::Unchanged);
    let skipped = plan(&ledger, "3", Kind::Updated, Value::Text("5".into()));
    ledger.wrote(vec![whole, partly, skipped], &[APPLIED, APPLIED, Outcome::Skipped], true, now);
    let due = ledger.take_due(9, now + GRACE);
    let known: Vec<_> = due.iter().map(|suspect| (&*suspect.user.id, suspect.written.is_some())).collect();
    assert_eq!(known, [("1", true), ("2", false), ("3", false)], "what was not sent is not known");
    assert!(due.iter().all(|suspect| suspect.cause == Cause::OURS));
}

#[test]
fn of_whom_we_wrote_it_is_known_which_keys_were_announced() {
    let now = Instant::now();
    let ledger = live();
    let of = |id: &str, kind| plan(&ledger, id, kind, Value::Text("5".into()));
    let written = vec![of("1", Kind::Updated), of("2", Kind::Updated), of("3", Kind::Deleted)];
    // One flight is counted after the next has left.
    ledger.departs(None);
    ledger.departs(None);
    ledger.announced(&keys(&["user:{live:1}:config", "user_stats:live:1"]), now);
    ledger.wrote(written, &[APPLIED, APPLIED, APPLIED], true, now);
    ledger.announced(&keys(&["user_balance:live:1", "user:{live:1}:config"]), now);
    ledger.suspect(user("2"), now);
    let due = ledger.take_due(9, now + GRACE);
    let mut two = Announced::default();
    two.note(b"user:{live:1}:config");
    two.note(b"user_balance:live:1");
    let known: Vec<_> = due.iter().map(|suspect| (&*suspect.user.id, suspect.announced.clone())).collect();
    assert_eq!(known, [("1", two), ("2", Announced::Unknown), ("3", Announced::Unknown)]);
    assert!(due.iter().all(|suspect| suspect.written.is_some()));
    ledger.put_back(due, now);
    let due = ledger.take_due(9, now + GRACE);
    assert!(due.iter().all(|suspect| suspect.announced == Announced::Unknown) && due.len() == 3);
}

/// A look that falls between what is announced and what was written takes the news away with it.
#[test]
fn what_was_announced_is_not_known_where_some_of_it_was_taken_since_the_flight_left() {
    let now = Instant::now();
    let ledger = live();
    let of = |id: &str| plan(&ledger, id, Kind::Updated, Value::Text("5".into()));
    let known = |at: Instant| {
        let due = ledger.take_due(99, at).into_iter();
        due.map(|suspect| suspect.announced != Announced::Unknown).collect::<Vec<_>>()
    };
    ledger.wrote(vec![of("1")], &[APPLIED], true, now);
    assert_eq!(known(now + GRACE), [false], "it left before anything was announced");

    ledger.departs(None);
    ledger.announced(&keys(&["user_balance:live:1"]), now);
    ledger.take_due(9, now + GRACE);
    // The next one leaves before this one is counted.
    ledger.departs(None);
    ledger.wrote(vec![of("1"), of("2")], &[APPLIED, APPLIED], true, now);
    assert_eq!(known(now + GRACE), [false, true], "the first was looked at meanwhile");

    ledger.departs(None);
    ledger.departs(None);
    ledger.interrupt();
    resume(&ledger);
    ledger.wrote(vec![of("3")], &[APPLIED], true, now);
    assert_eq!(known(now + GRACE), [false], "nothing was announced in between");

    ledger.departs(None);
    ledger.departs(None);
    for id in 0..=MAX_SUSPECTS {
        ledger.announced(&keys_of(id), now);
    }
    ledger.take_due(MAX_SUSPECTS, now + GRACE);
    ledger.wrote(vec![of("999999")], &[APPLIED], true, now);
    assert_eq!(known(now + GRACE), [false], "there was no room for some");

    ledger.departs(None);
    ledger.departs(None);
    ledger.wrote(vec![of("3")], &[APPLIED], true, now);
    assert_eq!(known(now + GRACE), [true]);
}

#[test]
fn who_was_written_again_since_is_put_off_but_not_for_ever() {
    let mut now = Instant::now();
    let ledger = live();
    ledger.announced(&keys(&["user_balance:live:1"]), now);
    for put_off in [true, true, false] {
        now += GRACE;
        let due = ledger.take_due(9, now);
        ledger.announced(&keys(&["user_balance:live:1"]), now);
        assert_eq!(ledger.postpone(&due[0], now), put_off);
    }
    let due = ledger.take_due(9, now + GRACE);
    now += GRACE;
    assert!(!ledger.postpone(&due[0], now), "nobody wrote since");
    ledger.announced(&keys(&["user_balance:live:2"]), now);
    ledger.announced(&keys(&["user_balance:live:2"]), now + GRACE / 2);
    let due = ledger.take_due(9, now + GRACE);
    assert!(ledger.postpone(&due[0], now + GRACE), "the last write was half a grace ago");
}

#[test]
fn who_is_put_off_is_looked_at_a_grace_after_the_last_write() {
    let now = Instant::now();
    let ledger = live();
    let just = Duration::from_millis(20);
    ledger.wrote(vec![plan(&ledger, "1", Kind::Updated, Value::Text("5".into()))], &[APPLIED], true, now);
    // By hand, behind the commit that it belongs to.
    ledger.announced(&keys(&["user_balance:live:1"]), now + just);
    let due = ledger.take_due(9, now + GRACE);
    ledger.announced(&keys(&["user_balance:live:2"]), now + GRACE);
    assert!(ledger.postpone(&due[0], now + GRACE));
    assert!(ledger.take_due(9, now + GRACE).is_empty());
    let due = ledger.take_due(9, now + GRACE + just);
    assert_eq!(due.len(), 1, "no whole grace more");
    assert_eq!((&*due[0].user.id, ledger.is_recent(&due[0], now + GRACE + just)), ("1", false));
}

#[test]
fn a_user_changed_again_is_no_overflow_where_the_room_is_taken() {
    let now = Instant::now();
    let ledger = live();
    ledger.interrupt();
    let of = |id: usize| plan(&ledger, &id.to_string(), Kind::Updated, Value::Text("5".into()));
    for id in 0..MAX_USERS {
        ledger.wrote(vec![of(id)], &[APPLIED], true, now);
    }
    ledger.wrote(vec![of(7)], &[APPLIED], true, now);
    assert_eq!(ledger.metrics.overflows.get(), 0);
    assert_eq!(ledger.is_everybody_due(), None);
    ledger.wrote(vec![of(MAX_USERS)], &[APPLIED], true, now);
    assert_eq!(ledger.metrics.overflows.get(), 1);
    let due = ledger.is_everybody_due().expect("nobody knows any more who they are");
    assert_eq!(ledger.unwatched_since(now), Some(Lsn::ZERO));
    ledger.everybody_cleared(due);
    assert_eq!(ledger.is_everybody_due(), None);
    assert_eq!(ledger.unwatched_since(now), Some(COMMIT), "the others are still known");
}

#[test]
fn since_when_changes_wait_is_known_until_the_last_is_seen_to() {
    let now = Instant::now();
    let ledger = live();
    let of = |id: &str| plan(&ledger, id, Kind::Updated, Value::Text("5".into()));
    let since = || ledger.unwatched_since(now);
    ledger.departs(Some(COMMIT));
    assert_eq!(since(), Some(COMMIT), "it is not counted yet");
    ledger.departs(None);
    assert_eq!(since(), None);
    ledger.interrupt();
    ledger.wrote(vec![of("1")], &[APPLIED], true, now);
    resume(&ledger);
    let before = Lsn(COMMIT.0 - 1);
    ledger.changed_before(user("2"), before);
    assert_eq!(since(), Some(before));
    assert!(ledger.take_due(9, now).is_empty());
    assert_eq!(ledger.take_due(9, now + GRACE).len(), 2);
    ledger.cleared(1);
    ledger.not_cleared(vec![user("2")]);
    assert_eq!(since(), Some(before), "one has to wait again");
    assert!(ledger.take_due(9, now + GRACE).is_empty());
    assert_eq!(ledger.take_due(9, now + GRACE * 2).len(), 1);
    ledger.cleared(1);
    assert_eq!(since(), None);
}

#[test]
fn a_change_that_is_watched_waits_until_what_was_derived_behind_it_is_deleted() {
    let now = Instant::now();
    let ledger = live();
    ledger.wrote(vec![plan(&ledger, "1", Kind::Updated, Value::Text("5".into()))], &[APPLIED], true, now);
    assert_eq!(ledger.unwatched_since(now + GRACE * 2), Some(COMMIT));
    assert_eq!(ledger.unwatched_since(now + GRACE * 3), None);
}

#[test]
fn who_is_changed_unwatched_while_he_is_a_suspect_becomes_one_again_afterwards() {
    let now = Instant::now();
    let ledger = live();
    let changes_unwatched = |at: Instant| {
        ledger.interrupt();
        ledger.wrote(vec![plan(&ledger, "1", Kind::Updated, Value::Text("5".into()))], &[APPLIED], true, at);
        resume(&ledger);
    };
    let unwatched = |due: Vec<Suspect>| due.iter().map(|suspect| suspect.cause.unwatched).collect::<Vec<_>>();
    changes_unwatched(now);
    assert!(ledger.take_due(9, now).is_empty());
    changes_unwatched(now + GRACE / 2);
    assert!(ledger.take_due(9, now + GRACE / 2).is_empty());
    assert_eq!(unwatched(ledger.take_due(9, now + GRACE)), [true]);
    ledger.cleared(1);
    assert_eq!(
        ledger.unwatched_since(now + GRACE),
        Some(COMMIT),
        "what was derived of the second may be to come"
    );
    assert_eq!(unwatched(ledger.take_due(9, now + GRACE * 2)), [true]);
    ledger.cleared(1);
    assert_eq!(ledger.unwatched_since(now + GRACE * 2), None);
}

#[test]
fn what_is_sent_again_and_skipped_was_not_watched() {
    let now = Instant::now();
    let ledger = live();
    let again = vec![plan(&ledger, "1", Kind::Updated, Value::Text("5".into()))];
    ledger.wrote(again, &[Outcome::Skipped], true, now);
    let due = ledger.take_due(9, now + GRACE);
    assert_eq!(due.iter().map(|suspect| suspect.cause.unwatched).collect::<Vec<_>>(), [false]);
    let due = ledger.take_due(9, now + GRACE * 2);
    assert_eq!(due.iter().map(|suspect| suspect.cause.unwatched).collect::<Vec<_>>(), [true]);
}

#[test]
fn a_burst_too_large_to_be_remembered_is_over_once_its_silence_would_have_been_noticed() {
    let now = Instant::now();
    for (later, everybody) in [(GRACE, true), (crate::sink::UNHEARD + GRACE * 2, false)] {
        let ledger = live();
        let of = |id: usize| vec![plan(&ledger, &id.to_string(), Kind::Updated, Value::Text("5".into()))];
        for id in 0..=MAX_USERS {
            ledger.wrote(of(id), &[APPLIED], true, now);
        }
        ledger.wrote(of(1), &[APPLIED], true, now + later);
        ledger.misheard();
        assert_eq!(ledger.is_everybody_due().is_some(), everybody, "{later:?}");
    }
}

#[test]
fn where_it_is_unknown_whose_changes_wait_everybody_is_due_until_all_that_was_forgotten_is_cleared() {
    let ledger = live();
    ledger.forgot();
    let due = ledger.is_everybody_due().expect("anybody may have been changed");
    ledger.forgot();
    ledger.everybody_cleared(due);
    let due = ledger.is_everybody_due().expect("those who were forgotten meanwhile may be behind the walk");
    ledger.everybody_cleared(due);
    assert_eq!(ledger.is_everybody_due(), None);
}

#[test]
fn a_change_too_many_to_be_remembered_is_cleared_for_what_was_derived_cannot_be_judged() {
    let now = Instant::now();
    let ledger = live();
    let of = |id: usize| plan(&ledger, &id.to_string(), Kind::Updated, Value::Text("5".into()));
    for id in 0..=MAX_WRITTEN {
        ledger.wrote(vec![of(id)], &[APPLIED], true, now);
    }
    let due = ledger.take_due(MAX_SUSPECTS, now + GRACE);
    assert_eq!(due.len(), MAX_WRITTEN + 1);
    let later = ledger.take_due(9, now + GRACE * 2);
    let users: Vec<_> = later.iter().map(|suspect| (&*suspect.user.id, suspect.cause.unwatched)).collect();
    assert_eq!(users, [(&*MAX_WRITTEN.to_string(), true)]);
}

#[test]
fn of_what_redis_refused_it_is_known_that_nothing_is_there() {
    let now = Instant::now();
    let ledger = live();
    let refused = || Outcome::Refused { reason: "ERR".into() };
    let of = |kind| plan(&ledger, "1", kind, Value::Text("5".into()));
    ledger.wrote(vec![of(Kind::Reread(crate::balance::Reread::Heal))], &[refused()], false, now);
    let due = ledger.take_due(9, now + GRACE);
    let gone = due[0].written.as_ref().expect("else it is read and refused again, for ever");
    assert!(gone.deletes(b"user:{live:1}:config") && gone.deletes(b"user_balance:live:1"));
}

#[test]
fn a_derived_key_that_comes_within_the_grace_is_stale() {
    let now = Instant::now();
    let ledger = live();
    let of = |id: &str| plan(&ledger, id, Kind::Updated, Value::Text("5".into()));
    // Announced before we hear that our delete is done.
    ledger.announced(&keys(&["user_stats:live:1", "user_stats:live:9"]), now);
    ledger.wrote(vec![of("1")], &[APPLIED], true, now);
    ledger
        .announced(&keys(&["financial_summary:live:1:week", "financial_summary:live:12:week"]), now + GRACE);
    ledger.announced(&keys(&["user_margin_calc:live:1"]), now + GRACE + Duration::from_millis(1));
    assert_eq!(ledger.take_refills(now + GRACE), ["user_stats:live:1"]);
    assert_eq!(ledger.take_refills(now + GRACE * 3), ["financial_summary:live:1:week"]);
}

#[test]
fn who_was_changed_while_nothing_was_announced_is_looked_at_afterwards() {
    let now = Instant::now();
    let ledger = live();
    let of = |id: &str| plan(&ledger, id, Kind::Updated, Value::Text("5".into()));
    ledger.wrote(vec![of("1")], &[APPLIED], true, now);
    ledger.take_due(9, now + GRACE);
    ledger.interrupt();
    ledger.wrote(vec![of("2")], &[APPLIED], true, now + GRACE);
    ledger.wrote(vec![of("3")], &[APPLIED], false, now + GRACE);
    assert!(ledger.take_due(9, now + GRACE * 9).is_empty());
    ledger.resume();
    assert!(ledger.take_due(9, now + GRACE * 9).is_empty());
    let due = ledger.take_due(9, now + GRACE * 10);
    let mut users: Vec<_> =
        due.iter().map(|suspect| (&*suspect.user.id, suspect.written.is_some())).collect();
    users.sort_unstable();
    assert_eq!(users, [("1", false), ("2", false)], "a load's rows are not the stream's");
}

#[test]
fn what_was_derived_unheard_is_known_as_far_back_as_silence_may_last() {
    let now = Instant::now();
    let of = |ledger: &Ledger, id: &str| vec![plan(ledger, id, Kind::Updated, Value::Text("5".into()))];
    let noticed = now + crate::sink::UNHEARD;
    for loses in [Ledger::misheard, |ledger: &Ledger| (ledger.interrupt(), resume(ledger)).1] {
        let ledger = live();
        ledger.wrote(of(&ledger, "1"), &[APPLIED], true, now - GRACE * 2);
        ledger.wrote(of(&ledger, "2"), &[APPLIED], true, now);
        ledger.wrote(of(&ledger, "3"), &[APPLIED], false, now);
        let watched = ledger.take_due(9, noticed);
        assert!(watched.iter().all(|suspect| !suspect.cause.unwatched), "as far as is known");
        ledger.wrote(of(&ledger, "4"), &[APPLIED], true, noticed);
        loses(&ledger);
        assert!(ledger.take_due(9, noticed).is_empty());
        // One is a suspect already, and becomes another afterwards.
        let mut due = ledger.take_due(9, noticed + GRACE);
        due.extend(ledger.take_due(9, noticed + GRACE * 2));
        let unwatched = due.iter().filter(|suspect| suspect.cause.unwatched);
        let mut users: Vec<&str> = unwatched.map(|suspect| &*suspect.user.id).collect();
        users.sort_unstable();
        assert_eq!(users, ["2", "4"]);
    }
}

#[test]
fn whom_the_stream_changed_before_the_session_is_looked_at() {
    let now = Instant::now();
    let ledger = live();
    ledger.changed_before(user("1"), Lsn(16));
    assert!(ledger.take_due(9, now).is_empty());
    let due = ledger.take_due(9, now + GRACE);
    assert_eq!(due.iter().map(|suspect| suspect.cause.unwatched).collect::<Vec<_>>(), [true]);
}

#[test]
fn what_a_session_wrote_is_no_longer_known_once_it_has_ended() {
    let now = Instant::now();
    let ledger = live();
    let of = || vec![plan(&ledger, "1", Kind::Updated, Value::Text("5".into()))];
    ledger.wrote(of(), &[APPLIED], true, now);
    ledger.stand_down();
    // The next session, before anybody else heard of the end of the last.
    ledger.wrote(of(), &[APPLIED], true, now);
    ledger.resume();
    let _ = ledger.take_due(9, now + GRACE);
    let due = ledger.take_due(9, now + GRACE * 2);
    assert_eq!(due.iter().map(|suspect| suspect.written.is_some()).collect::<Vec<_>>(), [false]);
}

#[test]
fn who_is_announced_does_not_wait_behind_all_who_were_changed_unwatched() {
    let now = Instant::now();
    let ledger = live();
    ledger.interrupt();
    let of = |id: usize| plan(&ledger, &id.to_string(), Kind::Updated, Value::Text("5".into()));
    for id in 1..=3 * UNWATCHED_AT_ONCE {
        ledger.wrote(vec![of(id)], &[APPLIED], true, now);
    }
    ledger.resume();
    assert!(ledger.take_due(100, now).is_empty());
    ledger.announced(&keys(&["user_balance:live:900", "user_balance:live:901"]), now);
    let due = ledger.take_due(UNWATCHED_AT_ONCE + 2, now + GRACE);
    assert_eq!(due.len(), UNWATCHED_AT_ONCE + 2);
    assert!(due.iter().any(|suspect| &*suspect.user.id == "900"), "only the first of them are before");
    assert!(ledger.take_due(100, now + GRACE * 2).is_empty(), "a full look leaves no time for them");
    assert_eq!(ledger.take_due(100, now + GRACE * 3).len(), UNWATCHED_AT_ONCE);
    assert_eq!(ledger.take_due(100, now + GRACE * 4).len(), UNWATCHED_AT_ONCE, "and then all were");
}

#[test]
fn watching_rests_while_there_is_much_to_do() {
    let mut now = Instant::now();
    let ledger = live();
    let wanted = ledger.wanted();
    let mut report = |lag: u64, loaded: bool| {
        now += QUARTER;
        ledger.report(Duration::from_millis(lag), loaded, now);
        *wanted.borrow()
    };
    assert!(!report(0, false) && !report(0, true) && !report(0, true) && !report(0, true));
    assert!(report(0, true) && report(900, true));
    assert!(!report(1_100, true) && !report(600, true));
    for _ in 0..3 {
        assert!(!report(100, true));
    }
    assert!(report(100, true));
}

#[test]
fn watching_rests_above_a_rate_and_goes_on_below_it_and_a_burst_is_none() {
    let mut now = Instant::now();
    let ledger = live();
    let wanted = ledger.wanted();
    let mut reports = |events: u64, times: u32| {
        for _ in 0..times {
            now += QUARTER;
            ledger.state().tempo.events = events;
            ledger.report(Duration::ZERO, true, now);
        }
        *wanted.borrow()
    };
    assert!(reports(500, 8), "2,000 events a second");
    assert!(reports(0, 3) && reports(2_000, 1), "what comes after a second in which nothing came");
    assert!(reports(500, 8));
    assert!(!reports(2_000, 8), "8,000 events a second");
    ledger.interrupt();
    assert!(!reports(1_100, 8), "4,400: the rate outlives the end of watching");
    assert!(!reports(800, 20), "3,200: between the bounds it stays as it is");
    assert!(reports(500, 8), "2,000 again");
    assert!(reports(800, 20));
}
