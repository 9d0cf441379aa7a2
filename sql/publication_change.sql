-- Brings a publication that was there before to the configured tables and columns.
ALTER PUBLICATION {publication} SET
    (publish = 'insert, update, delete, truncate', publish_via_partition_root = true);
ALTER PUBLICATION {publication} SET TABLE
    {tables};
