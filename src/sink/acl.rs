//! What Redis would let this user do, asked of a script: it needs no permission beside those that are in question.

use bytes::Bytes;

use super::Sink;
use super::lanes::Trouble;
use super::node::Command;
use super::reply::{NodeError, Reply};
use crate::error::Result;

/// ARGV: for each command the number of its words, then these. Reply: the ordinals of those that are denied;
/// nothing from a server older than 7.0, which cannot tell.
const PROBE: &str = "
if not redis.acl_check_cmd then return false end
local denied, at, ordinal = {}, 1, 0
while at <= #ARGV do
  local words = tonumber(ARGV[at])
  -- A command that the server does not know is an error, and no matter of rights.
  local known, granted = pcall(redis.acl_check_cmd, unpack(ARGV, at + 1, at + words))
  if known and not granted then denied[#denied + 1] = ordinal end
  at, ordinal = at + words + 1, ordinal + 1
end
return denied";

impl Sink {
    /// Which of these commands this user may not run on some master, in their order; nothing is run. `None` where
    /// a server cannot tell (older than 7.0).
    ///
    /// # Errors
    /// The first node's that does not answer.
    pub async fn denied<'c>(&mut self, commands: &'c [Vec<String>]) -> Result<Option<Vec<&'c [String]>>> {
        let mut is_denied = vec![false; commands.len()];
        let words = |command: &Vec<String>| {
            let words = command.iter().map(|word| Bytes::from(word.clone())).collect::<Vec<_>>();
            std::iter::once(command.len().to_string().into()).chain(words).collect::<Vec<_>>()
        };
        let asked: Vec<Bytes> = commands.iter().flat_map(words).collect();
        for address in self.lanes.topology().masters() {
            let load = Command::fixed("SCRIPT", &["LOAD", PROBE]);
            let unexpected = || Trouble { address: address.clone(), error: NodeError::NoScript };
            let hash = self.lanes.ask(&address, load).await?.text().cloned().ok_or_else(unexpected)?;
            let args = [vec![hash, 0.to_string().into()], asked.clone()].concat();
            match self.lanes.ask(&address, Command::new("EVALSHA", args)).await? {
                Reply::List(ordinals) => {
                    for ordinal in ordinals.iter().filter_map(Reply::int) {
                        let place = usize::try_from(ordinal).ok().and_then(|at| is_denied.get_mut(at));
                        place.into_iter().for_each(|denied| *denied = true);
                    }
                }
                _ => return Ok(None),
            }
        }
        let denied = commands.iter().zip(is_denied).filter(|(_, denied)| *denied);
        Ok(Some(denied.map(|(command, _)| command.as_slice()).collect()))
    }

    /// Whether it is a Redis Cluster.
    pub fn is_cluster(&self) -> bool {
        self.lanes.topology().is_cluster()
    }
}
