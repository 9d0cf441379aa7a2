//! Reads both sides until they can be compared.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::compare::{Sheet, left_keys};
use super::report::{Account, BalanceCache, Check, Consistency, Fence, KeyState, State, UserCache};
use super::who::{Found, Row, find, tables};
use super::{BALANCE_CACHE, Inspector, Name, NoAnswer, USER_CACHE};
use crate::balance::{Kind, Reread, User};
use crate::health::progress::Waited;
use crate::lsn::Lsn;
use crate::sink::{Held, Seen, Wanted};
use crate::wire::Lease;

/// How long the stream may take to come to what was read before it is said to be in flight.
const PATIENCE: Duration = Duration::from_secs(1);
/// Shortest and longest pause between two looks.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));
/// Longest time for a whole answer, servers that are slow included.
const ANSWER: Duration = Duration::from_secs(10);

/// One look at both sides.
struct Look {
    row: Box<Row>,
    keys: Vec<KeyState>,
    /// What the caches of the default key map hold, where it has them.
    user_cache: Option<Seen>,
    balance_cache: Option<Seen>,
    fence: Option<Fence>,
}

impl Inspector {
    /// Compares one user, field by field.
    ///
    /// # Errors
    /// Why that cannot be done.
    pub async fn consistency(&self, name: &Name) -> Result<Consistency, NoAnswer> {
        let _turn = self.turn().await?;
        let looked = tokio::time::timeout(ANSWER, self.look_until_settled(name)).await;
        let look = looked.map_err(|_| late("the database or redis did not answer in time"))??;
        Ok(self.report(name, look))
    }

    async fn look_until_settled(&self, name: &Name) -> Result<Look, NoAnswer> {
        let mut reader = self.0.reader.clone();
        let config = Arc::clone(&reader.config);
        let mut lease = Lease::new(&config.postgres);
        let tables = tables(&reader, &mut lease, name).await?;
        let deadline = Instant::now() + PATIENCE;
        let mut pause = PAUSE.0;
        loop {
            let row = match find(&mut reader, &mut lease, &tables, (name, Kind::Reread(Reread::Heal))).await?
            {
                Found::Row(row) => row,
                Found::Nobody(user, read_before) => return Err(self.nobody(&user, read_before).await),
            };
            let passed = self.passes(row.rows.read_before, deadline).await;
            let look = self.look(name, row, passed).await?;
            if !look.keys.iter().any(|key| key.state == State::InFlight) || Instant::now() >= deadline {
                return Ok(look);
            }
            lease.while_waiting(tokio::time::sleep(pause)).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Whether the stream passes a position in time.
    async fn passes(&self, position: Lsn, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.0.reader.health.progress().wait(position, left).await;
        matches!(waited, Waited::Reached(_))
    }

    async fn look(&self, name: &Name, row: Box<Row>, passed: bool) -> Result<Look, NoAnswer> {
        let fields = || UserCache::fields().map(|field| Bytes::from_static(field.as_bytes())).collect();
        let caches = [
            self.default_key(USER_CACHE, name).map(|key| (key, Wanted::Fields(fields()))),
            self.default_key(BALANCE_CACHE, name).map(|key| (key, Wanted::Text)),
        ];
        let sheet = Sheet::new(&row, &self.0.timed);
        let mut wanted = sheet.wanted();
        let compared = wanted.len();
        wanted.extend(caches.iter().flatten().cloned());
        let mut seen = self.0.beside.look(&row.event.user, &wanted).await?;
        let mut rest = seen.split_off(compared).into_iter();
        let [user_cache, balance_cache] = caches.map(|cache| cache.and_then(|_| rest.next()));
        let keys = sheet.judge(&seen, passed);
        let fence = user_cache.as_ref().or(seen.first()).and_then(|seen| seen.fence.as_ref()).map(Fence::of);
        Ok(Look { row, keys, user_cache, balance_cache, fence })
    }

    /// What is said of a user whom no table holds: whether keys are left once the stream has passed.
    pub(super) async fn nobody(&self, user: &User, read_before: Lsn) -> NoAnswer {
        self.passes(read_before, Instant::now() + PATIENCE).await;
        let wanted = left_keys(&self.0.reader.key_map.plan_absent(user));
        match self.0.beside.look(user, &wanted).await {
            Ok(seen) => {
                NoAnswer::Nobody { keys: seen.iter().filter(|seen| seen.held != Held::Absent).count() }
            }
            Err(error) => error.into(),
        }
    }

    fn report(&self, name: &Name, look: Look) -> Consistency {
        let Look { row, keys, user_cache, balance_cache, fence } = look;
        let database = Account::of(&row.event);
        let in_flight = keys.iter().any(|key| key.state == State::InFlight);
        let is_consistent = keys.iter().all(KeyState::is_sound);
        let differences = keys.iter().flat_map(KeyState::differences).collect();
        let redis_config = user_cache.and_then(|seen| UserCache::of(&seen, &database));
        let redis_balance_cache = balance_cache.and_then(|seen| BalanceCache::of(&seen, &database));
        let balance = &database.wallet_balance;
        let consistency_check = Check {
            balance_matches: redis_config
                .as_ref()
                .map_or(is_consistent, |config| config.account.wallet_balance == *balance),
            cache_matches: redis_balance_cache.as_ref().is_none_or(|cache| cache.wallet_balance == *balance),
            all_consistent: is_consistent,
        };
        Consistency {
            user_id: name.id().to_owned(),
            user_type: name.user_type().to_owned(),
            is_consistent,
            database,
            redis_config,
            redis_balance_cache,
            consistency_check,
            in_flight,
            differences,
            keys,
            fence,
            database_lsn: row.rows.read_before.to_string(),
        }
    }
}

pub(super) fn late(fact: &str) -> NoAnswer {
    let (fact, cure) = (fact.to_owned(), "look at /readyz, and ask again".to_owned());
    NoAnswer::Late(crate::error::Fault { fact, cure })
}
