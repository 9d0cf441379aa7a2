//! The replication slot.

use tokio_postgres::Client;

use super::query_error;
use crate::error::Result;
use crate::lsn::Lsn;

/// A slot as `pg_replication_slots` has it.
#[derive(Debug, Clone)]
pub struct Slot {
    /// `logical` or `physical`.
    pub kind: String,
    /// Output plugin of a logical slot.
    pub plugin: Option<String>,
    /// Database of a logical slot.
    pub database: Option<String>,
    /// Who streams from it.
    pub holder: Option<Holder>,
    /// `wal_status`: `reserved`, `extended`, `unreserved`, `lost`.
    pub wal_status: Option<String>,
    /// Why it is of no more use, where the server says so.
    pub invalidation: Option<String>,
    /// Whether standbys that synchronise slots keep it too; `None` where the server knows no such slots (before 17).
    pub failover: Option<bool>,
    /// Oldest WAL that it needs.
    pub restart_lsn: Option<Lsn>,
    /// Position up to which everything was acknowledged.
    pub confirmed_flush: Option<Lsn>,
    /// Bytes of WAL that are kept for it.
    pub retained_bytes: i64,
    /// Bytes of WAL that were not acknowledged yet.
    pub lag_bytes: i64,
}

/// The process that streams from a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Process id on the server.
    pub pid: i32,
    /// `application_name` and client address.
    pub who: String,
}

impl Slot {
    /// Why nothing can be streamed from it any more, in words.
    pub fn lost_because(&self) -> Option<&str> {
        match (&self.invalidation, self.wal_status.as_deref()) {
            (Some(reason), _) => Some(reason),
            (None, Some("lost")) => Some("WAL that it needs was removed"),
            _ => None,
        }
    }

    /// Reads a slot over a connection of its own.
    ///
    /// # Errors
    /// The server cannot be reached, or asked.
    pub async fn look(postgres: &crate::config::Postgres) -> Result<Option<Slot>> {
        let client = crate::wire::sql::connect(postgres).await?;
        Slot::read(&client, &postgres.slot).await
    }

    /// Reads a slot; `None` when there is none of that name.
    pub async fn read(client: &Client, name: &str) -> Result<Option<Slot>> {
        // The row as JSON has invalidation_reason, failover (17+) and conflicting (16+) where they exist.
        const SQL: &str = "
            SELECT s.slot_type, s.plugin::text, s.database::text, s.active_pid, s.wal_status,
                   coalesce(to_jsonb(s)->>'invalidation_reason',
                            CASE WHEN to_jsonb(s)->>'conflicting' = 'true' THEN 'conflict with recovery' END),
                   s.restart_lsn::text, s.confirmed_flush_lsn::text,
                   coalesce(pg_wal_lsn_diff(here.lsn, s.restart_lsn), 0)::int8,
                   coalesce(pg_wal_lsn_diff(here.lsn, s.confirmed_flush_lsn), 0)::int8,
                   concat_ws(' ', nullif(a.application_name, ''), 'from ' || host(a.client_addr)),
                   (to_jsonb(s)->>'failover')::bool
            FROM pg_replication_slots s
            CROSS JOIN (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                                    ELSE pg_current_wal_lsn() END) here (lsn)
            LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid
            WHERE s.slot_name = $1";
        let failed = |e| query_error(&format!("reading the slot {name:?}"), &e);
        let Some(row) = client.query_opt(SQL, &[&name]).await.map_err(failed)? else { return Ok(None) };
        let lsn = |column: usize| row.get::<_, Option<String>>(column).and_then(|text| text.parse().ok());
        let pid: Option<i32> = row.get(3);
        Ok(Some(Slot {
            kind: row.get(0),
            plugin: row.get(1),
            database: row.get(2),
            holder: pid.map(|pid| Holder { pid, who: row.get(10) }),
            wal_status: row.get(4),
            invalidation: row.get(5),
            failover: row.get(11),
            restart_lsn: lsn(6),
            confirmed_flush: lsn(7),
            retained_bytes: row.get(8),
            lag_bytes: row.get(9),
        }))
    }
}

/// The transactions that a process waits for, for people.
pub async fn blockers(client: &Client, pid: i32) -> Result<Vec<String>> {
    // A prepared transaction has no process: pg_blocking_pids gives 0 for it.
    const SQL: &str = "
        SELECT concat('pid ', a.pid, ' (', concat_ws(', ', a.usename, nullif(a.application_name, ''), a.state,
                      'transaction since ' || to_char(a.xact_start, 'HH24:MI:SS')), ')')
        FROM pg_stat_activity a WHERE a.pid = ANY (pg_blocking_pids($1))
        UNION ALL
        SELECT concat('prepared transaction ', p.gid)
        FROM pg_prepared_xacts p WHERE 0 = ANY (pg_blocking_pids($1))
        ORDER BY 1";
    let rows = client.query(SQL, &[&pid]).await.map_err(|e| query_error("asking who holds the lock", &e))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
