-- What user:{T:U}:config must hold, written down from the contract alone: a column is a field, under its
-- name; NULL is an absent field. trim_scale() prints decimals without trailing zeros, exactly.
SELECT u.id, u.user_type, u.email,
       trim_scale(u.wallet_balance) AS wallet_balance,
       trim_scale(u.wallet_balance) AS balance,
       u.leverage,
       trim_scale(coalesce(u.margin, 0)) AS margin,
       trim_scale(coalesce(u.net_profit, 0)) AS net_profit,
       u.account_number, u."group", u.status,
       CASE WHEN u.is_active THEN '1' WHEN NOT u.is_active THEN '0' END AS is_active,
       u.country_id, u.sending_orders, u.mam_id, u.mam_status, u.pam_id, u.pam_status,
       trim_scale(u.copy_trading_wallet) AS copy_trading_wallet,
       u.copytrader_id, u.copytrading_status,
       to_char(u.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS created_at,
       to_char(u.updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS updated_at,
       -- Every change of users in this demo is a change of the balance, so its commit is the last one.
       to_char(pg_xact_commit_timestamp(u.xmin) AT TIME ZONE 'UTC',
               'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS last_balance_update,
       to_char(pg_xact_commit_timestamp(u.xmin) AT TIME ZONE 'UTC',
               'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS last_updated,
       latest.transaction_id AS last_transaction_id,
       to_char(latest.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS last_transaction_at,
       trim_scale(deposit.amount) AS last_deposit_amount,
       trim_scale(abs(withdrawal.amount)) AS last_withdrawal_amount,
       CASE WHEN deposit.updated_at > coalesce(withdrawal.updated_at, '-infinity') THEN 'deposit'
            WHEN withdrawal.updated_at IS NOT NULL THEN 'withdrawal' END AS last_admin_action
  FROM users u
  LEFT JOIN LATERAL (SELECT transaction_id, created_at FROM user_transactions t
                      WHERE t.user_id = u.id AND t.status = 'completed'
                      ORDER BY t.updated_at DESC LIMIT 1) latest ON true
  LEFT JOIN LATERAL (SELECT amount, updated_at FROM user_transactions t
                      WHERE t.user_id = u.id AND t.status = 'completed'
                        AND t.type = 'deposit' AND t.admin_id IS NOT NULL
                      ORDER BY t.updated_at DESC LIMIT 1) deposit ON true
  LEFT JOIN LATERAL (SELECT amount, updated_at FROM user_transactions t
                      WHERE t.user_id = u.id AND t.status = 'completed'
                        AND t.type = 'withdraw' AND t.admin_id IS NOT NULL
                      ORDER BY t.updated_at DESC LIMIT 1) withdrawal ON true
 ORDER BY u.id
