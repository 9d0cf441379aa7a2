//! How messages become windows of rows.

use proptest::prelude::*;

use super::*;
use crate::error::Error;
use crate::pgoutput::{Begin, Column, Commit, Datum, Message, ReplicaIdentity};

const USERS: u32 = 7;
const AUDIT: u32 = 8;
const WIDE: Window = Window { rows: 100, bytes: 1 << 20 };

fn begin(lsn: u64) -> Message {
    Message::Begin(Begin { commit_lsn: Lsn(lsn), commit_time: PgTime(1), xid: 741 })
}

fn commit(lsn: u64) -> Message {
    Message::Commit(Commit { commit_lsn: Lsn(lsn), end_lsn: Lsn(lsn + 8), commit_time: PgTime(1) })
}

fn described(oid: u32, columns: &[&str]) -> Message {
    let column =
        |name: &&str| Column { is_key: false, name: (*name).into(), type_oid: 25, type_modifier: -1 };
    Message::Relation(Relation {
        oid,
        schema: "public".into(),
        name: "t".into(),
        identity: ReplicaIdentity::Default,
        columns: columns.iter().map(column).collect(),
    })
}

fn insert(relation: u32, text: &str) -> Message {
    Message::Insert { relation, new: Tuple::from_columns(&[Datum::Text(text.as_bytes())]).unwrap() }
}

fn truncate(relations: &[u32]) -> Message {
    Message::Truncate { relations: relations.to_vec(), cascade: false, restart_identity: false }
}

/// Between transactions, with both tables described.
fn assembler(window: Window) -> Assembler {
    let mut assembler = Assembler::new(window, Xid64(7 << 32), "lockstep:s");
    for oid in [USERS, AUDIT] {
        assembler.push(described(oid, &["id"])).unwrap();
    }
    assembler
}

fn push_all(
    assembler: &mut Assembler,
    messages: impl IntoIterator<Item = Message>,
) -> Result<Vec<Transaction>, AssemblyError> {
    messages.into_iter().filter_map(|message| assembler.push(message).transpose()).collect()
}

/// Ordinals of each window.
fn ordinals(windows: &[Transaction]) -> Vec<Vec<u32>> {
    windows.iter().map(|window| window.rows.iter().map(|row| row.ordinal).collect()).collect()
}

#[test]
fn a_commit_hands_on_its_rows_numbered_from_one() {
    let mut assembler = assembler(WIDE);
    let messages = [begin(16), insert(USERS, "1"), insert(AUDIT, "2"), commit(16)];
    let windows = push_all(&mut assembler, messages).unwrap();
    assert_eq!(ordinals(&windows), [[1, 2]]);
    let expected = CommitInfo { commit_lsn: Lsn(16), time: PgTime(1), xid: Xid64(7 << 32 | 741) };
    assert_eq!(*windows[0].commit, expected);
    assert_eq!(windows[0].end_lsn, Some(Lsn(24)));
    assert_eq!(windows[0].rows[1].relation.oid, AUDIT);
}

#[test]
fn a_column_of_a_domain_is_one_of_the_type_below_it() {
    let mut assembler = assembler(WIDE);
    let named =
        |schema: &str, name: &str| Message::Type { oid: 25, schema: schema.into(), name: name.into() };
    let mut seen = |kind: Message| {
        let messages = [begin(16), kind, described(USERS, &["id"]), insert(USERS, "t"), commit(16)];
        push_all(&mut assembler, messages).unwrap()[0].rows[0].relation.columns[0].type_oid
    };
    assert_eq!(seen(named("", "bool")), 16);
    assert_eq!(seen(named("public", "bool")), 25, "somebody's own type of that name");
    assert_eq!(seen(named("", "numeric")), 1700);
}

#[test]
fn messages_to_us_are_handed_on_and_those_to_others_are_not() {
    let said = |prefix: &str, transactional, content: &'static [u8]| Message::Logical {
        transactional,
        lsn: Lsn(8),
        prefix: prefix.to_owned(),
        content: content.into(),
    };
    static HUGE: [u8; 70_000] = [b'x'; 70_000];
    let mut assembler = assembler(WIDE);
    let messages = [
        said("lockstep:s", false, b"outside"),
        begin(16),
        said("lockstep:s", true, b"one"),
        said("lockstep:other", true, b"for another slot"),
        insert(USERS, "1"),
        said("lockstep:s", true, b"two"),
        said("lockstep:s", true, &HUGE),
        commit(16),
        begin(24),
        commit(24),
    ];
    let windows = push_all(&mut assembler, messages).unwrap();
    assert_eq!(windows[0].messages, [b"one".as_slice(), b"two"]);
    assert!(windows[1].messages.is_empty());
}

#[test]
fn an_empty_transaction_still_moves_the_position() {
    let windows = push_all(&mut assembler(WIDE), [begin(16), commit(16)]).unwrap();
    assert!(windows[0].rows.is_empty());
    assert_eq!(windows[0].end_lsn, Some(Lsn(24)));
}

#[test]
fn a_large_transaction_passes_in_windows_that_only_the_last_may_acknowledge() {
    let window = Window { rows: 2, bytes: 1 << 20 };
    let rows = (0..5).map(|_| insert(USERS, "1"));
    let messages = [begin(16)].into_iter().chain(rows).chain([commit(16)]);
    let windows = push_all(&mut assembler(window), messages).unwrap();
    assert_eq!(ordinals(&windows), [vec![1, 2], vec![3, 4], vec![5]]);
    assert_eq!(windows.iter().map(|w| w.end_lsn).collect::<Vec<_>>(), [None, None, Some(Lsn(24))]);
}

#[test]
fn a_window_holds_no_more_bytes_than_it_may_but_always_a_row() {
    // Each column costs 5 bytes beside its text.
    let window = Window { rows: 100, bytes: 20 };
    let messages =
        [begin(16), insert(USERS, "12345"), insert(USERS, "12345"), insert(USERS, "1"), commit(16)];
    assert_eq!(ordinals(&push_all(&mut assembler(window), messages).unwrap()), [vec![1, 2], vec![3]]);
    let huge = "x".repeat(50);
    let messages = [begin(32), insert(USERS, &huge), insert(USERS, &huge), commit(32)];
    assert_eq!(ordinals(&push_all(&mut assembler(window), messages).unwrap()), [[1], [2]]);
}

#[test]
fn a_truncate_has_a_window_to_itself() {
    let messages = [
        begin(16),
        insert(USERS, "1"),
        truncate(&[USERS, AUDIT]),
        truncate(&[USERS]),
        insert(USERS, "2"),
        commit(16),
    ];
    let windows = push_all(&mut assembler(WIDE), messages).unwrap();
    assert_eq!(ordinals(&windows), [vec![1], vec![2, 3], vec![4], vec![5]]);
    assert!(windows[1].rows.iter().all(|row| matches!(row.change, Change::Truncate)));
    assert_eq!(windows[1].rows.iter().map(|row| row.relation.oid).collect::<Vec<_>>(), [USERS, AUDIT]);
}

#[test]
fn rows_keep_the_table_as_it_stood_when_they_were_written() {
    let mut assembler = assembler(WIDE);
    let two = Tuple::from_columns(&[Datum::Null, Datum::Null]).unwrap();
    let messages = [
        begin(16),
        insert(USERS, "1"),
        described(USERS, &["id"]),
        insert(USERS, "2"),
        described(USERS, &["id", "email"]),
        Message::Insert { relation: USERS, new: two },
        commit(16),
    ];
    let rows = push_all(&mut assembler, messages).unwrap().remove(0).rows;
    assert!(Arc::ptr_eq(&rows[0].relation, &rows[1].relation), "described again, not differently");
    assert!(!Arc::ptr_eq(&rows[1].relation, &rows[2].relation), "altered");
    assert_eq!((rows[1].relation.columns.len(), rows[2].relation.columns.len()), (1, 2));
}

#[test]
fn messages_that_leave_no_row_leave_none() {
    let logical = |transactional| Message::Logical {
        transactional,
        lsn: Lsn(1),
        prefix: "p".to_owned(),
        content: bytes::Bytes::new(),
    };
    let messages = [
        logical(false),
        begin(16),
        Message::Origin { lsn: Lsn(1), name: "o".to_owned() },
        Message::Type { oid: 1, schema: "s".to_owned(), name: "n".to_owned() },
        logical(true),
        commit(16),
    ];
    let windows = push_all(&mut assembler(WIDE), messages).unwrap();
    assert_eq!(ordinals(&windows), [Vec::<u32>::new()]);
}

#[test]
fn messages_out_of_place_are_refused() {
    let refusal = |messages: &[Message]| push_all(&mut assembler(WIDE), messages.to_vec()).unwrap_err();
    assert_eq!(refusal(&[commit(16)]), AssemblyError::OutsideTransaction { what: "Commit" });
    assert_eq!(refusal(&[insert(USERS, "1")]), AssemblyError::OutsideTransaction { what: "row" });
    assert_eq!(refusal(&[truncate(&[USERS])]), AssemblyError::OutsideTransaction { what: "Truncate" });
    assert_eq!(
        refusal(&[begin(16), begin(32)]),
        AssemblyError::NestedBegin { open: Lsn(16), begun: Lsn(32) }
    );
    assert_eq!(
        refusal(&[begin(16), commit(32)]),
        AssemblyError::OtherCommit { begun: Lsn(16), committed: Lsn(32) }
    );
    assert_eq!(refusal(&[begin(16), insert(99, "1")]), AssemblyError::UnknownRelation { oid: 99 });
    assert_eq!(refusal(&[begin(16), truncate(&[USERS, 99])]), AssemblyError::UnknownRelation { oid: 99 });
    let narrow = Message::Insert { relation: USERS, new: Tuple::from_columns(&[]).unwrap() };
    let width = AssemblyError::Width { oid: USERS, described: 1, found: 0 };
    assert_eq!(refusal(&[begin(16), narrow]), width);
    let shown = Error::from(width);
    assert!(!shown.is_transient() && !shown.fault().cure.is_empty());
}

#[test]
fn transaction_ids_are_widened_across_the_epoch() {
    let mut assembler = Assembler::new(WIDE, Xid64(7 << 32 | 0xFFFF_FFF0), "lockstep:s");
    let mut xid = |xid| {
        let begin = Begin { commit_lsn: Lsn(16), commit_time: PgTime(1), xid };
        let windows = push_all(&mut assembler, [Message::Begin(begin), commit(16)]).unwrap();
        windows[0].commit.xid
    };
    assert_eq!(xid(0xFFFF_FFFA), Xid64(7 << 32 | 0xFFFF_FFFA));
    assert_eq!(xid(3), Xid64(8 << 32 | 3));
    assert_eq!(xid(0xFFFF_FFFB), Xid64(7 << 32 | 0xFFFF_FFFB), "it began earlier and committed later");
}

/// What a transaction may consist of: `None` is a truncate of both tables.
fn contents() -> impl Strategy<Value = Vec<Option<String>>> {
    prop::collection::vec(prop::option::weighted(0.9, "[a-z]{0,9}"), 0..40)
}

fn windows_of(contents: &[Option<String>], window: Window) -> Vec<Transaction> {
    let rows = contents.iter().map(|row| match row {
        Some(text) => insert(USERS, text),
        None => truncate(&[USERS, AUDIT]),
    });
    push_all(&mut assembler(window), [begin(16)].into_iter().chain(rows).chain([commit(16)])).unwrap()
}

fn is_truncate(row: &Row) -> bool {
    matches!(row.change, Change::Truncate)
}

proptest! {
    #[test]
    fn windows_of_any_size_carry_the_same_rows(contents in contents(), rows in 0_usize..9, bytes in 0_usize..60) {
        let all = |windows: &[Transaction]| {
            let rows = windows.iter().flat_map(|window| &window.rows);
            rows.map(|row| format!("{row:?}")).collect::<Vec<_>>()
        };
        let windows = windows_of(&contents, Window { rows, bytes });
        prop_assert_eq!(all(&windows), all(&windows_of(&contents, WIDE)));
        let numbers: Vec<_> = ordinals(&windows).concat();
        prop_assert!(numbers.iter().copied().eq(1..=u32::try_from(numbers.len()).unwrap()));
    }

    #[test]
    fn windows_stay_within_bounds_and_apart_from_truncates(contents in contents(), rows in 1_usize..9, bytes in 0_usize..60) {
        let windows = windows_of(&contents, Window { rows, bytes });
        let (last, others) = windows.split_last().unwrap();
        prop_assert!(last.end_lsn.is_some());
        prop_assert!(others.iter().all(|window| window.end_lsn.is_none() && !window.rows.is_empty()));
        for window in &windows {
            if window.rows.iter().any(is_truncate) {
                prop_assert!(window.rows.iter().all(is_truncate));
                prop_assert_eq!(window.rows.len(), 2, "one message's relations");
            } else {
                prop_assert!(window.rows.len() <= rows);
                let held: usize = window.rows.iter().map(|row| row.change.encoded_len()).sum();
                prop_assert!(held <= bytes || window.rows.len() == 1);
            }
        }
    }
}
