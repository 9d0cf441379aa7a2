//! What the database has committed: a trigger notes every value that a user's row has had.

use std::collections::{BTreeMap, BTreeSet};

use super::World;

/// `table_of_users` is `users`. A rolled-back change takes its note with it, and the row's lock is held to the commit: for
/// one user the notes stand in the order of the commits.
const NOTES: &str = "
    CREATE TABLE history (
        seq bigserial PRIMARY KEY, xid bigint NOT NULL, who text NOT NULL, balance text NOT NULL, moved boolean NOT NULL);
    CREATE INDEX ON history (who, seq);
    CREATE FUNCTION iso(timestamptz) RETURNS text LANGUAGE sql AS $$
        SELECT to_char($1 AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') $$;
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND (OLD.user_type, OLD.id) <> (NEW.user_type, NEW.id)) THEN
            INSERT INTO history (xid, who, balance, moved) VALUES (
                pg_current_xact_id()::text::bigint, OLD.user_type || ':' || OLD.id, 'gone', true);
        END IF;
        IF TG_OP <> 'DELETE' THEN
            INSERT INTO history (xid, who, balance, moved) VALUES (
                pg_current_xact_id()::text::bigint, NEW.user_type || ':' || NEW.id,
                trim_scale(NEW.wallet_balance)::text,
                TG_OP = 'INSERT' OR (OLD.user_type, OLD.id, OLD.wallet_balance)
                    IS DISTINCT FROM (NEW.user_type, NEW.id, NEW.wallet_balance));
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON users FOR EACH ROW EXECUTE FUNCTION note();
    INSERT INTO history (xid, who, balance, moved)
        SELECT 0, user_type || ':' || id, trim_scale(wallet_balance)::text, false FROM users ORDER BY id;";

/// Instead of a balance: the user was deleted, or is another one now.
pub const GONE: &str = "gone";

/// One user's change in one database transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub xid: u64,
    /// `live:7`
    pub who: String,
    /// After the transaction, as Redis has it; [`GONE`] where the user is.
    pub balance: String,
    /// Whether it changed the balance.
    pub moved: bool,
}

/// Every balance that each user has had, in the order of the commits.
#[derive(Debug, Default)]
pub struct History {
    balances: BTreeMap<String, Vec<String>>,
    /// Of each the number of its note.
    notes: BTreeMap<String, Vec<i64>>,
    /// Those that a later change of the same transaction has replaced.
    passed: BTreeMap<String, BTreeSet<String>>,
    read: i64,
}

impl History {
    pub async fn begin(world: &World) -> History {
        world.sql(NOTES).await;
        let mut history = History::default();
        history.read(world).await;
        history
    }

    /// Reads on; returns the changes that were committed since the last time. Nobody may be writing: a note that is
    /// committed later may have a lower number.
    pub async fn read(&mut self, world: &World) -> Vec<Change> {
        let query = format!(
            "SELECT seq, xid, who, balance, moved FROM history WHERE seq > {} ORDER BY seq",
            self.read
        );
        let mut changes: Vec<Change> = Vec::new();
        let mut notes: Vec<i64> = Vec::new();
        // Of one transaction only the last counts; another's may stand in between.
        let mut at: BTreeMap<(String, u64), usize> = BTreeMap::new();
        for row in world.postgres.rows(&query).await {
            let row: Vec<String> = row.into_iter().flatten().collect();
            let [seq, xid, who, balance, moved] = row.as_slice() else { panic!("a note with NULL: {row:?}") };
            self.read = seq.parse().expect("a number");
            let (xid, moved) = (xid.parse().expect("a transaction id"), moved == "t");
            let change = Change { xid, who: who.clone(), balance: balance.clone(), moved };
            match at.get(&(who.clone(), xid)) {
                Some(index) if xid != 0 => {
                    let before = &changes[*index];
                    let moved = moved || before.moved;
                    self.passed.entry(who.clone()).or_default().insert(before.balance.clone());
                    changes[*index] = Change { moved, ..change };
                    notes[*index] = self.read;
                }
                _ => {
                    at.insert((who.clone(), xid), changes.len());
                    changes.push(change);
                    notes.push(self.read);
                }
            }
        }
        for (change, note) in changes.iter().zip(notes) {
            self.balances.entry(change.who.clone()).or_default().push(change.balance.clone());
            self.notes.entry(change.who.clone()).or_default().push(note);
        }
        changes.retain(|change| change.xid != 0);
        changes
    }

    /// Where among the user's balances the one of this note stands.
    pub fn at(&self, who: &str, note: i64) -> usize {
        let notes = self.notes.get(who).map_or(&[] as &[i64], Vec::as_slice);
        notes.partition_point(|known| *known <= note).saturating_sub(1)
    }

    /// Whether a transaction had left this balance on its way to another.
    pub fn passed(&self, who: &str, balance: &str) -> bool {
        self.passed.get(who).is_some_and(|passed| passed.contains(balance))
    }

    /// Of one user.
    pub fn balances(&self, who: &str) -> &[String] {
        self.balances.get(who).map_or(&[], Vec::as_slice)
    }
}
