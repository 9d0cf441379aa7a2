-- Back to the primary key.
ALTER TABLE {table} REPLICA IDENTITY DEFAULT;
