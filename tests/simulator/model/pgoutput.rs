//! What a walsender writes: pgoutput, protocol version 1, in `CopyData`.

use bytes::{BufMut, BytesMut};

use super::postgres::{Completed, Op, Row, User};

/// `pg_class.oid` of the two tables.
pub const USERS: u32 = 16_384;
pub const TRANSACTIONS: u32 = 16_385;
/// `pg_type.oid`.
const INT4: u32 = 23;
const TEXT: u32 = 25;
const NUMERIC: u32 = 1_700;

/// The columns of `users`, and whether the identity covers them.
pub const USERS_COLUMNS: [(&str, u32, bool); 4] = [
    ("id", INT4, true),
    ("user_type", TEXT, true),
    ("email", TEXT, false),
    ("wallet_balance", NUMERIC, false),
];
const TRANSACTIONS_COLUMNS: [(&str, u32, bool); 7] = [
    ("id", INT4, true),
    ("transaction_id", TEXT, false),
    ("user_id", INT4, false),
    ("user_type", TEXT, false),
    ("type", TEXT, false),
    ("amount", NUMERIC, false),
    ("status", TEXT, false),
];

/// Wraps a body in `CopyData`.
fn copy_data(out: &mut BytesMut, body: &[u8]) {
    out.put_u8(b'd');
    out.put_u32(body.len() as u32 + 4);
    out.put_slice(body);
}

pub fn xlog_data(out: &mut BytesMut, lsn: u64, wal_end: u64, payload: &[u8]) {
    let mut body = BytesMut::with_capacity(payload.len() + 25);
    body.put_u8(b'w');
    body.put_u64(lsn);
    body.put_u64(wal_end);
    body.put_u64(0);
    body.put_slice(payload);
    copy_data(out, &body);
}

pub fn keepalive(out: &mut BytesMut, wal_end: u64, reply_requested: bool) {
    let mut body = BytesMut::with_capacity(18);
    body.put_u8(b'k');
    body.put_u64(wal_end);
    body.put_u64(0);
    body.put_u8(reply_requested.into());
    copy_data(out, &body);
}

pub fn begin(commit_lsn: u64, time: i64, xid: u64) -> BytesMut {
    let mut out = BytesMut::with_capacity(21);
    out.put_u8(b'B');
    out.put_u64(commit_lsn);
    out.put_i64(time);
    out.put_u32(xid as u32);
    out
}

pub fn commit(commit_lsn: u64, end_lsn: u64, time: i64) -> BytesMut {
    let mut out = BytesMut::with_capacity(26);
    out.put_u8(b'C');
    out.put_u8(0);
    out.put_u64(commit_lsn);
    out.put_u64(end_lsn);
    out.put_i64(time);
    out
}

pub fn relation(oid: u32, full: bool) -> BytesMut {
    let (name, columns) = match oid {
        USERS => ("users", &USERS_COLUMNS[..]),
        _ => ("user_transactions", &TRANSACTIONS_COLUMNS[..]),
    };
    let mut out = BytesMut::with_capacity(128);
    out.put_u8(b'R');
    out.put_u32(oid);
    out.put_slice(b"public\0");
    out.put_slice(name.as_bytes());
    out.put_u8(0);
    out.put_u8(if full && oid == USERS { b'f' } else { b'i' });
    out.put_u16(columns.len() as u16);
    for (name, type_oid, is_key) in columns {
        out.put_u8(u8::from(*is_key || (full && oid == USERS)));
        out.put_slice(name.as_bytes());
        out.put_u8(0);
        out.put_u32(*type_oid);
        out.put_i32(-1);
    }
    out
}

enum Cell<'a> {
    Null,
    Unchanged,
    Text(&'a str),
}

fn tuple(out: &mut BytesMut, cells: &[Cell<'_>]) {
    out.put_u16(cells.len() as u16);
    for cell in cells {
        match cell {
            Cell::Null => out.put_u8(b'n'),
            Cell::Unchanged => out.put_u8(b'u'),
            Cell::Text(text) => {
                out.put_u8(b't');
                out.put_u32(text.len() as u32);
                out.put_slice(text.as_bytes());
            }
        }
    }
}

fn users_tuple(out: &mut BytesMut, user: &User, row: &Row, email_unchanged: bool) {
    let (id, email, balance) = (user.id.to_string(), row.email_text(), row.balance_text());
    let email = if email_unchanged { Cell::Unchanged } else { Cell::Text(&email) };
    tuple(out, &[Cell::Text(&id), Cell::Text(user.kind), email, Cell::Text(&balance)]);
}

/// The old row, as the identity has it.
fn old_tuple(out: &mut BytesMut, user: &User, row: &Row, full: bool) {
    if full {
        out.put_u8(b'O');
        return users_tuple(out, user, row, false);
    }
    out.put_u8(b'K');
    let id = user.id.to_string();
    tuple(out, &[Cell::Text(&id), Cell::Text(user.kind), Cell::Null, Cell::Null]);
}

/// The message of one row; the relation it needs.
pub fn change(op: &Op, full: bool) -> (u32, BytesMut) {
    let mut out = BytesMut::with_capacity(96);
    match op {
        Op::Insert { user, row } => {
            out.put_u8(b'I');
            out.put_u32(USERS);
            out.put_u8(b'N');
            users_tuple(&mut out, user, row, false);
        }
        Op::Update { from, before, to, row, email_unsent } => {
            out.put_u8(b'U');
            out.put_u32(USERS);
            if full || from != to {
                old_tuple(&mut out, from, before, full);
            }
            out.put_u8(b'N');
            users_tuple(&mut out, to, row, *email_unsent);
        }
        Op::Delete { user, before } => {
            out.put_u8(b'D');
            out.put_u32(USERS);
            old_tuple(&mut out, user, before, full);
        }
        Op::Truncate => {
            out.put_u8(b'T');
            out.put_u32(1);
            out.put_u8(0);
            out.put_u32(USERS);
        }
        Op::Completed(completed) => {
            completed_row(&mut out, completed);
            return (TRANSACTIONS, out);
        }
        Op::Ask(content) => {
            out.put_u8(b'M');
            out.put_u8(1);
            out.put_u64(0);
            out.put_slice(b"lockstep:lockstep\0");
            out.put_u32(content.len() as u32);
            out.put_slice(content.as_bytes());
            return (0, out);
        }
    }
    (USERS, out)
}

fn completed_row(out: &mut BytesMut, Completed { number, user, kind, status }: &Completed) {
    out.put_u8(b'I');
    out.put_u32(TRANSACTIONS);
    out.put_u8(b'N');
    let (id, name, user_id) = (number.to_string(), format!("tx-{number}"), user.id.to_string());
    let cells = [&id, &name, &user_id, user.kind, kind, "10.500000", status];
    tuple(out, &cells.map(Cell::Text));
}
