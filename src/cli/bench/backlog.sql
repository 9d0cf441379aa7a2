-- One database transaction an event: a balance is changed, and a row says why.
DO $$
DECLARE
    changed record;
    moved   numeric(18,6);
BEGIN
    FOR n IN :first..:last LOOP
        moved := 1 + n % 100000 / 100.0;
        UPDATE users SET wallet_balance = wallet_balance + moved, updated_at = clock_timestamp()
         WHERE id = 1 + (hashint8(n) & 2147483647) % :among
        RETURNING id, user_type, wallet_balance INTO changed;
        INSERT INTO user_transactions (transaction_id, user_id, user_type, type, amount, balance_before,
                                       balance_after, status, admin_id, method_type)
        VALUES ('TX-' || n, changed.id, changed.user_type, 'deposit', moved, changed.wallet_balance - moved,
                changed.wallet_balance, 'completed', 1, 'bank');
        COMMIT;
        :beside
    END LOOP;
END $$
