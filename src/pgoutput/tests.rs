//! Messages written out by hand from the protocol's documentation.

use bytes::Bytes;

use super::*;
use crate::lsn::Lsn;

fn decode(bytes: &[u8]) -> Result<Message, DecodeError> {
    Message::decode(Bytes::copy_from_slice(bytes))
}

fn row(columns: &[Datum<'_>]) -> Tuple {
    Tuple::from_columns(columns).unwrap()
}

#[test]
fn begin_carries_commit_lsn_time_and_xid() {
    let bytes = b"B\0\0\0\x01\0\0\0\x02\xff\xff\xff\xff\xff\xff\xff\xfe\0\0\x02\xe5";
    let begin = Begin { commit_lsn: Lsn(0x1_0000_0002), commit_time: PgTime(-2), xid: 741 };
    assert_eq!(decode(bytes), Ok(Message::Begin(begin)));
}

#[test]
fn commit_carries_both_lsns_and_time() {
    let bytes = b"C\0\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\x20\0\0\0\0\0\0\0\x03";
    let commit = Commit { commit_lsn: Lsn(16), end_lsn: Lsn(32), commit_time: PgTime(3) };
    assert_eq!(decode(bytes), Ok(Message::Commit(commit)));
    let mut flagged = bytes.to_vec();
    flagged[1] = 1;
    assert_eq!(decode(&flagged).unwrap_err().offset, 1, "flags are unused in version 1");
}

#[test]
fn origin_and_type_carry_their_names() {
    let origin = Message::Origin { lsn: Lsn(0xAB), name: "elsewhere".to_owned() };
    assert_eq!(decode(b"O\0\0\0\0\0\0\0\xabelsewhere\0"), Ok(origin));
    let kind = Message::Type { oid: 0x4005, schema: "public".to_owned(), name: "kind".to_owned() };
    assert_eq!(decode(b"Y\0\0\x40\x05public\0kind\0"), Ok(kind));
}

#[test]
fn relation_carries_every_field() {
    let bytes = b"R\0\0\x40\x09public\0users\0i\0\x02\
                  \x01id\0\0\0\0\x17\xff\xff\xff\xff\
                  \0wallet_balance\0\0\0\x06\xa4\0\x12\0\x0a";
    let column = |is_key, name: &str, type_oid, type_modifier| Column {
        is_key,
        name: name.into(),
        type_oid,
        type_modifier,
    };
    let relation = Relation {
        oid: 0x4009,
        schema: "public".into(),
        name: "users".into(),
        identity: ReplicaIdentity::Index,
        columns: vec![column(true, "id", 23, -1), column(false, "wallet_balance", 1700, 0x12_000a)],
    };
    assert_eq!(decode(bytes), Ok(Message::Relation(relation)));
}

#[test]
fn relation_knows_every_replica_identity() {
    let identity = |letter: u8| match decode(&[b"R\0\0\0\x01\0t\0", &[letter, 0, 0][..]].concat()) {
        Ok(Message::Relation(relation)) => Some(relation.identity),
        _ => None,
    };
    assert_eq!(identity(b'd'), Some(ReplicaIdentity::Default));
    assert_eq!(identity(b'n'), Some(ReplicaIdentity::Nothing));
    assert_eq!(identity(b'f'), Some(ReplicaIdentity::Full));
    assert_eq!(identity(b'i'), Some(ReplicaIdentity::Index));
    assert_eq!(identity(b'x'), None);
}

#[test]
fn relation_names_must_be_utf8() {
    let error = decode(b"R\0\0\0\x01public\0us\xff\0d\0\0").unwrap_err();
    assert_eq!((error.offset, error.expected), (12, "the name of a relation"));
}

#[test]
fn insert_carries_null_unchanged_and_text_apart() {
    let bytes = b"I\0\0\x40\x09N\0\x04nut\0\0\0\x0312.t\0\0\0\0";
    let Ok(Message::Insert { relation, new }) = decode(bytes) else { panic!("not an insert") };
    assert_eq!(relation, 0x4009);
    let columns: Vec<_> = new.columns().collect();
    assert_eq!(columns, [Datum::Null, Datum::Unchanged, Datum::Text(b"12."), Datum::Text(b"")]);
    assert_eq!((new.len(), new.columns().len()), (4, 4));
}

#[test]
fn update_comes_without_old_with_key_and_with_old_row() {
    let new = row(&[Datum::Text(b"2"), Datum::Null]);
    let update = |old| Ok(Message::Update { relation: 7, old, new: new.clone() });
    let key = OldTuple::Key(row(&[Datum::Text(b"1"), Datum::Null]));
    let full = OldTuple::Full(row(&[Datum::Text(b"1"), Datum::Text(b"x")]));
    assert_eq!(decode(b"U\0\0\0\x07N\0\x02t\0\0\0\x012n"), update(None));
    assert_eq!(decode(b"U\0\0\0\x07K\0\x02t\0\0\0\x011nN\0\x02t\0\0\0\x012n"), update(Some(key)));
    assert_eq!(decode(b"U\0\0\0\x07O\0\x02t\0\0\0\x011t\0\0\0\x01xN\0\x02t\0\0\0\x012n"), update(Some(full)));
}

#[test]
fn delete_carries_a_key_or_an_old_row_and_nothing_else() {
    let key = OldTuple::Key(row(&[Datum::Text(b"1")]));
    let full = OldTuple::Full(row(&[Datum::Text(b"1")]));
    assert_eq!(decode(b"D\0\0\0\x07K\0\x01t\0\0\0\x011"), Ok(Message::Delete { relation: 7, old: key }));
    assert_eq!(decode(b"D\0\0\0\x07O\0\x01t\0\0\0\x011"), Ok(Message::Delete { relation: 7, old: full }));
    assert_eq!(decode(b"D\0\0\0\x07N\0\x01t\0\0\0\x011").unwrap_err().offset, 5);
}

#[test]
fn truncate_carries_relations_and_options() {
    let truncate = |cascade, restart_identity| {
        Ok(Message::Truncate { relations: vec![9, 16], cascade, restart_identity })
    };
    for (options, expected) in
        [(0, truncate(false, false)), (1, truncate(true, false)), (3, truncate(true, true))]
    {
        assert_eq!(decode(&[b"T\0\0\0\x02", &[options][..], b"\0\0\0\x09\0\0\0\x10"].concat()), expected);
    }
}

#[test]
fn logical_message_carries_prefix_and_content() {
    let expected = Message::Logical {
        transactional: true,
        lsn: Lsn(16),
        prefix: "lockstep".to_owned(),
        content: Bytes::from_static(b"in\0side"),
    };
    assert_eq!(decode(b"M\x01\0\0\0\0\0\0\0\x10lockstep\0\0\0\0\x07in\0side"), Ok(expected));
}

#[test]
fn a_binary_column_is_refused_by_name() {
    let error = decode(b"I\0\0\0\x07N\0\x02nb\0\0\0\x01x").unwrap_err();
    assert_eq!(error.offset, 9);
    assert!(error.expected.contains("text format, found binary"), "{error}");
}

#[test]
fn unknown_and_empty_messages_are_refused() {
    assert_eq!(decode(b"").unwrap_err().offset, 0);
    assert_eq!(decode(b"S\0\0\0\x01").unwrap_err().offset, 0, "stream start is of version 2");
}

#[test]
fn announced_sizes_reserve_no_more_than_the_input_can_hold() {
    assert!(decode(b"T\xff\xff\xff\xff\0\0\0\0\x01").is_err());
    assert!(decode(b"R\0\0\0\x01\0t\0d\xff\xff").is_err());
    assert!(decode(b"I\0\0\0\x07N\0\x01t\xff\xff\xff\xffx").is_err());
    assert!(decode(b"M\0\0\0\0\0\0\0\0\0\0\xff\xff\xff\xff").is_err());
    let cursor = cursor::Cursor::new(Bytes::from_static(&[0; 40]));
    assert_eq!(cursor.reserve(usize::MAX, 4), 10);
}

#[test]
fn an_error_names_place_and_cure_and_no_data() {
    let error = decode(b"I\0\0\0\x07N\0\x01t\0\0\0\x09secret").unwrap_err();
    let shown = crate::error::Error::from(error);
    assert!(!shown.is_transient());
    assert_eq!(
        shown.fault().fact,
        "pgoutput message 'I' is malformed at byte 8: expected a column of the announced length"
    );
    assert!(!shown.fault().cure.is_empty());
}

#[test]
fn debug_shows_no_row_data() {
    let message = decode(b"I\0\0\0\x07N\0\x01t\0\0\0\x06secret").unwrap();
    assert_eq!(format!("{message:?}"), "Insert { relation: 7, new: Tuple(1 columns, 11 bytes) }");
    assert!(!format!("{:?}", Datum::Text(b"secret")).contains("secret"));
}
