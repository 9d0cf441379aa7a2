-- From here on the server keeps WAL until Lockstep has acknowledged it. Waits for every transaction that
-- is older than itself. failover (17+): standbys with sync_replication_slots keep the slot too.
SELECT pg_create_logical_replication_slot({slot}, 'pgoutput', failover => true);
