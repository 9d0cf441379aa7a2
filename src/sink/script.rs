//! The scripts, and how their replies read.

use bytes::Bytes;

use super::node::{Command, Node};
use super::reply::{NodeError, Reply};
use super::{Applied, Outcome};

/// Applies plans.
const APPLY: &str = include_str!("apply.lua");
/// Puts a record, or none where it is empty, over the one that was there before and over no other: two instances may try
/// at the same time, one of which was frozen since it was the leader. Over itself too, where the reply to the first try
/// was lost. What is no text is none.
const KEEP: &str = "local now = redis.pcall('GET', KEYS[1])
now = type(now) == 'string' and now or ''
if now ~= ARGV[1] and now ~= ARGV[2] then return now ~= '' and now end
if ARGV[2] ~= '' then return redis.call('SET', KEYS[1], ARGV[2]) end
redis.call('DEL', KEYS[1])
return 'OK'";

/// What [`Sink::renew_lease`](super::Sink::renew_lease) and its neighbours do: nobody but who took the term last writes
/// the lease or takes it away, and only while a permit of a moment ago lasts: a call that waits in the socket of a frozen
/// server is no use when that thaws. KEYS: the term, the lease, the permit. ARGV: what to do, the token, and the permit's TTL
/// in ms, or the lease and its TTL in ms.
const LEASE: &str = "local held = redis.pcall('GET', KEYS[1])
held = type(held) == 'string' and held or ''
if ARGV[1] == 'take' then
  local term = (tonumber(string.match(held, '^(%d+)-')) or 0) + 1
  local token = string.format('%.0f', term) .. '-' .. ARGV[2]
  redis.call('SET', KEYS[1], token)
  return token
end
if held ~= ARGV[2] then return false end
if ARGV[1] == 'permit' then return redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[3]) end
if ARGV[1] == 'end' then return redis.call('DEL', KEYS[2]) end
if redis.call('GET', KEYS[3]) ~= ARGV[2] then return 'late' end
return redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])";

/// The hashes by which a node knows the scripts, once it has loaded them.
#[derive(Debug, Clone)]
pub struct Scripts {
    apply: Bytes,
    keep: Bytes,
    lease: Bytes,
}

impl Scripts {
    /// Loads the scripts into `node`.
    ///
    /// # Errors
    /// The node's.
    pub async fn load(node: &Node) -> Result<Scripts, NodeError> {
        let load = |text: &'static str| Command::fixed("SCRIPT", &["LOAD", text]);
        let hash = |reply: Reply| {
            reply
                .text()
                .cloned()
                .ok_or_else(|| NodeError::Other("unexpected reply to SCRIPT LOAD".to_owned()))
        };
        let mut replies = node.send(vec![load(APPLY), load(KEEP), load(LEASE)]).await.into_iter();
        let apply = replies.next().unwrap_or(Err(NodeError::TimedOut)).and_then(hash)?;
        let keep = replies.next().unwrap_or(Err(NodeError::TimedOut)).and_then(hash)?;
        let lease = replies.next().unwrap_or(Err(NodeError::TimedOut)).and_then(hash)?;
        Ok(Scripts { apply, keep, lease })
    }

    /// The call that applies plans.
    pub fn apply(&self, keys: Vec<Bytes>, args: Vec<Bytes>) -> Command {
        Command::new("EVALSHA", call_args(self.apply.clone(), keys, args))
    }

    /// The call that puts a record over the one before, each empty where there is none; what is there where that is
    /// another one, or nil.
    pub fn keep(&self, key: Bytes, before: Bytes, record: Bytes) -> Command {
        Command::new("EVALSHA", call_args(self.keep.clone(), vec![key], vec![before, record]))
    }

    /// The call that takes the term, permits a renewal, renews the lease or ends it; nil where another has the term.
    pub fn lease(&self, [term, lease, permit]: [Bytes; 3], args: Vec<Bytes>) -> Command {
        Command::new("EVALSHA", call_args(self.lease.clone(), vec![term, lease, permit], args))
    }
}

fn call_args(hash: Bytes, keys: Vec<Bytes>, args: Vec<Bytes>) -> Vec<Bytes> {
    let mut all = Vec::with_capacity(2 + keys.len() + args.len());
    all.push(hash);
    all.push(keys.len().to_string().into());
    all.extend(keys);
    all.extend(args);
    all
}

/// What the script says became of one plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Done.
    Done {
        /// What became of it.
        outcome: Outcome,
        /// Whether a guard kept keys that were to be deleted.
        kept: bool,
    },
    /// Skipped, by a fence of this later epoch.
    Later(u32),
    /// An earlier plan of the user is not applied yet, or the call was stopped before this one.
    NotTried,
    /// Redis' state forbids it for now.
    Failed(NodeError),
}

impl Verdict {
    /// Reads one line of the script's reply.
    pub fn parse(line: &str) -> Verdict {
        let mut rest = line.chars();
        match rest.next() {
            Some(word @ ('a' | 'u')) => {
                let (retyped, kept) = match rest.as_str().strip_suffix('k') {
                    Some(retyped) => (retyped, true),
                    None => (rest.as_str(), false),
                };
                let retyped_keys = retyped.parse().unwrap_or(0);
                let applied = Applied { as_update: word == 'u', retyped_keys };
                Verdict::Done { outcome: Outcome::Applied(applied), kept }
            }
            Some('s') => match u32::from_str_radix(rest.as_str(), 16) {
                Ok(epoch) => Verdict::Later(epoch),
                Err(_) => Verdict::Done { outcome: Outcome::Skipped, kept: false },
            },
            Some('w') => Verdict::NotTried,
            Some('!') => Verdict::Failed(NodeError::parse(rest.as_str())),
            Some('?') => {
                let reason = match rest.as_str() {
                    "LOST" => "redis may have lost it".to_owned(),
                    code => format!("redis answered {code}"),
                };
                Verdict::Done { outcome: Outcome::Refused { reason }, kept: false }
            }
            _ => Verdict::Failed(NodeError::Other("unexpected script reply".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_script_has_a_meaning() {
        let applied = |as_update, retyped_keys, kept| Verdict::Done {
            outcome: Outcome::Applied(Applied { as_update, retyped_keys }),
            kept,
        };
        assert_eq!(Verdict::parse("a"), applied(false, 0, false));
        assert_eq!(Verdict::parse("u"), applied(true, 0, false));
        assert_eq!(Verdict::parse("a2"), applied(false, 2, false));
        assert_eq!(Verdict::parse("uk"), applied(true, 0, true));
        assert_eq!(Verdict::parse("a2k"), applied(false, 2, true));
        assert_eq!(Verdict::parse("s"), Verdict::Done { outcome: Outcome::Skipped, kept: false });
        assert_eq!(Verdict::parse("s0000000c"), Verdict::Later(12));
        assert_eq!(Verdict::parse("w"), Verdict::NotTried);
        assert_eq!(Verdict::parse("!OOM"), Verdict::Failed(NodeError::OutOfMemory));
        for (line, reason) in [("?ERR", "redis answered ERR"), ("?LOST", "redis may have lost it")] {
            let outcome = Outcome::Refused { reason: reason.into() };
            assert_eq!(Verdict::parse(line), Verdict::Done { outcome, kept: false });
        }
        assert!(matches!(Verdict::parse(""), Verdict::Failed(NodeError::Other(_))));
    }
}
