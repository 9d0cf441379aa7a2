-- The platform's tables, secrets included: those must reach neither Redis nor the replication stream.
CREATE TABLE users (
    id                  integer PRIMARY KEY,
    user_type           text NOT NULL,
    email               text,
    password_hash       text,
    security_answer     text,
    bank_account        text,
    wallet_balance      numeric(18,6) NOT NULL DEFAULT 0,
    leverage            integer,
    margin              numeric(18,6),
    net_profit          numeric(18,6),
    account_number      text,
    "group"             text,
    status              integer,
    is_active           boolean,
    country_id          integer,
    sending_orders      text,
    mam_id              integer,
    mam_status          text,
    pam_id              integer,
    pam_status          text,
    copy_trading_wallet numeric(18,6),
    copytrader_id       integer,
    copytrading_status  text,
    created_at          timestamptz NOT NULL DEFAULT now(),
    updated_at          timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE user_transactions (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transaction_id text NOT NULL UNIQUE,
    user_id        integer NOT NULL,
    user_type      text NOT NULL,
    order_id       text,
    type           text NOT NULL,
    amount         numeric(18,6) NOT NULL,
    balance_before numeric(18,6),
    balance_after  numeric(18,6),
    status         text NOT NULL,
    reference_id   text,
    admin_id       integer,
    user_email     text,
    method_type    text,
    notes          text,
    metadata       json,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Written while the row of users is locked: the order of one user's rows is the order of their commits.
    updated_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX user_transactions_user ON user_transactions (user_id, updated_at);

INSERT INTO users (id, user_type, email, password_hash, security_answer, bank_account, wallet_balance,
                   leverage, margin, net_profit, account_number, "group", status, is_active, country_id,
                   sending_orders, mam_id, mam_status, copy_trading_wallet, copytrading_status)
SELECT n, CASE n % 2 WHEN 0 THEN 'demo' ELSE 'live' END, 'user' || n || '@example.com',
       'secret-' || md5(n::text), 'secret-answer-' || n, 'secret-account-' || n,
       1000 + n * 1.237501,
       CASE n % 3 WHEN 0 THEN 100 WHEN 1 THEN 200 ELSE 500 END,
       CASE WHEN n % 7 <> 0 THEN n * 0.5 END,
       CASE WHEN n % 5 <> 0 THEN -n * 0.25 END,
       'ACC' || lpad(n::text, 8, '0'),
       CASE n % 3 WHEN 0 THEN 'Standard' WHEN 1 THEN 'VIP' ELSE 'Größe «L»' END,
       1, n % 11 <> 0, CASE WHEN n % 4 <> 0 THEN n % 200 END, 'rock',
       CASE n % 50 WHEN 0 THEN n / 50 END, CASE n % 50 WHEN 0 THEN 'enabled' END,
       CASE n % 9 WHEN 0 THEN 12.5 END, 'inactive'
  FROM generate_series(1, :users) AS n;
ANALYZE users;
