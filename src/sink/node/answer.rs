//! What fred answers, as the sink knows it.

use bytes::Bytes;
use fred::error::ErrorKind;
use fred::types::Value;

use crate::sink::reply::{NodeError, Reply};

/// The end of a connection that was there.
pub(super) fn lost() -> NodeError {
    NodeError::Disconnected("the connection was lost".to_owned())
}

/// What fred's error says of the node.
pub(super) fn classify(error: &fred::error::Error) -> NodeError {
    if let Some(reason) = untrusted(error.details()) {
        return NodeError::Untrusted(reason);
    }
    match error.kind() {
        ErrorKind::Timeout => NodeError::TimedOut,
        ErrorKind::IO | ErrorKind::Canceled | ErrorKind::Tls | ErrorKind::Protocol | ErrorKind::Routing => {
            NodeError::Disconnected(plain(error.details()))
        }
        // Redis' own words come as "unknown" too: an upper-case code tells them from fred's.
        _ => match error.details().split(' ').next() {
            Some(code) if code.len() > 2 && code.bytes().all(|b| b.is_ascii_uppercase()) => {
                NodeError::parse(error.details())
            }
            _ => NodeError::Disconnected(plain(error.details())),
        },
    }
}

/// Why rustls refused the certificate, where it did: fred hands its error on by `{:?}`, as
/// `Custom { kind: InvalidData, error: InvalidCertificate(UnknownIssuer) }`.
fn untrusted(details: &str) -> Option<String> {
    let (_, reason) = details.split_once("error: InvalidCertificate(")?;
    Some(reason.chars().take_while(char::is_ascii_alphanumeric).collect())
}

/// fred prints system errors by `{:?}`: `Os { code: 111, kind: ConnectionRefused, message: "..." }`.
fn plain(details: &str) -> String {
    let quoted = details.split_once("message: \"").and_then(|(_, rest)| rest.split_once('"'));
    let custom = details.split_once("error: \"").and_then(|(_, rest)| rest.split_once('"'));
    match quoted.or(custom) {
        Some((message, _)) => message.to_lowercase(),
        None if details == "Canceled."
            || details.contains("oneshot")
            || details.contains("channel closed") =>
        {
            "the connection was lost".to_owned()
        }
        None => details.trim_end_matches('.').to_lowercase(),
    }
}

impl From<Value> for Reply {
    fn from(value: Value) -> Reply {
        match value {
            Value::String(text) => Reply::Text(text.into_inner()),
            Value::Bytes(bytes) => Reply::Text(bytes),
            Value::Integer(number) => Reply::Int(number),
            Value::Boolean(flag) => Reply::Int(i64::from(flag)),
            Value::Double(number) => Reply::Text(number.to_string().into()),
            Value::Queued => Reply::Text(Bytes::from_static(b"QUEUED")),
            Value::Null => Reply::Nil,
            Value::Array(values) => Reply::List(values.into_iter().map(Reply::from).collect()),
            Value::Map(map) => {
                let pairs = map.inner().into_iter();
                Reply::List(
                    pairs.flat_map(|(key, value)| [Reply::Text(key.into_bytes()), value.into()]).collect(),
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_lose_their_debug_print() {
        let text = "Os { code: 111, kind: ConnectionRefused, message: \"Connection refused\" }";
        assert_eq!(plain(text), "connection refused");
        assert_eq!(plain("Canceled."), "the connection was lost");
        let text = "Custom { kind: InvalidData, error: InvalidCertificate(UnknownIssuer) }";
        assert_eq!(untrusted(text).as_deref(), Some("UnknownIssuer"));
    }
}
