//! Column text -> the value Redis will hold, by the column's type.

use std::sync::Arc;

use compact_str::CompactString;

use super::{Amount, time};
use crate::pgoutput::Datum;

/// One value of a mapped column, normalised as Redis readers expect it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// The field is to be removed (for numeric balance columns the mapping has already made it `0`).
    Null,
    /// A TOASTed value that did not change and was not sent: the field is left alone.
    Unchanged,
    /// Integers and numerics: exact, no exponent, no trailing fractional zeros.
    Number(Amount),
    /// Anything that is text in Redis and a string in JSON; booleans are `Number` 1 or 0.
    Text(CompactString),
}

/// A mapped column of one row, by the name its hash field has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Column name.
    pub name: Arc<str>,
    /// Its value.
    pub value: Value,
}

impl Value {
    /// The text Redis holds; `None` for NULL and for what was not sent.
    pub fn text(&self) -> Option<&str> {
        match self {
            Value::Null | Value::Unchanged => None,
            Value::Number(amount) => Some(amount.as_str()),
            Value::Text(text) => Some(text),
        }
    }
}

/// How a column's text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Bool,
    Number,
    /// A number that applications have always read as `0` where the column is NULL.
    Balance,
    Timestamp,
    Date,
    Text,
}

/// The value is not one of its column's type, or one that never reaches a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Undecodable;

impl Class {
    /// By `pg_type.oid` of the built-in types, which are the same everywhere (`pg_type.dat`).
    pub(super) fn of_type(oid: u32) -> Class {
        match oid {
            16 => Class::Bool,
            // int8, int2, int4, oid, float4, float8, numeric
            20 | 21 | 23 | 26 | 700 | 701 | 1700 => Class::Number,
            1114 | 1184 => Class::Timestamp,
            1082 => Class::Date,
            _ => Class::Text,
        }
    }

    pub(super) fn read(self, datum: Datum<'_>) -> Result<Value, Undecodable> {
        let text = match (datum, self) {
            (Datum::Text(bytes), _) => std::str::from_utf8(bytes).map_err(|_| Undecodable)?,
            (Datum::Unchanged, _) => return Ok(Value::Unchanged),
            (Datum::Null, Class::Balance) => return Ok(Value::Number(Amount::zero())),
            (Datum::Null, _) => return Ok(Value::Null),
        };
        match self {
            Class::Bool => match text {
                "t" | "true" => Ok(Value::Number(Amount::from_bit(true))),
                "f" | "false" => Ok(Value::Number(Amount::from_bit(false))),
                _ => Err(Undecodable),
            },
            Class::Number | Class::Balance => Amount::parse(text).map(Value::Number).map_err(|_| Undecodable),
            Class::Timestamp => time::timestamp_iso(text).map(Value::Text).ok_or(Undecodable),
            Class::Date => time::date_iso(text).map(|date| Value::Text(date.into())).ok_or(Undecodable),
            Class::Text => Ok(Value::Text(text.into())),
        }
    }
}

/// Whether a column is one of the integer types: its ids are JSON numbers.
pub(super) fn is_integer(type_oid: u32) -> bool {
    matches!(type_oid, 20 | 21 | 23 | 26)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(oid: u32, text: &str) -> Option<String> {
        Class::of_type(oid).read(Datum::Text(text.as_bytes())).ok()?.text().map(str::to_owned)
    }

    #[test]
    fn values_are_normalised_by_type() {
        assert_eq!(read(16, "t").as_deref(), Some("1"));
        assert_eq!(read(16, "f").as_deref(), Some("0"));
        assert_eq!(read(1700, "100.250000").as_deref(), Some("100.25"));
        assert_eq!(read(701, "1e-05").as_deref(), Some("0.00001"));
        assert_eq!(read(1184, "2026-01-15 10:30:00.5+00").as_deref(), Some("2026-01-15T10:30:00.500Z"));
        assert_eq!(read(1082, "2026-01-15").as_deref(), Some("2026-01-15"));
        assert_eq!(read(25, "0010.0").as_deref(), Some("0010.0"), "text is left as it is");
        assert_eq!(read(114, "{\"a\": 1}").as_deref(), Some("{\"a\": 1}"));
    }

    #[test]
    fn what_is_not_of_its_type_never_reaches_a_key() {
        for (oid, text) in
            [(1700, "NaN"), (701, "Infinity"), (1114, "infinity"), (1082, "0044-03-15 BC"), (16, "x")]
        {
            assert_eq!(read(oid, text), None, "{text}");
        }
        assert_eq!(Class::Text.read(Datum::Text(b"\xff")), Err(Undecodable));
    }

    #[test]
    fn null_is_zero_for_balances_only() {
        assert_eq!(Class::Balance.read(Datum::Null), Ok(Value::Number(Amount::zero())));
        assert_eq!(Class::Number.read(Datum::Null), Ok(Value::Null));
        assert_eq!(Class::Balance.read(Datum::Unchanged), Ok(Value::Unchanged));
    }
}
