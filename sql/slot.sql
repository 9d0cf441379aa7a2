-- From here on the server keeps WAL until Lockstep has acknowledged it. Waits for every transaction that
-- is older than itself.
SELECT pg_create_logical_replication_slot({slot}, 'pgoutput');
