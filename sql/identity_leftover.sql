-- CREATE INDEX CONCURRENTLY leaves an INVALID index behind when it fails or is cancelled.
DROP INDEX CONCURRENTLY IF EXISTS {index};
