//! CONTRACT section 2: rows of one database transaction become one event for each user.

use std::sync::Arc;

use super::*;
use crate::config::{Shard, TableKind, TableSpec, UserType};
use crate::lsn::{Lsn, Xid64};
use crate::pgoutput::{Column, Datum, OldTuple, PgTime, Relation, ReplicaIdentity, Tuple};
use crate::txn::{Change, CommitInfo, Row, Transaction};

const USERS: [(&str, u32); 5] =
    [("id", 23), ("user_type", 25), ("wallet_balance", 1700), ("email", 25), ("password", 25)];
const TRANSACTIONS: [(&str, u32); 6] =
    [("user_id", 23), ("user_type", 25), ("type", 25), ("amount", 1700), ("status", 25), ("notes", 25)];

fn relation(oid: u32, name: &str, columns: &[(&str, u32)], keys: &[&str]) -> Arc<Relation> {
    let column = |(name, type_oid): &(&str, u32)| Column {
        is_key: keys.contains(name),
        name: (*name).into(),
        type_oid: *type_oid,
        type_modifier: -1,
    };
    let columns = columns.iter().map(column).collect();
    let identity = ReplicaIdentity::Index;
    Arc::new(Relation { oid, schema: "public".into(), name: name.into(), identity, columns })
}

fn users() -> Arc<Relation> {
    relation(1, "users", &USERS, &["id", "user_type"])
}

fn transactions() -> Arc<Relation> {
    relation(2, "user_transactions", &TRANSACTIONS, &["id"])
}

/// `~` is NULL, `?` an unchanged TOASTed value.
fn tuple(values: &[&str]) -> Tuple {
    let datum = |value: &&'static str| match *value {
        "~" => Datum::Null,
        "?" => Datum::Unchanged,
        text => Datum::Text(text.as_bytes()),
    };
    let values: Vec<&'static str> = values.iter().map(|value| &*value.to_string().leak()).collect();
    Tuple::from_columns(&values.iter().map(datum).collect::<Vec<_>>()).unwrap()
}

fn specs(user_type: UserType) -> Vec<TableSpec> {
    let users = TableKind::Users { id_column: "id".into(), balance_column: "wallet_balance".into() };
    let paid = TableKind::Transactions { user_id_column: "user_id".into() };
    let spec = |name: &str, kind, user_type| TableSpec {
        schema: "public".into(),
        name: name.into(),
        kind,
        user_type,
        columns: None,
        shard: Shard::WHOLE,
    };
    let column = UserType::Column("user_type".into());
    vec![spec("users", users, user_type), spec("user_transactions", paid, column)]
}

fn mapping() -> Mapping {
    Mapping::new(&specs(UserType::Column("user_type".into())))
}

fn transaction(rows: Vec<(&Arc<Relation>, Change)>) -> Transaction {
    let commit = Arc::new(CommitInfo { commit_lsn: Lsn(100), time: PgTime(0), xid: Xid64(9) });
    let row = |(at, (relation, change)): (usize, (&Arc<Relation>, Change))| Row {
        ordinal: u32::try_from(at).unwrap() + 1,
        relation: Arc::clone(relation),
        change,
    };
    Transaction {
        commit,
        rows: rows.into_iter().enumerate().map(row).collect(),
        messages: Vec::new(),
        end_lsn: Some(Lsn(200)),
    }
}

fn insert(values: &[&str]) -> Change {
    Change::Insert(tuple(values))
}

fn update(values: &[&str]) -> Change {
    Change::Update { old: None, new: tuple(values) }
}

fn rekey(old: &[&str], values: &[&str]) -> Change {
    Change::Update { old: Some(OldTuple::Key(tuple(old))), new: tuple(values) }
}

fn full(old: &[&str], values: &[&str]) -> Change {
    Change::Update { old: Some(OldTuple::Full(tuple(old))), new: tuple(values) }
}

fn delete(old: &[&str]) -> Change {
    Change::Delete(OldTuple::Key(tuple(old)))
}

/// `type:id kind @ordinal column=value ... paid:amount` for each event; refused rows by their reason.
fn told(mapping: &mut Mapping, rows: Vec<(&Arc<Relation>, Change)>) -> Vec<String> {
    let outputs = mapping.events(&transaction(rows));
    outputs
        .iter()
        .map(|output| match output {
            Output::Truncated(gone) => format!("truncated {:?} @{}", gone.user_type, gone.position.ordinal),
            Output::Refused(refused) => format!("{}: {}", refused.table, refused.reason),
            Output::Event(event) => {
                let user = &event.user;
                let mut text =
                    format!("{}:{} {:?} @{}", user.user_type, user.id, event.kind, event.position.ordinal);
                for field in &event.fields {
                    let value = match &field.value {
                        Value::Unchanged => "?",
                        value => value.text().unwrap_or("~"),
                    };
                    text.push_str(&format!(" {}={value}", field.name));
                }
                for row in &event.completed {
                    let amount = row.fields.iter().find(|field| &*field.name == "amount").unwrap();
                    text.push_str(&format!(" paid:{}", amount.value.text().unwrap_or("~")));
                }
                event.doubt.iter().for_each(|doubt| text.push_str(&format!(" {doubt:?}")));
                text
            }
        })
        .collect()
}

#[test]
fn many_changes_of_one_user_are_one_the_last() {
    let (u, t) = (users(), transactions());
    let rows = vec![
        (&u, update(&["7", "live", "10.000000", "a@b", "secret"])),
        (&t, insert(&["7", "live", "deposit", "5", "completed", "n"])),
        (&u, update(&["8", "demo", "1", "~", "secret"])),
        (&u, update(&["7", "live", "15.500000", "?", "secret"])),
        (&t, insert(&["7", "live", "swap", "-1.50", "completed", "n"])),
    ];
    assert_eq!(
        told(&mut mapping(), rows),
        [
            "demo:8 Updated @3 wallet_balance=1 email=~",
            "live:7 Updated @5 wallet_balance=15.5 email=a@b paid:5 paid:-1.5",
        ],
        "in the order of last rows; secrets are not mapped; an earlier value stands for an unsent one"
    );
}

#[test]
fn one_user_is_one_event_where_the_two_tables_have_ids_of_different_types() {
    let (u, text_ids) = (users(), [("user_id", 25), TRANSACTIONS[1], TRANSACTIONS[3], TRANSACTIONS[4]]);
    let t = relation(2, "user_transactions", &text_ids, &[]);
    let paid = || (&t, insert(&["7", "live", "5", "completed"]));
    let changed = || (&u, update(&["7", "live", "15", "~", "~"]));
    let mut m = mapping();
    let mut ids = |rows| {
        let event = |output| match output {
            Output::Event(event) => (event.user.numeric_id, event.completed.len()),
            other => panic!("{other:?}"),
        };
        m.events(&transaction(rows)).into_iter().map(event).collect::<Vec<_>>()
    };
    assert_eq!(ids(vec![paid()]), [(false, 1)], "the users table was not described yet");
    assert_eq!(ids(vec![paid(), changed()]), [(true, 1)], "the users table decides");
    assert_eq!(ids(vec![changed(), paid()]), [(true, 1)]);
    assert_eq!(ids(vec![paid(), (&u, delete(&["7", "live", "~", "~", "~"]))]), [(true, 1)]);
    assert_eq!(ids(vec![paid()]), [(true, 1)], "it has been described");
}

#[test]
fn what_happened_last_decides_the_kind() {
    let u = users();
    let (row, key) = (["7", "live", "1", "~", "~"], ["7", "live", "~", "~", "~"]);
    let mut m = mapping();
    let kind = |told: Vec<String>| told[0].split(' ').nth(1).unwrap().to_owned();
    assert_eq!(kind(told(&mut m, vec![(&u, insert(&row)), (&u, update(&row))])), "Created");
    assert_eq!(kind(told(&mut m, vec![(&u, insert(&row)), (&u, delete(&key))])), "Deleted");
    assert_eq!(kind(told(&mut m, vec![(&u, delete(&key)), (&u, insert(&row))])), "Created");
    assert_eq!(kind(told(&mut m, vec![(&u, update(&row)), (&u, delete(&key))])), "Deleted");
}

#[test]
fn a_changed_id_or_type_deletes_the_old_user_first() {
    let u = users();
    let moved = rekey(&["7", "live", "~", "~", "~"], &["7", "demo", "1", "?", "~"]);
    let unsent = " Unsent { column: \"email\" }";
    assert_eq!(
        told(&mut mapping(), vec![(&u, moved)]),
        ["live:7 Deleted @1".to_owned(), format!("demo:7 Created @1 wallet_balance=1 email=?{unsent}")]
    );
    let hostile = rekey(&["7", "live", "~", "~", "~"], &["7", "a:b", "1", "~", "~"]);
    let told = told(&mut mapping(), vec![(&u, hostile)]);
    assert_eq!(told[0], "live:7 Deleted @1");
    assert!(told[1].contains("the user type is empty, too long or holds"));
}

#[test]
fn rows_of_users_whom_another_shard_follows_are_passed_over() {
    let (u, t) = (users(), transactions());
    let mut specs = specs(UserType::Column("user_type".into()));
    specs.iter_mut().for_each(|spec| spec.shard = Shard::new(1, 2).unwrap());
    let mut m = Mapping::new(&specs);
    let rows = vec![
        (&u, insert(&["7", "live", "1", "~", "~"])),
        (&u, insert(&["8", "live", "1", "~", "~"])),
        (&t, insert(&["8", "live", "deposit", "5", "completed", "n"])),
        (&t, insert(&["9", "live", "deposit", "5", "completed", "n"])),
    ];
    assert_eq!(
        told(&mut m, rows),
        ["live:7 Created @1 wallet_balance=1 email=~", "live:9 Completed @4 paid:5"]
    );
    let moved = rekey(&["7", "live", "~", "~", "~"], &["8", "live", "1", "~", "~"]);
    assert_eq!(told(&mut m, vec![(&u, moved)]), ["live:7 Deleted @1"], "it is the other's from here on");
    let moved = rekey(&["8", "live", "~", "~", "~"], &["9", "live", "1", "~", "~"]);
    assert_eq!(told(&mut m, vec![(&u, moved)]), ["live:9 Created @1 wallet_balance=1 email=~"]);
}

#[test]
fn only_completed_rows_count() {
    let t = transactions();
    let row = |status| ["7", "live", "deposit", "5", status, "n"];
    let mut m = mapping();
    assert!(told(&mut m, vec![(&t, insert(&row("pending"))), (&t, update(&row("failed")))]).is_empty());
    assert!(told(&mut m, vec![(&t, delete(&row("completed"))), (&t, Change::Truncate)]).is_empty());
    assert!(told(&mut m, vec![(&t, full(&row("completed"), &row("completed")))]).is_empty());
    let counted = ["live:7 Completed @1 paid:5"];
    assert_eq!(told(&mut m, vec![(&t, update(&row("completed")))]), counted);
    assert_eq!(told(&mut m, vec![(&t, full(&row("pending"), &row("completed")))]), counted);
}

#[test]
fn a_row_that_was_completed_before_does_not_count_where_wal_tells_of_it() {
    let t = relation(2, "user_transactions", &TRANSACTIONS, &["user_id", "status"]);
    let row = |status| ["7", "live", "deposit", "5", status, "n"];
    let key = |id, status| [id, "~", "~", "~", status, "~"];
    let mut m = mapping();
    let counted = ["live:7 Completed @1 paid:5"];
    assert!(told(&mut m, vec![(&t, update(&row("completed")))]).is_empty(), "its status did not change");
    assert!(told(&mut m, vec![(&t, rekey(&key("6", "completed"), &row("completed")))]).is_empty());
    assert_eq!(told(&mut m, vec![(&t, rekey(&key("7", "pending"), &row("completed")))]), counted);
    assert_eq!(told(&mut m, vec![(&t, insert(&row("completed")))]), counted);
}

#[test]
fn rows_of_a_user_type_that_is_not_configured_touch_nothing() {
    let t = transactions();
    let mut m = Mapping::new(&specs(UserType::Constant("live".into())));
    assert!(told(&mut m, vec![(&t, insert(&["7", "demo", "deposit", "5", "completed", "n"]))]).is_empty());
    assert_eq!(told(&mut m, vec![(&t, insert(&["7", "live", "deposit", "5", "completed", "n"]))]).len(), 1);
}

#[test]
fn a_truncate_stands_between_what_was_before_and_what_came_after() {
    let u = users();
    let row = ["7", "live", "1", "~", "~"];
    let rows = vec![(&u, update(&row)), (&u, Change::Truncate), (&u, insert(&row))];
    assert_eq!(
        told(&mut mapping(), rows),
        [
            "live:7 Updated @1 wallet_balance=1 email=~",
            "truncated None @2",
            "live:7 Created @3 wallet_balance=1 email=~",
        ]
    );
}

#[test]
fn a_truncate_concerns_no_type_that_another_table_has_for_all_its_rows() {
    let vip = TableSpec { name: "vips".into(), ..specs(UserType::Constant("vip".into())).remove(0) };
    let mut m = Mapping::new(&[specs(UserType::Column("user_type".into())), vec![vip]].concat());
    let vips = relation(5, "vips", &USERS, &["id"]);
    let outputs = m.events(&transaction(vec![(&users(), Change::Truncate), (&vips, Change::Truncate)]));
    let concerned = outputs.iter().map(|output| match output {
        Output::Truncated(gone) => ["live", "vip"].map(|user_type| gone.may_concern(user_type)),
        other => panic!("{other:?}"),
    });
    assert_eq!(concerned.collect::<Vec<_>>(), [[true, false], [false, true]]);
}

#[test]
fn a_known_old_row_tells_what_changed() {
    let u = users();
    let change = full(&["7", "live", "1.0", "a", "~"], &["7", "live", "1", "?", "~"]);
    let outputs = mapping().events(&transaction(vec![(&u, change)]));
    let Output::Event(event) = &outputs[0] else { panic!("no event") };
    assert_eq!(event.changed.as_deref(), Some(&[][..]), "1.0 is 1, and an unsent value is the old one");
    assert_eq!(event.fields[1].value, Value::Text("a".into()));
}

#[test]
fn nan_and_bytes_that_are_no_text_never_reach_a_key() {
    let u = users();
    assert_eq!(
        told(&mut mapping(), vec![(&u, update(&["7", "live", "NaN", "~", "~"]))]),
        [
            "live:7 Updated @1 wallet_balance=? email=~ Undecodable { table: \"public.users\", column: \"wallet_balance\" }"
        ]
    );
    let rows =
        vec![(&u, update(&["7", "live", "NaN", "~", "~"])), (&u, update(&["7", "live", "3", "~", "~"]))];
    assert_eq!(
        told(&mut mapping(), rows),
        ["live:7 Updated @2 wallet_balance=3 email=~"],
        "the last row is sound"
    );
}

#[test]
fn null_balances_are_zero() {
    let u = users();
    let rows = vec![(&u, insert(&["7", "live", "~", "~", "~"]))];
    assert_eq!(told(&mut mapping(), rows), ["live:7 Created @1 wallet_balance=0 email=~"]);
}

#[test]
fn hostile_names_touch_no_key_and_are_told() {
    let u = users();
    for (id, user_type) in [("{", "live"), ("", "live"), ("7", ""), ("7", "a}b"), ("7", "~"), ("~", "live")] {
        let told = told(&mut mapping(), vec![(&u, insert(&[id, user_type, "1", "~", "~"]))]);
        assert!(
            told.len() == 1 && told[0].starts_with("public.users: the user "),
            "{id} {user_type}: {told:?}"
        );
    }
}

#[test]
fn a_delete_that_does_not_tell_the_type_is_refused_by_name() {
    let u = relation(1, "users", &USERS, &["id"]);
    let told = told(&mut mapping(), vec![(&u, delete(&["7", "~", "~", "~", "~"]))]);
    assert!(told[0].contains("the replica identity must cover the id and the user type"));
}

#[test]
fn alter_table_in_mid_stream_is_followed_and_a_lost_column_is_named() {
    let mut m = mapping();
    let (before, reordered) =
        (users(), relation(1, "users", &[USERS[2], USERS[0], USERS[1]], &["id", "user_type"]));
    let rows =
        vec![(&before, update(&["7", "live", "1", "a", "~"])), (&reordered, update(&["2", "8", "demo"]))];
    assert_eq!(
        told(&mut m, rows),
        ["live:7 Updated @1 wallet_balance=1 email=a", "demo:8 Updated @2 wallet_balance=2"]
    );
    let gap = |column: &str, essential| MappingGap {
        table: "public.users".into(),
        column: column.into(),
        essential,
    };
    assert_eq!(m.gaps(), [gap("email", false)]);
    let crippled = relation(1, "users", &USERS[..2], &["id", "user_type"]);
    let told_now = told(&mut m, vec![(&crippled, update(&["7", "live"]))]);
    assert!(told_now[0].contains("column wallet_balance is missing"), "{told_now:?}");
    assert_eq!(m.gaps(), [gap("email", false), gap("wallet_balance", true)]);
    told(&mut m, vec![(&before, update(&["7", "live", "1", "a", "~"]))]);
    assert_eq!(m.gaps(), [], "the columns are back");
}

#[test]
fn a_table_that_is_not_followed_touches_nothing() {
    let other = relation(3, "orders", &USERS, &[]);
    assert!(told(&mut mapping(), vec![(&other, insert(&["7", "live", "1", "~", "~"]))]).is_empty());
}

#[test]
fn a_hundred_users_of_one_window_are_kept_apart() {
    let u = users();
    let ids: Vec<String> = (0..100).map(|id| id.to_string()).collect();
    let once = ids.iter().map(|id| (&u, update(&[id, "live", "1", "~", "~"])));
    let twice = ids.iter().map(|id| (&u, update(&[id, "live", id, "~", "~"])));
    let told = told(&mut mapping(), once.chain(twice).collect());
    assert_eq!(told.len(), 100);
    assert_eq!(told[42], "live:42 Updated @143 wallet_balance=42 email=~");
}

#[test]
fn a_row_read_by_sql_gives_the_same_values() {
    let commit = Arc::new(CommitInfo { commit_lsn: Lsn(5), time: PgTime(0), xid: Xid64(9) });
    let row = tuple(&["7", "live", "1.50", "a", "~"]);
    let event = mapping().row_event(&users(), &row, Kind::Loaded, &commit).unwrap();
    assert_eq!((event.kind, event.position.ordinal), (Kind::Loaded, 0));
    assert_eq!(event.fields[0].value.text(), Some("1.5"));
    let nameless = tuple(&["7", "", "1.50", "a", "~"]);
    assert_eq!(
        mapping().row_event(&users(), &nameless, Kind::Loaded, &commit).unwrap_err(),
        Refusal::UserType
    );
}
