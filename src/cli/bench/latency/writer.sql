-- One database transaction of one statement, so that it commits in its own round trip; else as backlog.sql has it.
WITH changed AS (
    UPDATE users SET wallet_balance = wallet_balance + (1 + $1::bigint % 100000 / 100.0),
                     updated_at = clock_timestamp()
     WHERE id = 1 + (hashint8($1) & 2147483647) % $2::integer
    RETURNING id, user_type, wallet_balance, (1 + $1 % 100000 / 100.0)::numeric(18,6) AS moved)
INSERT INTO user_transactions (transaction_id, user_id, user_type, type, amount, balance_before, balance_after,
                               status, admin_id, method_type)
SELECT 'TX-' || $1, id, user_type, 'deposit', moved, wallet_balance - moved, wallet_balance, 'completed', 1, 'bank'
  FROM changed
RETURNING pg_current_xact_id()::text
