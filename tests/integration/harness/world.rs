//! A platform with its database, its Redis and a Lockstep between them, told in sentences.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::oracle::{UserTable, differences, summary};
use super::store::{On, Store};
use super::subscriber::{Heard, lsn};
use super::{
    Lockstep, PATIENCE, Postgres, PostgresOptions, Proxy, RedisOptions, Subscriber, eventually,
    eventually_ok, eventually_within,
};

/// CONTRACT section 2, with the secrets that real installations keep beside it.
const SCHEMA: &str = include_str!("schema.sql");

/// How a world differs from the usual one.
#[derive(Debug, Clone)]
pub struct Setup {
    pub on: On,
    pub postgres: PostgresOptions,
    pub redis: RedisOptions,
    /// Instead of the schema of CONTRACT section 2.
    pub schema: Option<String>,
    /// More TOML for the configuration.
    pub config: String,
    /// The tables that the oracle compares.
    pub tables: Vec<UserTable>,
}

impl Setup {
    pub fn on(on: On) -> Setup {
        Setup {
            on,
            postgres: PostgresOptions::default(),
            redis: RedisOptions::default(),
            schema: None,
            config: String::new(),
            tables: vec![UserTable::users()],
        }
    }
}

/// The parts end in this order.
#[derive(Debug)]
pub struct World {
    pub lockstep: Lockstep,
    pub store: Store,
    pub postgres: Postgres,
    pub tables: Vec<UserTable>,
    /// More TOML of every instance's configuration.
    config: String,
}

impl World {
    /// Servers and tables; `init` was not run.
    pub async fn set_up(setup: Setup) -> World {
        let (postgres, store) = tokio::join!(
            Postgres::start(setup.postgres.clone()),
            Store::start(setup.on, setup.redis.clone())
        );
        postgres.sql(setup.schema.as_deref().unwrap_or(SCHEMA)).await;
        let lockstep = Lockstep::new(&postgres.url(), &store.urls(), &setup.config);
        World { lockstep, store, postgres, tables: setup.tables, config: setup.config }
    }

    /// Initialised and streaming, without users.
    pub async fn running(on: On) -> World {
        World::running_as(Setup::on(on)).await
    }

    pub async fn running_as(setup: Setup) -> World {
        let world = World::set_up(setup).await;
        world.lockstep.init().await;
        world.lockstep.run().await;
        world
    }

    /// So many users `live:1`, `live:2`, ... of whom the first load has written the first.
    pub async fn loading(users: u32) -> World {
        World::loading_as(Setup::on(On::Single), users).await
    }

    pub async fn loading_as(setup: Setup, users: u32) -> World {
        let world = World::set_up(setup).await;
        let insert = "INSERT INTO users (id, user_type, wallet_balance) SELECT n, 'live', n";
        world.sql(&format!("{insert} FROM generate_series(1, {users}) n")).await;
        world.lockstep.init().await;
        world.lockstep.spawn(&["run"]);
        let first = async || world.store.exists("user_balance:live:1").await.then_some(());
        eventually("the load has begun", first).await;
        world
    }

    /// The same tables, empty, in a server that knows nothing of the one before; the same Redis.
    pub async fn moves_to_another_server(&mut self) {
        self.postgres = Postgres::start(PostgresOptions { unrelated: true, ..Default::default() }).await;
        self.sql(SCHEMA).await;
        self.lockstep = Lockstep::new(&self.postgres.url(), &self.store.urls(), &self.config);
    }

    /// Has the instance, not yet running, reach the database through a line that can be cut.
    pub async fn through_a_proxy(&mut self) -> Proxy {
        let (url, proxy) = self.line_to_database().await;
        self.lockstep = Lockstep::new(&url, &self.store.urls(), &self.config);
        proxy
    }

    /// Has the instance, not yet running, reach the only Redis through a line that can be cut.
    pub async fn redis_through_a_proxy(&mut self) -> Proxy {
        let (url, proxy) = self.line_to_redis().await;
        self.lockstep = Lockstep::new(&self.postgres.url(), &[url], &self.config);
        proxy
    }

    /// Has the instance, not yet running, reach the database and the only Redis through lines that can be cut.
    pub async fn through_two_proxies(&mut self) -> (Proxy, Proxy) {
        let (to_database, database) = self.line_to_database().await;
        let (to_redis, redis) = self.line_to_redis().await;
        self.lockstep = Lockstep::new(&to_database, &[to_redis], &self.config);
        (database, redis)
    }

    /// The address of the database by a line, and the line.
    pub async fn line_to_database(&self) -> (String, Proxy) {
        let proxy = Proxy::start(self.postgres.port()).await;
        let url = self.postgres.url().replace(&self.postgres.port().to_string(), &proxy.port().to_string());
        (url, proxy)
    }

    /// The address of the only Redis by a line, and the line.
    pub async fn line_to_redis(&self) -> (String, Proxy) {
        let proxy = Proxy::start(self.store.single().port()).await;
        (format!("redis://127.0.0.1:{}", proxy.port()), proxy)
    }

    /// Another instance with the same configuration, which waits for the slot.
    pub async fn standby(&self) -> Lockstep {
        self.standby_by(&self.store.urls()).await
    }

    /// The same by other ways to Redis.
    pub async fn standby_by(&self, redis: &[String]) -> Lockstep {
        let standby = Lockstep::new(&self.postgres.url(), redis, &self.config);
        standby.spawn(&["run"]);
        standby.is_not_ready_because("another instance holds the slot").await;
        standby
    }

    /// An instance of the same configuration that follows one of so many parts of the users.
    pub fn shard(&self, index: u32, of: u32) -> Lockstep {
        let shard = Lockstep::new(&self.postgres.url(), &self.store.urls(), &self.config);
        let shards = format!("[postgres]\nshards = {of}\n");
        shard.configure(&shard.configuration().replacen("[postgres]\n", &shards, 1));
        shard.with_environment("LOCKSTEP_SHARD", &index.to_string())
    }

    /// Drops the slot, as an administrator would against an instance that comes back at once.
    pub async fn drop_the_slot(&self) {
        let client = self.postgres.client().await;
        eventually("the slot is dropped", async || {
            let end = "SELECT pg_terminate_backend(active_pid, 1000) FROM pg_replication_slots WHERE active";
            client.batch_execute(end).await.ok()?;
            client.batch_execute("SELECT pg_drop_replication_slot('lockstep')").await.ok()
        })
        .await;
    }

    pub async fn sql(&self, statements: &str) {
        self.postgres.sql(statements).await;
    }

    /// Commits in a task of its own. It waits for a synchronous standby: the commit is in WAL and in the stream, and no
    /// snapshot sees it before [`World::release_commits`].
    pub async fn held_commit(&self, statements: &'static str) -> JoinHandle<()> {
        self.sql("ALTER SYSTEM SET synchronous_standby_names = 'a_standby_that_never_comes'").await;
        self.sql("SELECT pg_reload_conf()").await;
        self.postgres.eventually_value("SHOW synchronous_standby_names", "a_standby_that_never_comes").await;
        let writer = self.postgres.client().await;
        let held = tokio::spawn(async move {
            writer.batch_execute(statements).await.expect("the commit");
        });
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        self.postgres.eventually_value(waiting, "1").await;
        held
    }

    pub async fn release_commits(&self) {
        self.sql("ALTER SYSTEM RESET synchronous_standby_names").await;
        self.sql("SELECT pg_reload_conf()").await;
    }

    pub async fn subscriber(&self) -> Subscriber {
        Subscriber::start(self.store.any_node()).await
    }

    /// A new user row.
    pub async fn user(&self, user_type: &str, id: u32, balance: &str) {
        let columns =
            "id, user_type, email, password_hash, wallet_balance, leverage, \"group\", status, is_active";
        let email = format!("{user_type}{id}@example.com");
        let values = format!(
            "{id}, '{user_type}', '{email}', 'argon2-secret', {balance}, 100, 'standard', 'active', true"
        );
        self.sql(&format!("INSERT INTO users ({columns}) VALUES ({values})")).await;
    }

    /// An admin's deposit: balance and completed row in one transaction. Returns the row's `transaction_id`.
    pub async fn credit(&self, id: u32, amount: &str) -> String {
        self.movement(id, Movement { kind: "deposit", amount, admin: Some(9), reference: None }).await
    }

    /// An admin's withdrawal of a positive amount.
    pub async fn withdraw(&self, id: u32, amount: &str) -> String {
        let amount = &format!("-{amount}");
        self.movement(id, Movement { kind: "withdraw", amount, admin: Some(9), reference: None }).await
    }

    /// A request for money that is then approved by an admin.
    pub async fn approve_money_request(&self, id: u32, amount: &str) -> String {
        let request = "INSERT INTO money_requests (user_id, amount) VALUES ($U, $A) RETURNING id";
        let request = request.replace("$U", &id.to_string()).replace("$A", amount);
        let reference = self.postgres.value(&request).await.expect("the request's id");
        let approve = format!("UPDATE money_requests SET status = 'approved' WHERE id = {reference};");
        let movement = Movement { kind: "deposit", amount, admin: Some(9), reference: Some(&reference) };
        let (statements, transaction_id) = movement.statements(id);
        self.sql(&format!("BEGIN; {approve} {statements} COMMIT")).await;
        transaction_id
    }

    /// What the wallet service books itself: `profit`, `loss`, `swap`, `commission`.
    pub async fn book(&self, id: u32, kind: &str, amount: &str) -> String {
        self.movement(id, Movement { kind, amount, admin: None, reference: None }).await
    }

    async fn movement(&self, id: u32, movement: Movement<'_>) -> String {
        let (statements, transaction_id) = movement.statements(id);
        self.sql(&format!("BEGIN; {statements} COMMIT")).await;
        transaction_id
    }

    /// Waits until Lockstep has applied everything committed so far: what did not happen by then never will.
    pub async fn caught_up(&self) {
        self.caught_up_within(PATIENCE).await;
    }

    pub async fn caught_up_within(&self, patience: Duration) {
        self.caught_up_by(&self.lockstep, patience).await;
    }

    /// Waits until this instance has applied everything committed so far.
    pub async fn caught_up_by(&self, lockstep: &Lockstep, patience: Duration) {
        // `local`: the mark must not wait for a synchronous standby that a test has made up.
        let mark =
            "SET synchronous_commit = local; SELECT pg_logical_emit_message(true, 'lockstep-test', '')";
        let marked = lsn(&self.postgres.value(mark).await.expect("an LSN")).expect("an LSN");
        let applied = eventually_within(patience, async || {
            let applied = lockstep.metric("lockstep_applied_lsn").await;
            if applied >= marked as f64 { Ok(()) } else { Err(applied) }
        });
        applied.await.unwrap_or_else(|applied| panic!("applied {applied}, not yet {marked}"));
    }

    /// Everything that was published for what is committed so far: what is not in it never will be.
    pub async fn heard_all(&self, subscriber: &Subscriber) -> Vec<Heard> {
        self.caught_up().await;
        subscriber.heard_until_now(&self.store.masters().await).await
    }

    /// Everything in which Redis differs from the database now.
    pub async fn differences(&self) -> Vec<String> {
        differences(&self.postgres.client().await, &self.store, &self.tables).await
    }

    /// Waits until Redis equals the database, key by key.
    pub async fn eventually_equal(&self) {
        let differences = self.differences_at_last().await;
        assert!(differences.is_empty(), "{}", summary(&differences));
    }

    /// What is left of the differences after waiting for them to go.
    pub async fn differences_at_last(&self) -> Vec<String> {
        let equal = eventually_ok(async || {
            let differences = self.differences().await;
            if differences.is_empty() { Ok(()) } else { Err(differences) }
        });
        equal.await.err().unwrap_or_default()
    }

    /// Redis equals the database now.
    pub async fn assert_equal(&self) {
        let differences = self.differences().await;
        assert!(differences.is_empty(), "{}", summary(&differences));
    }

    /// `transaction_id` of every completed row.
    pub async fn completed(&self) -> Vec<String> {
        let query = "SELECT transaction_id FROM user_transactions WHERE status = 'completed'";
        self.postgres.rows(query).await.into_iter().flatten().flatten().collect()
    }
}

/// One movement of money.
#[derive(Debug, Clone, Copy)]
pub struct Movement<'a> {
    pub kind: &'a str,
    /// Negative for debits.
    pub amount: &'a str,
    pub admin: Option<u32>,
    pub reference: Option<&'a str>,
}

impl Movement<'_> {
    /// The platform's two statements, and the row's `transaction_id`.
    pub fn statements(&self, id: u32) -> (String, String) {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let transaction_id = format!("TXN{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let (kind, amount) = (self.kind, self.amount);
        let admin = self.admin.map_or("NULL".to_owned(), |admin| admin.to_string());
        let reference = self.reference.map_or("NULL".to_owned(), |reference| format!("'{reference}'"));
        let statements = format!(
            "UPDATE users SET wallet_balance = wallet_balance + ({amount}), updated_at = now() WHERE id = {id}; \
             INSERT INTO user_transactions (transaction_id, user_id, user_type, type, amount, balance_before, \
             balance_after, status, admin_id, reference_id, user_email, method_type, metadata) \
             SELECT '{transaction_id}', id, user_type, '{kind}', {amount}, wallet_balance - ({amount}), \
             wallet_balance, 'completed', {admin}, {reference}, email, 'bank', '{{\"ip\":\"10.0.0.1\"}}' \
             FROM users WHERE id = {id};"
        );
        (statements, transaction_id)
    }
}

/// An SQL string literal.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
