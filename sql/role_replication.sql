-- A role that was there before: it must be able to log in and to stream.
ALTER ROLE {role} LOGIN REPLICATION;
