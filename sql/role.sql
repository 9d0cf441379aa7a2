-- A role that can follow the stream and read what it follows, and nothing else.
CREATE ROLE {role} LOGIN REPLICATION PASSWORD {password};
