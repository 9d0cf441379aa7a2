-- Deletes and changes of the user type can only be followed when WAL names the old row by all of these; and of
-- a table of transactions only so does it say whether a row was completed before.
-- CONCURRENTLY: writers are not blocked; it waits for transactions that are older than itself.
CREATE UNIQUE INDEX CONCURRENTLY {name} ON {table} ({columns});
