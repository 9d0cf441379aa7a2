//! What Redis acknowledged: counted, logged, and what is in doubt recorded and read again.

use std::sync::Arc;
use std::time::Instant;

use super::lane::Landed;
use super::quarantine::Incident;
use super::truncate::Tally;
use super::{Errand, Pipeline, REFUSED_KINDS, clock};
use crate::balance::time::commit_iso;
use crate::balance::{Refused, User};
use crate::keyplan::KeyPlan;
use crate::pgoutput::PgTime;
use crate::sink::Outcome;

impl Pipeline {
    /// Counts what Redis acknowledged, and has the users read again that were in doubt.
    pub(super) fn note_landed(&mut self, landed: Landed) {
        for committed in &landed.committed {
            self.metrics.sink.apply_latency.observe(clock::since(*committed).as_secs_f64());
        }
        let from_stream = !landed.committed.is_empty();
        self.note_recent(&landed);
        for (at, (plan, outcome)) in landed.plans.iter().zip(&landed.outcomes).enumerate() {
            match from_stream {
                true => self.note_event(plan, outcome, landed.committed.get(at).copied()),
                false => self.note_row(plan, outcome, landed.compared),
            }
        }
        self.note_truncated(landed.truncated);
        self.metrics.sink.unpublished.inc_by(landed.unpublished);
        if landed.loaded {
            self.note_loaded(true);
            self.note_healed();
        }
        self.waiting.extend(landed.returned.map(Errand::Mark));
        if landed.asked {
            self.asked.tell();
        }
        if let Some(version) = landed.quarantine {
            self.quarantine.written(version);
        }
        self.metrics.sink.lease_renewals.inc_by(landed.leased.into());
        if landed.misheard {
            self.ledger.misheard();
        }
        self.ledger.wrote(landed.plans, &landed.outcomes, from_stream, Instant::now());
    }

    /// An event of the stream. One in doubt is counted once, however often it is sent again.
    fn note_event(&mut self, plan: &KeyPlan, outcome: &Outcome, committed: Option<PgTime>) {
        let sink = &self.metrics.sink;
        let published_before = self.known.had_or_lost(plan.position);
        let sent_again = self.known.note_event(plan.position);
        let mut doubt = plan.doubt.as_ref().map(ToString::to_string);
        match outcome {
            Outcome::Skipped => {
                sink.skipped_by_fence.inc();
                if plan.row_xid.is_some() && !plan.whole && plan.doubt.is_none() {
                    self.read_what_was_not_sent(&plan.user);
                }
            }
            Outcome::Applied(applied) => {
                sink.retyped.inc_by(applied.retyped_keys.into());
                if let Some(event_type) = plan.event_type(applied.as_update) {
                    sink.events.with_label_values(&[event_type]).inc();
                    sink.republished.inc_by(published_before.into());
                }
            }
            Outcome::Refused { reason } => doubt = Some(reason.clone()),
        }
        let Some(reason) = doubt else { return self.note_sound(plan) };
        let commit = committed.map(|time| (plan.xid.0, commit_iso(time).into()));
        let incident = self.incident(plan, &reason, commit);
        self.quarantine.record(incident);
        if !sent_again {
            sink.quarantined.inc();
            tracing::warn!(position = %plan.position, reason, "an event could not be applied as written");
        }
        // Also where the fence has it: whoever was to read the user again may not have come to it.
        self.repair(plan);
    }

    /// Of a row that is sent again and lacks values: a load may have passed over the user because no snapshot saw the row
    /// yet, and whoever was to read the user once more may have died before.
    pub(super) fn read_what_was_not_sent(&self, user: &User) {
        // Mostly nothing is missing: who does not fit in is left to the audit.
        let _ = self.repairs.try_send(user.clone());
    }

    /// A row read from the database. What is in doubt even there stays deleted.
    fn note_row(&mut self, plan: &KeyPlan, outcome: &Outcome, compared: bool) {
        let sink = &self.metrics.sink;
        let doubt = match (outcome, &plan.doubt) {
            (Outcome::Refused { reason }, _) => reason.clone(),
            // Also where it is in doubt: the change that the snapshot did not see may have healed it.
            (Outcome::Skipped, _) => {
                sink.skipped_by_fence.inc();
                // The snapshot did not see the user's last change yet: read once more. What the stream wrote stands, but it
                // may be less than a row: values that were not sent, keys that went for want of memory. Who was compared
                // will be again.
                if !compared {
                    self.repair(plan);
                }
                return;
            }
            (Outcome::Applied(_), Some(doubt)) => doubt.to_string(),
            (Outcome::Applied(applied), None) => {
                sink.retyped.inc_by(applied.retyped_keys.into());
                sink.healed.inc_by(plan.rereads.into());
                if plan.restores {
                    self.quarantine.heal(&plan.user);
                }
                return;
            }
        };
        let incident = self.incident(plan, &doubt, None);
        match plan.rereads {
            true => self.quarantine.stays(incident),
            false => self.quarantine.record(incident),
        }
        let sink = &self.metrics.sink;
        // A user that is read again was counted with the event that put it in doubt.
        sink.quarantined.inc_by((!plan.rereads).into());
        tracing::warn!(position = %plan.position, reason = doubt, "a user's row cannot be written: its keys stay deleted");
    }

    /// An event as it should be, of a user who may be in quarantine: it puts the keys right, or they are to be read.
    fn note_sound(&mut self, plan: &KeyPlan) {
        if self.quarantine.holds(&plan.user, plan.position) {
            match plan.restores {
                true => self.quarantine.heal(&plan.user),
                false => self.repair(plan),
            }
        }
    }

    /// Users of a truncated table.
    fn note_truncated(&mut self, tally: Tally) {
        let sink = &self.metrics.sink;
        sink.events.with_label_values(&["user_deleted"]).inc_by(tally.published);
        sink.skipped_by_fence.inc_by(tally.skipped);
        sink.retyped.inc_by(tally.retyped_keys);
        sink.quarantined.inc_by(tally.refused);
        let Some(emptied) = tally.emptied else { return };
        let again = self.known.had_or_lost(emptied.position);
        sink.republished.inc_by(if again { tally.published } else { 0 });
        if !again {
            // What others derive of its users now is of nobody, and who they were is not remembered.
            self.ledger.forgot();
        }
        self.quarantine.heal_emptied(&emptied);
        if let Some((_, reason)) = tally.refused_users.last() {
            tracing::warn!(users = tally.refused, reason, "users of a truncated table could not be told");
        }
        for (user, reason) in tally.refused_users {
            let commit = (emptied.commit.xid.0, commit_iso(emptied.commit.time).into());
            let (position, commit) = (emptied.position, Some(commit));
            self.quarantine.record(Incident {
                user: Some(&user),
                table: self.mapping.users_table(&user.user_type),
                reason,
                position,
                commit,
            });
        }
    }

    fn repair(&self, plan: &KeyPlan) {
        if self.repairs.try_send(plan.user.clone()).is_err() {
            tracing::warn!(position = %plan.position, "too many users are in doubt: this one's keys stay deleted");
        }
    }

    /// A row whose user has no keys of its own.
    pub(super) fn note_refused(&mut self, refused: Refused) {
        let Refused { table, position, reason, commit } = refused;
        // Of a row that was read from the database the position has no ordinal, and is no place in the stream.
        let is_counted = position.ordinal > 0 && self.known.note_refused(position);
        // Nor is there a commit.
        let commit = (position.ordinal > 0).then(|| (commit.xid.0, commit_iso(commit.time).into()));
        let told = reason.to_string();
        // Also where it is counted: the session that counted it may have ended before the list was written.
        self.quarantine.record(Incident {
            user: None,
            table: Some(table.to_string()),
            reason: told,
            position,
            commit,
        });
        if is_counted {
            return;
        }
        self.metrics.sink.quarantined.inc();
        if self.refused.len() < REFUSED_KINDS && self.refused.insert((Arc::clone(&table), reason.clone())) {
            tracing::warn!(%table, %position, %reason, "a row touches no key; more of them are only counted");
        }
    }

    fn incident<'a>(&self, plan: &'a KeyPlan, reason: &str, commit: Option<(u64, String)>) -> Incident<'a> {
        let of_value = plan.doubt.as_ref().and_then(|doubt| doubt.table()).map(ToString::to_string);
        let table = of_value.or_else(|| self.mapping.users_table(&plan.user.user_type));
        Incident { user: Some(&plan.user), table, reason: reason.to_owned(), position: plan.position, commit }
    }
}
