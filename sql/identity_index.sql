-- Deletes and changes of the user type can only be followed when WAL names the old row by all of these.
-- CONCURRENTLY: writers are not blocked; it waits for transactions that are older than itself.
CREATE UNIQUE INDEX CONCURRENTLY {name} ON {table} ({columns});
