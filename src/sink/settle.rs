//! What is done about a fault before a flight is tried again.

use std::time::Duration;

use super::apply::Run;
use super::call::CallWriter;
use super::lanes::Trouble;
use super::reply::{NodeError, Reply};
use super::{Flight, Sink, SinkState};
use crate::backoff::Outage;
use crate::error::{Error, Fault};

/// Delay before the next attempt where no retry cures the fault.
const INCURABLE_PAUSE: Duration = Duration::from_secs(2);

impl Sink {
    /// Does about a fault what can be done at once.
    pub(super) async fn settle(&mut self, trouble: &Trouble, flight: &Flight, run: Option<&mut Run>) {
        let error = &trouble.error;
        self.metrics.operations.with_label_values(&[error.label()]).inc();
        if matches!(error, NodeError::Moved { .. } | NodeError::Ask { .. })
            || matches!(error, NodeError::TryAgain | NodeError::ClusterDown)
        {
            self.metrics.redirects.with_label_values(&[error.label()]).inc();
        }
        self.lanes.recover(trouble).await;
        if let (NodeError::OutOfMemory, Some(run)) = (error, run) {
            self.release(flight, run).await;
        }
    }

    /// Out of memory: the stale keys of the flight's users are deleted, so that readers ask the database. Their fences
    /// stay: these keep an older value from coming back, and the keys that another instance wrote since.
    async fn release(&mut self, flight: &Flight, run: &mut Run) {
        if run.released {
            return;
        }
        let undone = run.others.iter().chain(&run.mains).filter(|work| work.outcome.is_none());
        let mut writer = CallWriter::new(flight, self.frame(flight, true));
        let mut unreleased = None;
        for (index, work) in undone.enumerate() {
            match self.target(work).await {
                Ok(target) => {
                    writer.make_room(1, &target);
                    writer.add((index, &work.part), None, &[], target);
                }
                Err(trouble) => unreleased = Some(trouble.error),
            }
        }
        let mut sent = Vec::new();
        self.write(writer.finish(), &mut sent).await;
        for (batch, sent) in sent {
            for (_, reply) in batch.answered(sent.replies().await) {
                let (deleted, left) = released(reply);
                self.metrics.deleted_out_of_memory.inc_by(deleted);
                unreleased = left.or(unreleased);
            }
        }
        run.released = unreleased.is_none();
        // What is left is tried again with the flight.
        if let Some(error) = unreleased.filter(|_| !std::mem::replace(&mut run.unreleased, true)) {
            tracing::warn!(
                error = error.label(),
                "redis is out of memory, and stale keys could not be deleted"
            );
        }
    }

    /// Waits before the next attempt, and says why.
    pub(super) async fn pause(&self, trouble: Trouble, outage: &mut Outage) {
        let error = self.lanes.leaderless().cloned().unwrap_or_else(|| Error::from(trouble));
        if outage.is_news(&error) {
            tracing::warn!(fault = %error, "redis does not take the flight, trying again");
        }
        self.report_retrying(error.fault());
        // What no retry cures is looked at only now and then, until somebody has cured it.
        let delay = if error.is_transient() { outage.next_delay() } else { INCURABLE_PAUSE };
        tokio::time::sleep(delay).await;
    }

    /// Redis does not answer what was asked beside a flight; what is the matter with it.
    pub fn tell_away(&self, fault: Error) -> Error {
        let fault = self.lanes.leaderless().cloned().unwrap_or(fault);
        self.report_retrying(fault.fault());
        fault
    }

    fn report_retrying(&self, fault: &Fault) {
        self.metrics.connected.set(0);
        self.state.send_replace(SinkState::Retrying { fault: fault.clone() });
    }

    /// Redis takes what it is sent.
    pub fn report_connected(&self) {
        let now = SinkState::Connected { generation: self.generation() };
        self.state.send_if_modified(|state| {
            let changed = *state != now;
            if changed {
                if matches!(state, SinkState::Retrying { .. }) {
                    tracing::info!("redis takes flights again");
                }
                self.metrics.connected.set(1);
                *state = now;
            }
            changed
        });
    }
}

/// How many users' keys a call has deleted, and why it has not done all.
fn released(reply: Result<Reply, NodeError>) -> (u64, Option<NodeError>) {
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) => return (0, Some(error)),
    };
    let (mut deleted, mut left) = (0, None);
    for line in reply.list().iter().map(|line| line.utf8().unwrap_or_default()) {
        match line {
            "d" => deleted += 1,
            "s" => {}
            _ => left = Some(NodeError::Other(line.to_owned())),
        }
    }
    (deleted, left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(lines: &[&'static str]) -> Result<Reply, NodeError> {
        Ok(Reply::List(lines.iter().map(|line| Reply::Text((*line).into())).collect()))
    }

    #[test]
    fn only_what_was_deleted_counts_and_what_the_fence_spared_is_done() {
        assert_eq!(released(reply(&["d", "s", "d"])), (2, None));
    }

    #[test]
    fn what_could_not_be_deleted_is_left() {
        let (deleted, left) = released(reply(&["!NOPERM", "d"]));
        assert!(deleted == 1 && left.is_some());
        assert_eq!(released(Err(NodeError::TimedOut)), (0, Some(NodeError::TimedOut)));
    }
}
