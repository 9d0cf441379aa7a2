-- Run by psql -qAt, each statement a transaction of its own, on a private PostgreSQL 15 with wal_level=logical and the tables
-- of tests/integration/harness/schema.sql; contract15.hex is what pg_logical_slot_peek_binary_changes said then, as in
-- postgres15.sql.
create unique index users_id_type on users (id, user_type);
alter table users replica identity using index users_id_type;
create publication p for table users, user_transactions;
select 1 from pg_create_logical_replication_slot('s','pgoutput');
insert into users (id,user_type,email,wallet_balance,leverage,margin,net_profit,account_number,"group",status,is_active,country_id) values (7,'live','a@b.c',10000.5,100,0,-1.75,'ACC7','VIP','active',true,7),(8,'demo',null,0,null,null,null,null,null,null,null,null);
begin; update users set wallet_balance=wallet_balance+500, updated_at=now() where id=7; insert into user_transactions (transaction_id,user_id,user_type,type,amount,balance_before,balance_after,status,admin_id,reference_id,user_email,method_type,metadata) select 'TXN1',id,user_type,'deposit',500,wallet_balance-500,wallet_balance,'completed',9,null,email,'bank','{"ip":"10.0.0.1"}' from users where id=7; commit;
begin; update users set wallet_balance=wallet_balance-0.000001 where id=7; insert into user_transactions (transaction_id,user_id,user_type,type,amount,status) values ('TXN2',7,'live','swap',-0.000001,'completed'),('TXN3',7,'live','commission',-2,'completed'); commit;
insert into user_transactions (transaction_id,user_id,user_type,type,amount,status) values ('TXN4',7,'live','withdraw',-5,'pending');
update user_transactions set status='completed', admin_id=9 where transaction_id='TXN4';
update users set wallet_balance='NaN' where id=8;
update users set leverage=500, sending_orders='rock', copy_trading_wallet=99999999999.999999 where id=7;
update users set id=9, user_type='live' where id=8;
begin; insert into users (id,user_type,wallet_balance) select n,'demo',n from generate_series(100,120) n; select 1 from pg_logical_emit_message(true,'lockstep:s','{"users":[["live","7"]]}'); commit;
delete from users where id between 100 and 110;
truncate users, user_transactions;
