//! What a real server sent, from bytes to rows: `tests/corpus/pgoutput`, with the SQL that was recorded.

use bytes::Bytes;

use super::*;
use crate::pgoutput::{Datum, Message, ReplicaIdentity};

const POSTGRES_15: &str = include_str!("../../tests/corpus/pgoutput/postgres15.hex");

fn recorded() -> impl Iterator<Item = Message> {
    POSTGRES_15.lines().map(|line| {
        let byte = |at| u8::from_str_radix(&line[at..at + 2], 16).unwrap();
        let bytes: Bytes = (0..line.len()).step_by(2).map(byte).collect();
        Message::decode(bytes).unwrap()
    })
}

fn transactions() -> Vec<Transaction> {
    let mut assembler = Assembler::new(Window { rows: 1000, bytes: 1 << 20 }, Xid64(700), "lockstep:s");
    let windows = recorded().filter_map(|message| assembler.push(message).unwrap()).collect();
    assert!(assembler.is_idle());
    windows
}

/// A row as `table: old -> new`, long values by their length.
fn sketch(row: &Row) -> String {
    let columns = |tuple: &Tuple| {
        let column = |datum| match datum {
            Datum::Null => "null".to_owned(),
            Datum::Unchanged => "unchanged".to_owned(),
            Datum::Text(text) if text.len() > 30 => format!("{} bytes", text.len()),
            Datum::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
        };
        tuple.columns().map(column).collect::<Vec<_>>().join(",")
    };
    let old = |old: &OldTuple| match old {
        OldTuple::Key(key) => format!("key({})", columns(key)),
        OldTuple::Full(full) => format!("full({})", columns(full)),
    };
    let change = match &row.change {
        Change::Insert(new) => format!("+ {}", columns(new)),
        Change::Update { old: None, new } => format!("= {}", columns(new)),
        Change::Update { old: Some(before), new } => format!("{} = {}", old(before), columns(new)),
        Change::Delete(before) => format!("{} -", old(before)),
        Change::Truncate => "truncate".to_owned(),
    };
    format!("{} {change}", row.relation.name)
}

#[test]
fn every_recorded_transaction_has_the_rows_that_were_written() {
    let sketches: Vec<Vec<String>> =
        transactions().iter().map(|window| window.rows.iter().map(sketch).collect()).collect();
    let expected: &[&[&str]] = &[
        &[
            "users + 1,live,10000.500000,first",
            "users + 2,demo,0.000000,null",
            "user_transactions + 1,-25.000000,1",
        ],
        &[
            "users = 1,live,99999999999.999999,first",
            "users key(2,null,null,null) = 3,demo,0.000000,null",
            "audit + 1,old",
            "audit full(1,old) = 1,new",
            "audit full(1,new) -",
            "users key(3,null,null,null) -",
        ],
        &["users + 4,live,1.000000,3000 bytes"],
        &["users = 4,live,2.000000,unchanged"],
        // The logical messages inside and behind it leave no row.
        &["users = 4,live,3.000000,unchanged"],
        // The rows of a savepoint that was rolled back, and of a whole transaction, leave no trace.
        &["user_transactions + 2,5.000000,4", "user_transactions + 4,7.000000,4"],
        // A column was added between the two.
        &["users = 4,live,4.000000,unchanged", "users = 4,live,5.000000,unchanged,a@b"],
        // A column was renamed, one retyped, one dropped.
        &["users = 4,live,6.0000000000,unchanged"],
        &["user_transactions + 5,8.000000,4"],
        &["users truncate", "audit truncate"],
        &["users + 7,demo,-0.0000010000,after"],
        &["users = 7,demo,8.0000000000,after"],
    ];
    assert_eq!(sketches, expected);
}

#[test]
fn recorded_positions_rise_and_only_last_windows_may_be_acknowledged() {
    let windows = transactions();
    assert!(windows.is_sorted_by_key(|window| window.commit.commit_lsn));
    assert_eq!(windows.iter().filter(|window| window.end_lsn.is_none()).count(), 2, "around the truncate");
    assert!(windows.iter().all(|window| window.end_lsn.is_none_or(|end| end > window.commit.commit_lsn)));
    assert!(windows.is_sorted_by_key(|window| window.commit.xid));
}

#[test]
fn recorded_tables_follow_alter_table() {
    let windows = transactions();
    let users = |window: usize, row: usize| &windows[window].rows[row].relation;
    let names = |relation: &Relation| relation.columns.iter().map(|c| c.name.to_string()).collect::<Vec<_>>();
    let first = users(0, 0);
    assert_eq!((&*first.schema, first.identity), ("public", ReplicaIdentity::Default));
    assert_eq!(names(first), ["id", "user_type", "wallet_balance", "note"]);
    assert!(first.columns[0].is_key && !first.columns[1].is_key);
    // numeric(18,6): precision and scale in the upper and lower half, plus the header size of 4.
    assert_eq!((first.columns[2].type_oid, first.columns[2].type_modifier), (1700, (18 << 16 | 6) + 4));
    assert!(Arc::ptr_eq(first, users(6, 0)), "described again and again, never differently");
    assert_eq!(names(users(6, 1)), ["id", "user_type", "wallet_balance", "note", "email"]);
    assert_eq!(names(users(7, 0)), ["id", "user_type", "wallet_balance", "remark"]);
    assert_eq!(users(7, 0).columns[2].type_modifier, (30 << 16 | 10) + 4);
    assert_eq!(windows[1].rows[2].relation.identity, ReplicaIdentity::Full);
}
