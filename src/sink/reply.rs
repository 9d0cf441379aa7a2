//! What a node answered: a value, or the error's first word turned into what to do about it.

use bytes::Bytes;

use super::slots::Address;
use crate::error::Error;

/// A reply without an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Absent.
    Nil,
    /// An integer.
    Int(i64),
    /// A string of any kind.
    Text(Bytes),
    /// A list; maps are lists of alternating keys and values.
    List(Vec<Reply>),
}

impl Reply {
    /// The string, if it is one.
    pub fn text(&self) -> Option<&Bytes> {
        match self {
            Reply::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The string as UTF-8, if it is one.
    pub fn utf8(&self) -> Option<&str> {
        self.text().and_then(|text| std::str::from_utf8(text).ok())
    }

    /// The elements; nothing where it is no list.
    pub fn list(&self) -> &[Reply] {
        match self {
            Reply::List(items) => items,
            _ => &[],
        }
    }

    /// The integer, if it is one.
    pub fn int(&self) -> Option<i64> {
        match self {
            Reply::Int(value) => Some(*value),
            _ => None,
        }
    }
}

/// The value of a line of `INFO`.
pub fn info_field<'a>(info: &'a Reply, name: &str) -> Option<&'a str> {
    let lines = info.utf8()?.lines();
    lines.filter_map(|line| line.split_once(':')).find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// Why a node did not do what it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeError {
    /// The slot lives elsewhere now.
    Moved {
        /// Hash slot.
        slot: u16,
        /// Its owner; `None` where the reply leaves the host out.
        to: Option<Address>,
    },
    /// The key has left for another node while its slot moves.
    Ask {
        /// Hash slot.
        slot: u16,
        /// The node that is importing it.
        to: Option<Address>,
    },
    /// Some keys of the call have left, some have not.
    TryAgain,
    /// The cluster has no owner for the slot, or no quorum.
    ClusterDown,
    /// A replica.
    ReadOnly,
    /// Still reading its data set.
    Loading,
    /// The script is not known there.
    NoScript,
    /// Over `maxmemory`.
    OutOfMemory,
    /// Password or user is missing or wrong: the code word, `NOAUTH` or `WRONGPASS`.
    Login(String),
    /// The server's certificate leads to no trusted root, or is of another name: the reason's name.
    Untrusted(String),
    /// The ACL user may not do this.
    NoPermission,
    /// The key holds another type.
    WrongType,
    /// A script runs too long.
    Busy,
    /// A replica that lost its master.
    MasterDown,
    /// Redis refuses writes because it cannot persist, or has too few replicas.
    Misconfigured(String),
    /// The connection broke, or could not be made; the reason as the system words it.
    Disconnected(String),
    /// No answer within the bound.
    TimedOut,
    /// A fence is of this epoch, which is later than ours.
    LaterEpoch(u32),
    /// Anything else, by its first word.
    Other(String),
}

impl NodeError {
    /// The class of an error line as Redis sends it.
    pub fn parse(line: &str) -> NodeError {
        let mut words = line.split_ascii_whitespace();
        let code = words.next().unwrap_or("");
        let redirect = |mut words: std::str::SplitAsciiWhitespace<'_>| {
            let slot = words.next().and_then(|slot| slot.parse().ok()).unwrap_or(0);
            (slot, words.next().and_then(Address::parse))
        };
        match code {
            "MOVED" => {
                let (slot, to) = redirect(words);
                NodeError::Moved { slot, to }
            }
            "ASK" => {
                let (slot, to) = redirect(words);
                NodeError::Ask { slot, to }
            }
            "TRYAGAIN" => NodeError::TryAgain,
            "CLUSTERDOWN" => NodeError::ClusterDown,
            "READONLY" => NodeError::ReadOnly,
            "LOADING" => NodeError::Loading,
            "NOSCRIPT" => NodeError::NoScript,
            "OOM" => NodeError::OutOfMemory,
            "NOAUTH" | "WRONGPASS" => NodeError::Login(code.to_owned()),
            "NOPERM" => NodeError::NoPermission,
            "WRONGTYPE" => NodeError::WrongType,
            "BUSY" => NodeError::Busy,
            "MASTERDOWN" => NodeError::MasterDown,
            "MISCONF" | "NOREPLICAS" => NodeError::Misconfigured(code.to_owned()),
            // What a script may not is told without the NOPERM code, up to Redis 7.0 and from 7.2 on in these words.
            _ if line.contains("The user executing the script can't") => NodeError::NoPermission,
            _ if line.contains("ACL failure in script: ") => NodeError::NoPermission,
            _ => NodeError::Other(code.to_owned()),
        }
    }

    /// The label of the operations counter.
    pub fn label(&self) -> &'static str {
        match self {
            NodeError::Moved { .. } => "moved",
            NodeError::Ask { .. } => "ask",
            NodeError::TryAgain => "tryagain",
            NodeError::ClusterDown => "clusterdown",
            NodeError::ReadOnly => "readonly",
            NodeError::Loading => "loading",
            NodeError::NoScript => "noscript",
            NodeError::OutOfMemory => "oom",
            NodeError::Login(_) => "noauth",
            NodeError::Untrusted(_) => "untrusted",
            NodeError::NoPermission => "noperm",
            NodeError::WrongType => "wrongtype",
            NodeError::Busy => "busy",
            NodeError::MasterDown => "masterdown",
            NodeError::Misconfigured(_) => "misconf",
            NodeError::LaterEpoch(_) => "later_epoch",
            NodeError::Disconnected(_) => "disconnected",
            NodeError::TimedOut => "timeout",
            NodeError::Other(_) => "other",
        }
    }

    /// Whether the connection is of no more use.
    pub fn ends_connection(&self) -> bool {
        // A replica or a cut-off node answers until it is asked where its slots went.
        matches!(
            self,
            NodeError::Disconnected(_)
                | NodeError::TimedOut
                | NodeError::ClusterDown
                | NodeError::Login(_)
                | NodeError::Untrusted(_)
        )
    }

    /// Whether the slot map may be out of date.
    pub fn doubts_topology(&self) -> bool {
        matches!(
            self,
            NodeError::Moved { .. }
                | NodeError::ClusterDown
                | NodeError::ReadOnly
                | NodeError::MasterDown
                | NodeError::Disconnected(_)
                | NodeError::TimedOut
        )
    }

    /// The error as an operator reads it.
    pub fn at(&self, address: &Address) -> Error {
        let node = format!("redis {address}");
        match self {
            NodeError::Login(code) => Error::definite(
                format!("{node} refused the login ({code})"),
                "correct the user and the password in redis.url",
            ),
            NodeError::Untrusted(reason) => Error::definite(
                format!("the certificate of {node} is not trusted ({reason})"),
                "check the host name in redis.url, and name the authority that issued it in redis.root_cert",
            ),
            NodeError::NoPermission => Error::definite(
                format!("{node} denied a command to this user (NOPERM)"),
                "grant the ACL rules that the README lists",
            ),
            NodeError::OutOfMemory => Error::transient(
                format!("{node} is out of memory"),
                "raise maxmemory or let other keys expire",
            ),
            NodeError::ReadOnly => {
                Error::transient(format!("{node} is a replica"), "point redis.url at the master")
            }
            NodeError::Loading => Error::transient(format!("{node} is loading its data set"), ""),
            NodeError::Misconfigured(code) => Error::transient(
                format!("{node} refuses writes ({code})"),
                "see its log: it cannot persist, or has too few replicas",
            ),
            NodeError::Disconnected(reason) => Error::transient(format!("{node}: {reason}"), ""),
            NodeError::TimedOut => Error::transient(format!("{node} did not answer in time"), ""),
            NodeError::Other(code) => Error::transient(format!("{node} answered {code}"), ""),
            other => Error::transient(format!("{node} answered {}", other.label()), ""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_lines_are_told_apart_by_their_first_word() {
        let to = Some(Address::new("10.0.0.1", 7000));
        for (line, expected) in [
            ("MOVED 866 10.0.0.1:7000", NodeError::Moved { slot: 866, to: to.clone() }),
            ("ASK 866 10.0.0.1:7000", NodeError::Ask { slot: 866, to }),
            ("MOVED 866 :7000", NodeError::Moved { slot: 866, to: None }),
            ("TRYAGAIN Multiple keys request during rehashing of slot", NodeError::TryAgain),
            ("CLUSTERDOWN The cluster is down", NodeError::ClusterDown),
            ("READONLY You can't write against a read only replica.", NodeError::ReadOnly),
            ("LOADING Redis is loading the dataset in memory", NodeError::Loading),
            ("NOSCRIPT No matching script.", NodeError::NoScript),
            ("OOM command not allowed when used memory > 'maxmemory'.", NodeError::OutOfMemory),
            ("WRONGPASS invalid username-password pair", NodeError::Login("WRONGPASS".into())),
            ("NOPERM this user has no permissions", NodeError::NoPermission),
            ("ERR The user executing the script can't run this command", NodeError::NoPermission),
            ("ERR ACL failure in script: No permissions to access a key", NodeError::NoPermission),
            ("MISCONF Redis is configured to save", NodeError::Misconfigured("MISCONF".into())),
            ("ERR value is not an integer", NodeError::Other("ERR".into())),
        ] {
            assert_eq!(NodeError::parse(line), expected, "{line}");
        }
    }

    #[test]
    fn what_no_retry_cures_is_definite_and_names_its_cure() {
        let address = Address::new("127.0.0.1", 6379);
        let error = NodeError::parse("WRONGPASS invalid username-password pair").at(&address);
        assert!(!error.is_transient());
        assert!(error.to_string().contains("redis.url"), "{error}");
        assert!(NodeError::Loading.at(&address).is_transient());
    }

    #[test]
    fn info_is_read_by_name() {
        let info = Reply::Text("# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n".into());
        assert_eq!(info_field(&info, "redis_version"), Some("7.0.15"));
        assert_eq!(info_field(&info, "redis"), None);
    }
}
