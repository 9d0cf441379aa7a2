//! Which epoch a fence is of.

use crate::lsn::Lsn;

/// The epoch of each position of the stream.
///
/// What is before the fork of two histories is the same in both: an event there, sent again by the new server, has to
/// meet the fence that the old one's left, so it keeps the epoch before. One behind the fork passes every fence of the
/// old history, also those of changes that the new one never had, which may stand at a later position.
///
/// The epoch before is the one less by one: nothing else has to be remembered for a stream that begins before the fork
/// more than once. [`decide`](crate::supervise::start::decide) sees to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epochs {
    /// From the fork on.
    pub now: u32,
    /// The fork; zero where there is none within reach.
    pub fork: Lsn,
}

impl Epochs {
    /// Of an event or row at `lsn`.
    pub fn at(self, lsn: Lsn) -> u32 {
        self.now.saturating_sub(u32::from(lsn < self.fork))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_before_the_fork_keeps_the_epoch_before() {
        let at = |fork, lsn| Epochs { now: 4, fork: Lsn(fork) }.at(Lsn(lsn));
        assert_eq!([at(10, 9), at(10, 10), at(10, 11), at(0, 0)], [3, 4, 4, 4]);
    }
}
