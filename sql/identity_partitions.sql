-- The table and each partition name old rows by their own part of the index. ACCESS EXCLUSIVE for an
-- instant; runs under a lock_timeout and is tried again.
DO $lockstep$
DECLARE part record;
BEGIN
    FOR part IN
        SELECT x.indrelid::regclass AS name, i.relname AS index
        FROM pg_partition_tree({index}::regclass) t
        JOIN pg_index x ON x.indexrelid = t.relid
        JOIN pg_class i ON i.oid = t.relid
        WHERE NOT x.indisreplident
    LOOP
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY USING INDEX %I', part.name, part.index);
    END LOOP;
END $lockstep$;
