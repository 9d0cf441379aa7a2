//! The servers of one scenario, with users in the database and Lockstep installed, but not running.

use std::time::Duration;

use tokio_postgres::Client;

use super::Size;
use crate::cli::throwaway::cluster::{Layout, RedisSide};
use crate::cli::throwaway::lockstep::{Installed, Lockstep};
use crate::cli::throwaway::platform;
use crate::cli::throwaway::process::{Account, Folder, failed_at};
use crate::cli::throwaway::servers::{Postgres, redis_cli, sql};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::keyplan::KeyMap;
use crate::lsn::Lsn;

/// Longest time that anything that is measured may take.
pub const PATIENCE: Duration = Duration::from_secs(1800);
/// What is not Lockstep's default: a restart does not replay what the run before it left behind.
const CONFIG: &str = "replay_margin = \"0s\"\n";
/// Vacuum would come in between in one run, and not in the next.
const NO_VACUUM: &str = "ALTER TABLE users SET (autovacuum_enabled = off);
    ALTER TABLE user_transactions SET (autovacuum_enabled = off)";

/// Fields are dropped in their order: the servers first, the folder last.
pub struct World {
    /// Lockstep, with its slot.
    pub installed: Installed,
    /// What it is configured to.
    pub config: Config,
    /// Its key map.
    pub key_map: KeyMap,
    /// A connection to the database.
    pub client: Client,
    /// What is written to.
    pub redis: RedisSide,
    /// The database.
    pub postgres: Postgres,
    /// How much is measured.
    pub size: Size,
    /// Database transactions that were written.
    pub written: u64,
    /// Where everything is.
    pub folder: Folder,
}

impl World {
    /// Starts the servers, makes the users, and runs `lockstep init`.
    pub async fn build(size: Size, layout: Layout) -> Result<World> {
        let account = Account::for_servers();
        let folder = Folder::create("bench", account)?;
        let postgres = Postgres::start(folder.path(), account).await?;
        let client = postgres.connect().await?;
        platform::create(&client, size.users).await?;
        client.batch_execute(NO_VACUUM).await.map_err(sql)?;
        let redis = RedisSide::start(folder.path(), account, layout).await?;
        let installed = Installed::init(folder.path(), &postgres, &redis, CONFIG).await?;
        let text = std::fs::read_to_string(installed.config()).map_err(failed_at(installed.config()))?;
        // As the children have it: without the caller's environment.
        let understood = Config::read("lockstep.toml", &text, &|_| None, KeyMap::compile);
        let (config, key_map) = understood.map_err(|errors| {
            let all: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
            Error::definite(all.join("; "), "report this as a bug")
        })?;
        Ok(World { installed, config, key_map, client, redis, postgres, size, written: 0, folder })
    }

    /// The same, with every user in Redis.
    pub async fn loaded(size: Size, layout: Layout) -> Result<World> {
        let world = World::build(size, layout).await?;
        world.load(&world.installed).await?;
        Ok(world)
    }

    /// Has it load its users.
    pub async fn load(&self, installed: &Installed) -> Result<()> {
        let mut lockstep = installed.run()?;
        lockstep.is_ready(PATIENCE).await?;
        // Whoever is loaded has been published as finished: the next start loads nobody.
        let end = self.wal_end().await?;
        holds(&mut lockstep, end).await
    }

    /// The port of the only Redis.
    pub fn port(&self) -> u16 {
        self.redis.ports().next().unwrap_or_default()
    }

    /// Removes every key from it.
    pub fn empty_redis(&self) -> Result<()> {
        match redis_cli(self.port(), &["flushall"]).as_deref() {
            Some("OK") => Ok(()),
            _ => Err(Error::definite("redis cannot be emptied", "see that redis-cli is of the same version")),
        }
    }

    /// Where the WAL ends.
    pub async fn wal_end(&self) -> Result<Lsn> {
        let row =
            self.client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.map_err(sql)?;
        let text: String = row.try_get(0).map_err(sql)?;
        text.parse().map_err(|_| Error::definite(format!("{text:?} is no position"), "report this as a bug"))
    }
}

/// Waits until Redis holds a position.
pub async fn holds(lockstep: &mut Lockstep, lsn: Lsn) -> Result<()> {
    let waits = async {
        while !lockstep.holds(lsn).await? {}
        Ok(())
    };
    let waited = tokio::time::timeout(PATIENCE, waits).await;
    waited.unwrap_or_else(|_| {
        Err(Error::definite("lockstep does not come to the end of the backlog", "choose fewer --events"))
    })
}
