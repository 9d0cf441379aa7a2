//! Rows that were read by SQL, by a load or a resync, to plans.

use std::sync::Arc;

use lockstep::balance::{Event, Kind, Reread};
use lockstep::pgoutput::{Column, Datum, Relation, ReplicaIdentity, Tuple};

use super::{pieces, plans};

pub const WORDS: &[&str] = &[
    "live",
    "1000.500000",
    "-0.000000",
    "NaN",
    "Infinity",
    "t",
    "f",
    "2026-01-15 10:30:00.123456+00",
    "0044-03-15 BC",
    "99999999999999999999999999.999999",
    "infinity",
    "null",
    "unchanged",
];

/// Columns and their types.
const COLUMNS: &[(&str, u32)] = &[
    ("id", 23),
    ("user_type", 16400),
    ("wallet_balance", 1700),
    ("email", 25),
    ("leverage", 23),
    ("margin", 1700),
    ("net_profit", 1700),
    ("is_active", 16),
    ("created_at", 1114),
    ("updated_at", 1184),
    ("group", 25),
    ("status", 23),
    ("mam_id", 20),
    ("copy_trading_wallet", 701),
];

/// A byte for the kind, then the columns, each a piece; `null` and `unchanged` are what they say.
pub fn run(input: &[u8]) {
    if let Some(event) = event(input) {
        plans::check_default(&event);
    }
}

/// The event of an input, if it is one.
pub fn event(input: &[u8]) -> Option<Event> {
    let (kind, columns) = input.split_first()?;
    let kind = match kind % 5 {
        0 => Kind::Loaded,
        1 => Kind::Reread(Reread::Resync),
        2 => Kind::Reread(Reread::Repair),
        3 => Kind::Reread(Reread::Heal),
        _ => Kind::Reread(Reread::ForceRefresh),
    };
    let data: Vec<Datum<'_>> = pieces::split(columns).into_iter().map(datum).collect();
    let tuple = Tuple::from_columns(&data).ok()?;
    plans::default_mapping().row_event(&relation(), &tuple, kind, &plans::commit()).ok()
}

fn datum(piece: &[u8]) -> Datum<'_> {
    match piece {
        b"null" => Datum::Null,
        b"unchanged" => Datum::Unchanged,
        text => Datum::Text(text),
    }
}

fn relation() -> Arc<Relation> {
    let column = |(name, type_oid): &(&str, u32)| Column {
        is_key: *name == "id",
        name: (*name).into(),
        type_oid: *type_oid,
        type_modifier: -1,
    };
    Arc::new(Relation {
        oid: 16_384,
        schema: "public".into(),
        name: "users".into(),
        identity: ReplicaIdentity::Default,
        columns: COLUMNS.iter().map(column).collect(),
    })
}

/// As PostgreSQL prints them.
pub fn seeds() -> Vec<Vec<u8>> {
    let rows: [[&str; 14]; 4] = [
        [
            "7",
            "live",
            "10000.500000",
            "a@b.c",
            "100",
            "0.000000",
            "-1.750000",
            "t",
            "2026-01-15 10:30:00.123456",
            "2026-01-15 10:30:00.123456+00",
            "VIP",
            "1",
            "null",
            "12.5",
        ],
        [
            "-1", "demo", "0.000000", "null", "null", "null", "null", "f", "null", "null", "null", "null",
            "7", "1e+20",
        ],
        [
            "8",
            "live",
            "NaN",
            "x",
            "1",
            "Infinity",
            "-0.000001",
            "null",
            "infinity",
            "-infinity",
            "",
            "0",
            "1",
            "NaN",
        ],
        [
            "9",
            "a:b",
            "1",
            "unchanged",
            "1",
            "1",
            "1",
            "t",
            "0044-03-15 00:00:00 BC",
            "10000-01-01 00:00:00+00",
            "g",
            "1",
            "9223372036854775807",
            "-0",
        ],
    ];
    let seed = |(kind, row): (u8, &[&str; 14])| [vec![kind], pieces::join(row)].concat();
    rows.iter().enumerate().map(|(n, row)| seed((n as u8, row))).collect()
}
