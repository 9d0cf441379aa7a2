//! What PostgreSQL sends for events: pgoutput (PostgreSQL's manual, "Logical Replication Message Formats").

use bytes::{BufMut, Bytes, BytesMut};

const USERS: u32 = 16_401;
const TRANSACTIONS: u32 = 16_402;
/// WAL of one transaction.
const STEP: u64 = 512;
const START: u64 = 0x1_0000_0000;
/// Microseconds since 2000.
const TIME: i64 = 815_000_000_000_000;

/// Name, oid of the type (`pg_type.dat`; an enum's is the database's own), value of user N (`N` stands for it).
type Column = (&'static str, u32, &'static str);

const USERS_COLUMNS: &[Column] = &[
    ("id", 23, "N"),
    ("user_type", 16_390, "live"),
    ("email", 25, "userN@example.com"),
    ("wallet_balance", 1700, "N.500000"),
    ("leverage", 23, "200"),
    ("margin", 1700, "0.000000"),
    ("net_profit", 1700, "-1.750000"),
    ("account_number", 25, "ACC0000N"),
    ("group", 25, "VIP"),
    ("status", 25, "1"),
    ("is_active", 16, "t"),
    ("country_id", 23, "44"),
    ("sending_orders", 25, "rock"),
    ("mam_id", 23, "3"),
    ("copytrading_status", 25, "inactive"),
    ("updated_at", 1184, "2025-10-29 20:53:20.123456+00"),
];

const TRANSACTIONS_COLUMNS: &[Column] = &[
    ("id", 20, "N"),
    ("transaction_id", 25, "T17-N"),
    ("user_id", 23, "N"),
    ("user_type", 16_390, "live"),
    ("type", 25, "deposit"),
    ("amount", 1700, "0.500000"),
    ("status", 25, "completed"),
    ("admin_id", 23, "3"),
    ("created_at", 1184, "2025-10-29 20:53:20.123456+00"),
];

/// The messages of `events` transactions, each of another user.
pub fn of(events: u32) -> Vec<Bytes> {
    let mut messages = vec![
        relation(USERS, "users", USERS_COLUMNS),
        relation(TRANSACTIONS, "user_transactions", TRANSACTIONS_COLUMNS),
    ];
    for number in 1..=events {
        let commit = START + u64::from(number) * STEP;
        messages.extend([
            begin(commit, 700 + number),
            row(b"U", USERS, USERS_COLUMNS, number),
            row(b"I", TRANSACTIONS, TRANSACTIONS_COLUMNS, number),
            end(commit),
        ]);
    }
    messages
}

fn relation(oid: u32, name: &str, columns: &[Column]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(b'R');
    out.put_u32(oid);
    for text in ["public", name] {
        out.put_slice(text.as_bytes());
        out.put_u8(0);
    }
    out.put_u8(b'd');
    out.put_u16(columns.len() as u16);
    for (number, (name, type_oid, _)) in columns.iter().enumerate() {
        out.put_u8(u8::from(number == 0));
        out.put_slice(name.as_bytes());
        out.put_u8(0);
        out.put_u32(*type_oid);
        out.put_i32(-1);
    }
    out.freeze()
}

fn begin(commit: u64, xid: u32) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(b'B');
    out.put_u64(commit);
    out.put_i64(TIME);
    out.put_u32(xid);
    out.freeze()
}

fn row(kind: &[u8], oid: u32, columns: &[Column], number: u32) -> Bytes {
    let mut out = BytesMut::new();
    out.put_slice(kind);
    out.put_u32(oid);
    out.put_u8(b'N');
    out.put_u16(columns.len() as u16);
    for (_, _, value) in columns {
        let text = value.replace('N', &number.to_string());
        out.put_u8(b't');
        out.put_u32(text.len() as u32);
        out.put_slice(text.as_bytes());
    }
    out.freeze()
}

fn end(commit: u64) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(b'C');
    out.put_u8(0);
    out.put_u64(commit);
    out.put_u64(commit + STEP / 2);
    out.put_i64(TIME);
    out.freeze()
}
