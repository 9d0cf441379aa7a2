//! The server, the database and the role.

use tokio_postgres::Client;

use super::query_error;
use crate::error::Result;

/// First version with publication column lists.
const COLUMN_LISTS: i32 = 150_000;
/// First version with failover slots.
const FAILOVER_SLOTS: i32 = 170_000;

/// Facts of the server and of the role that is connected.
#[derive(Debug, Clone)]
pub struct Server {
    /// `server_version_num`, 150018 for example.
    pub version_num: i32,
    /// `server_version`, as people know it.
    pub version: String,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// `wal_level`.
    pub wal_level: String,
    /// `max_replication_slots`, and how many exist.
    pub slots: (i32, i64),
    /// `max_wal_senders`, and how many run.
    pub senders: (i32, i64),
    /// `max_slot_wal_keep_size` in MB; -1: no limit.
    pub slot_wal_keep_mb: i64,
    /// `synchronous_standby_names`.
    pub synchronous_standby_names: String,
    /// The database.
    pub database: String,
    /// The role.
    pub role: String,
    /// Whether the role may open a replication connection, by attribute, as superuser or as a member of
    /// `rds_replication`.
    pub may_replicate: bool,
}

impl Server {
    /// Reads the facts.
    pub async fn read(client: &Client) -> Result<Server> {
        const SQL: &str = "
            SELECT current_setting('server_version_num')::int4, current_setting('server_version'),
                   pg_is_in_recovery(), current_setting('wal_level'),
                   current_setting('max_replication_slots')::int4,
                   (SELECT count(*) FROM pg_replication_slots),
                   current_setting('max_wal_senders')::int4, (SELECT count(*) FROM pg_stat_replication),
                   (SELECT setting::int8 FROM pg_settings WHERE name = 'max_slot_wal_keep_size'),
                   current_setting('synchronous_standby_names'), current_database()::text, current_user::text,
                   r.rolsuper OR r.rolreplication OR EXISTS (
                       SELECT FROM pg_roles g
                       WHERE g.rolname = 'rds_replication' AND pg_has_role(r.oid, g.oid, 'MEMBER'))
            FROM pg_roles r WHERE r.rolname = current_user";
        let row =
            client.query_one(SQL, &[]).await.map_err(|e| query_error("reading the server's settings", &e))?;
        Ok(Server {
            version_num: row.get(0),
            version: row.get(1),
            in_recovery: row.get(2),
            wal_level: row.get(3),
            slots: (row.get(4), row.get(5)),
            senders: (row.get(6), row.get(7)),
            slot_wal_keep_mb: row.get(8),
            synchronous_standby_names: row.get(9),
            database: row.get(10),
            role: row.get(11),
            may_replicate: row.get(12),
        })
    }

    /// Whether a publication can leave columns out.
    pub fn has_column_lists(&self) -> bool {
        self.version_num >= COLUMN_LISTS
    }

    /// Whether a slot can be kept on standbys too.
    pub fn has_failover_slots(&self) -> bool {
        self.version_num >= FAILOVER_SLOTS
    }
}
