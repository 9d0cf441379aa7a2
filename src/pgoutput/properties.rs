//! What holds for every message: it is read back as it was written, and no damage to it panics.

use bytes::{BufMut, Bytes};
use proptest::prelude::*;

use super::*;
use crate::lsn::Lsn;

/// The reverse of [`Message::decode`].
fn encode(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    match message {
        Message::Begin(begin) => {
            out.put_u8(b'B');
            out.put_u64(begin.commit_lsn.0);
            out.put_i64(begin.commit_time.0);
            out.put_u32(begin.xid);
        }
        Message::Commit(commit) => {
            out.put_slice(b"C\0");
            out.put_u64(commit.commit_lsn.0);
            out.put_u64(commit.end_lsn.0);
            out.put_i64(commit.commit_time.0);
        }
        Message::Origin { lsn, name } => {
            out.put_u8(b'O');
            out.put_u64(lsn.0);
            put_strings(&mut out, &[name]);
        }
        Message::Relation(relation) => put_relation(&mut out, relation),
        Message::Type { oid, schema, name } => {
            out.put_u8(b'Y');
            out.put_u32(*oid);
            put_strings(&mut out, &[schema, name]);
        }
        Message::Insert { relation, new } => {
            out.put_u8(b'I');
            out.put_u32(*relation);
            put_tuple(&mut out, b'N', new);
        }
        Message::Update { relation, old, new } => {
            out.put_u8(b'U');
            out.put_u32(*relation);
            old.iter().for_each(|old| put_old(&mut out, old));
            put_tuple(&mut out, b'N', new);
        }
        Message::Delete { relation, old } => {
            out.put_u8(b'D');
            out.put_u32(*relation);
            put_old(&mut out, old);
        }
        Message::Truncate { relations, cascade, restart_identity } => {
            out.put_u8(b'T');
            out.put_u32(u32::try_from(relations.len()).unwrap());
            out.put_u8(u8::from(*cascade) | u8::from(*restart_identity) << 1);
            relations.iter().for_each(|oid| out.put_u32(*oid));
        }
        Message::Logical { transactional, lsn, prefix, content } => {
            out.put_slice(&[b'M', u8::from(*transactional)]);
            out.put_u64(lsn.0);
            put_strings(&mut out, &[prefix]);
            out.put_u32(u32::try_from(content.len()).unwrap());
            out.put_slice(content);
        }
    }
    out
}

fn put_relation(out: &mut Vec<u8>, relation: &Relation) {
    out.put_u8(b'R');
    out.put_u32(relation.oid);
    put_strings(out, &[&relation.schema, &relation.name]);
    out.put_u8(match relation.identity {
        ReplicaIdentity::Default => b'd',
        ReplicaIdentity::Nothing => b'n',
        ReplicaIdentity::Full => b'f',
        ReplicaIdentity::Index => b'i',
    });
    out.put_u16(u16::try_from(relation.columns.len()).unwrap());
    for column in &relation.columns {
        out.put_u8(u8::from(column.is_key));
        put_strings(out, &[&column.name]);
        out.put_u32(column.type_oid);
        out.put_i32(column.type_modifier);
    }
}

fn put_strings(out: &mut Vec<u8>, strings: &[&str]) {
    for text in strings {
        out.put_slice(text.as_bytes());
        out.put_u8(0);
    }
}

fn put_tuple(out: &mut Vec<u8>, kind: u8, tuple: &Tuple) {
    out.put_u8(kind);
    out.put_u16(u16::try_from(tuple.len()).unwrap());
    for datum in tuple.columns() {
        match datum {
            Datum::Null => out.put_u8(b'n'),
            Datum::Unchanged => out.put_u8(b'u'),
            Datum::Text(text) => {
                out.put_u8(b't');
                out.put_u32(u32::try_from(text.len()).unwrap());
                out.put_slice(text);
            }
        }
    }
}

fn put_old(out: &mut Vec<u8>, old: &OldTuple) {
    match old {
        OldTuple::Key(tuple) => put_tuple(out, b'K', tuple),
        OldTuple::Full(tuple) => put_tuple(out, b'O', tuple),
    }
}

fn names() -> impl Strategy<Value = String> {
    "[^\0]{0,12}"
}

fn tuples() -> impl Strategy<Value = Tuple> {
    let column = (0..4, prop::collection::vec(any::<u8>(), 0..12));
    prop::collection::vec(column, 0..8).prop_map(|columns| {
        let data = columns.iter().map(|(kind, text)| match kind {
            0 => Datum::Null,
            1 => Datum::Unchanged,
            _ => Datum::Text(text),
        });
        Tuple::from_columns(&data.collect::<Vec<_>>()).unwrap()
    })
}

fn old_tuples() -> impl Strategy<Value = OldTuple> {
    prop_oneof![tuples().prop_map(OldTuple::Key), tuples().prop_map(OldTuple::Full)]
}

fn relations() -> impl Strategy<Value = Message> {
    let identities =
        [ReplicaIdentity::Default, ReplicaIdentity::Nothing, ReplicaIdentity::Full, ReplicaIdentity::Index];
    let column =
        (any::<bool>(), names(), any::<u32>(), any::<i32>()).prop_map(|(is_key, name, oid, modifier)| {
            Column { is_key, name: name.into(), type_oid: oid, type_modifier: modifier }
        });
    let columns = prop::collection::vec(column, 0..6);
    (any::<u32>(), names(), names(), prop::sample::select(identities.to_vec()), columns).prop_map(
        |(oid, schema, name, identity, columns)| {
            let (schema, name) = (schema.into(), name.into());
            Message::Relation(Relation { oid, schema, name, identity, columns })
        },
    )
}

fn rows() -> impl Strategy<Value = Message> {
    prop_oneof![
        (any::<u32>(), tuples()).prop_map(|(relation, new)| Message::Insert { relation, new }),
        (any::<u32>(), prop::option::of(old_tuples()), tuples())
            .prop_map(|(relation, old, new)| Message::Update { relation, old, new }),
        (any::<u32>(), old_tuples()).prop_map(|(relation, old)| Message::Delete { relation, old }),
        (prop::collection::vec(any::<u32>(), 0..5), any::<bool>(), any::<bool>()).prop_map(
            |(relations, cascade, restart_identity)| {
                Message::Truncate { relations, cascade, restart_identity }
            }
        ),
    ]
}

fn others() -> impl Strategy<Value = Message> {
    let lsn = || any::<u64>().prop_map(Lsn);
    let time = || any::<i64>().prop_map(PgTime);
    prop_oneof![
        (lsn(), time(), any::<u32>()).prop_map(|(commit_lsn, commit_time, xid)| {
            Message::Begin(Begin { commit_lsn, commit_time, xid })
        }),
        (lsn(), lsn(), time()).prop_map(|(commit_lsn, end_lsn, commit_time)| {
            Message::Commit(Commit { commit_lsn, end_lsn, commit_time })
        }),
        (lsn(), names()).prop_map(|(lsn, name)| Message::Origin { lsn, name }),
        (any::<u32>(), names(), names()).prop_map(|(oid, schema, name)| Message::Type { oid, schema, name }),
        (any::<bool>(), lsn(), names(), prop::collection::vec(any::<u8>(), 0..20)).prop_map(
            |(transactional, lsn, prefix, content)| {
                Message::Logical { transactional, lsn, prefix, content: content.into() }
            }
        ),
    ]
}

fn messages() -> impl Strategy<Value = Message> {
    prop_oneof![4 => rows(), 1 => relations(), 2 => others()]
}

/// Decodes what may be damaged and walks over its rows, as the stages behind do.
fn survives(bytes: Vec<u8>) -> Result<(), TestCaseError> {
    let length = bytes.len();
    let (old, new) = match Message::decode(bytes.into()) {
        Ok(Message::Insert { new, .. }) => (None, Some(new)),
        Ok(Message::Update { old, new, .. }) => (old, Some(new)),
        Ok(Message::Delete { old, .. }) => (Some(old), None),
        Ok(_) => (None, None),
        Err(error) => {
            prop_assert!(error.offset <= length, "offset {} of {length}", error.offset);
            (None, None)
        }
    };
    for tuple in old.iter().map(OldTuple::tuple).chain(&new) {
        prop_assert_eq!(tuple.columns().count(), tuple.len());
    }
    Ok(())
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded(message in messages()) {
        prop_assert_eq!(Message::decode(encode(&message).into()), Ok(message));
    }

    #[test]
    fn every_truncation_is_an_error_within_the_message(message in messages()) {
        let whole = Bytes::from(encode(&message));
        for length in 0..whole.len() {
            let error = Message::decode(whole.slice(..length)).unwrap_err();
            prop_assert!(error.offset <= length, "offset {} of {length}", error.offset);
        }
    }

    #[test]
    fn a_trailing_byte_is_an_error_where_it_stands(message in messages(), extra in any::<u8>()) {
        let mut bytes = encode(&message);
        let length = bytes.len();
        bytes.push(extra);
        prop_assert_eq!(Message::decode(bytes.into()).unwrap_err().offset, length);
    }

    #[test]
    fn a_changed_byte_never_panics(
        message in messages(),
        place in any::<prop::sample::Index>(),
        flip in 1_u8..=255,
    ) {
        let mut bytes = encode(&message);
        let place = place.index(bytes.len());
        bytes[place] ^= flip;
        survives(bytes)?;
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        kind in prop::sample::select(b"BCORYIUDTM".to_vec()),
        rest in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        survives([&[kind][..], &rest].concat())?;
    }
}
