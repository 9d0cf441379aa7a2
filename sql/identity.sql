-- ACCESS EXCLUSIVE for an instant; runs under a lock_timeout and is tried again, so that no queue forms.
ALTER TABLE {table} REPLICA IDENTITY USING INDEX {name};
