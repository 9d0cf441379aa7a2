CREATE TYPE user_type AS ENUM ('live', 'demo');

CREATE TABLE users (
    id                  int PRIMARY KEY,
    user_type           user_type NOT NULL,
    email               text,
    password_hash       text,
    security_answer     text,
    bank_account        text,
    wallet_balance      numeric(18,6) DEFAULT 0,
    leverage            int,
    margin              numeric(18,6) DEFAULT 0,
    net_profit          numeric(18,6) DEFAULT 0,
    account_number      text,
    "group"             text,
    status              text,
    is_active           boolean,
    country_id          int,
    sending_orders      text,
    mam_id              int,
    mam_status          text,
    pam_id              int,
    pam_status          text,
    copy_trading_wallet numeric(18,6),
    copytrader_id       int,
    copytrading_status  text,
    created_at          timestamp   DEFAULT (now() AT TIME ZONE 'UTC'),
    updated_at          timestamptz DEFAULT now()
);

CREATE TABLE user_transactions (
    id             bigserial PRIMARY KEY,
    transaction_id text UNIQUE NOT NULL,
    user_id        int NOT NULL REFERENCES users (id) ON UPDATE CASCADE ON DELETE CASCADE,
    user_type      user_type NOT NULL,
    order_id       text,
    type           text NOT NULL,
    amount         numeric(18,6) NOT NULL,
    balance_before numeric(18,6),
    balance_after  numeric(18,6),
    status         text NOT NULL,
    reference_id   text,
    admin_id       int,
    user_email     text,
    method_type    text,
    notes          text,
    metadata       json,
    created_at     timestamptz DEFAULT now(),
    updated_at     timestamptz DEFAULT now()
);

-- Not followed by Lockstep: what the approval of a request changes beside the balance.
CREATE TABLE money_requests (
    id      serial PRIMARY KEY,
    user_id int NOT NULL,
    amount  numeric(18,6) NOT NULL,
    status  text NOT NULL DEFAULT 'pending'
);
