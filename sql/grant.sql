-- Reads of the load and of single users: only the followed columns.
GRANT USAGE ON SCHEMA {schema} TO {role};
GRANT SELECT ({columns}) ON TABLE {table} TO {role};
