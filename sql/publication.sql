-- From PostgreSQL 15 on each table lists its columns: what is not listed, secrets above all, never
-- enters the replication stream. PostgreSQL 14 has no lists and sends every column.
CREATE PUBLICATION {publication} FOR TABLE
    {tables}
    WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = true);
