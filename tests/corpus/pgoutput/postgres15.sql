-- Run by psql -qAt on a private PostgreSQL 15 with wal_level=logical; postgres15.hex is what this said then:
--   select encode(data, 'hex') from pg_logical_slot_peek_binary_changes('s', null, null,
--     'proto_version', '1', 'publication_names', 'p', 'messages', 'true')
create type kind as enum ('live','demo');
create table users(id int primary key, user_type kind not null, wallet_balance numeric(18,6), note text);
create table audit(id int primary key, note text);
alter table audit replica identity full;
create table user_transactions(id int primary key, amount numeric(18,6), user_id int);
create publication p for table users, audit, user_transactions;
select 1 from pg_create_logical_replication_slot('s','pgoutput');
-- inserts, an enum, a NULL
begin;
insert into users values (1,'live',10000.5,'first'),(2,'demo',0,null);
insert into user_transactions values (1,-25.000000,1);
commit;
-- update, changed key, replica identity full, deletes
begin;
update users set wallet_balance=99999999999.999999 where id=1;
update users set id=3 where id=2;
insert into audit values (1,'old');
update audit set note='new' where id=1;
delete from audit where id=1;
delete from users where id=3;
commit;
-- unchanged TOASTed value
alter table users alter note set storage external;
begin;
insert into users values (4,'live',1,repeat('x',3000));
commit;
update users set wallet_balance=2 where id=4;
-- a logical message, inside and outside
begin;
select 1 from pg_logical_emit_message(true,'lockstep','inside');
update users set wallet_balance=3 where id=4;
commit;
select 1 from pg_logical_emit_message(false,'lockstep','outside');
-- savepoint rollback
begin;
insert into user_transactions values (2,5,4);
savepoint a;
insert into user_transactions values (3,6,4);
rollback to a;
insert into user_transactions values (4,7,4);
commit;
-- whole rollback
begin; update users set wallet_balance=666; rollback;
-- alter in mid-stream
begin;
update users set wallet_balance=4 where id=4;
alter table users add column email text;
update users set wallet_balance=5, email='a@b' where id=4;
commit;
alter table users rename column note to remark;
alter table users alter wallet_balance type numeric(30,10);
alter table users drop column email;
update users set wallet_balance=6 where id=4;
-- truncate of two tables between rows
begin;
insert into user_transactions values (5,8,4);
truncate users, audit restart identity cascade;
insert into users values (7,'demo',-0.000001,'after');
commit;
-- replication origin
select 1 from pg_replication_origin_create('elsewhere');
select 1 from pg_replication_origin_session_setup('elsewhere');
begin;
select 1 from pg_replication_origin_xact_setup('0/AB','2026-01-15 10:30:00+00');
update users set wallet_balance=8 where id=7;
commit;
