//! The demo's platform and oracle on real servers, without Lockstep: what Lockstep would write is written by
//! hand, so that the comparison itself is judged.

use std::collections::{BTreeMap, HashMap};

use fred::interfaces::{HashesInterface, KeysInterface};
use tokio_postgres::Client;

use super::compare::{Comparison, reference};
use super::platform::User;
use super::*;

struct Platform {
    redis: RedisSide,
    postgres: Postgres,
    _folder: Folder,
}

async fn platform() -> Platform {
    let account = Account::for_servers();
    let folder = Folder::create("demo", account).unwrap();
    let postgres = Postgres::start(folder.path(), account).await.unwrap();
    let redis = RedisSide::start(folder.path(), account, Layout::Single).await.unwrap();
    throwaway::platform::create(&postgres.connect().await.unwrap(), USERS.unsigned_abs()).await.unwrap();
    platform::leave_old_keys(&redis.client().await.unwrap()).await.unwrap();
    Platform { redis, postgres, _folder: folder }
}

async fn work(postgres: &Postgres) -> workload::Done {
    const ENOUGH_FOR_EVERY_KIND: u64 = 300;
    let workload = Workload::start(postgres).await.unwrap();
    while workload.progress.committed.load(Ordering::Relaxed) < ENOUGH_FOR_EVERY_KIND {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    workload.stop().await.unwrap()
}

/// Does by hand what Lockstep promises.
async fn copy(database: &Client, client: &fred::clients::Client, touched: &HashSet<i32>) {
    let rows = reference(database).await.unwrap();
    for user in User::all() {
        let row = rows[&user.id].clone();
        let (balance, time) = (row["wallet_balance"].clone(), row["last_updated"].clone());
        let expires = Some(fred::types::Expiration::EX(3600));
        client.set::<(), _, _>(user.balance(), balance.as_str(), expires, None, false).await.unwrap();
        client.hset::<(), _, _>(user.config(), row).await.unwrap();
        if user.has_portfolio() {
            let changed = BTreeMap::from([("wallet_balance", balance), ("balance_updated_at", time)]);
            client.hset::<(), _, _>(user.portfolio(), changed).await.unwrap();
        }
        if touched.contains(&user.id) {
            client.del::<(), _>(user.derived().to_vec()).await.unwrap();
        }
    }
}

fn places(comparison: &Comparison) -> Vec<&str> {
    comparison.differences.iter().map(|difference| difference.place.as_str()).collect()
}

#[tokio::test]
async fn the_oracle_agrees_with_a_true_copy_and_finds_a_planted_difference() {
    let platform = platform().await;
    let (postgres, redis) = (&platform.postgres, &platform.redis);
    let done = work(postgres).await;
    assert_eq!(done.kinds.len(), 10, "{:?}", done.kinds);
    let touched: HashSet<i32> = done.commits.iter().map(|commit| commit.user).collect();

    let (database, client) = (postgres.connect().await.unwrap(), redis.client().await.unwrap());
    let stale = compare(&database, &client, &touched).await.unwrap();
    assert!(stale.differences.len() > stale.users, "stale keys are seen");

    copy(&database, &client, &touched).await;
    let equal = compare(&database, &client, &touched).await.unwrap();
    assert_eq!((equal.users, places(&equal)), (10_000, vec![]));

    client.hset::<(), _, _>("user:{live:4711}:config", ("balance", "0.000001")).await.unwrap();
    client.persist::<(), _>("user_balance:demo:4712").await.unwrap();
    let planted = compare(&database, &client, &touched).await.unwrap();
    assert_eq!(
        places(&planted),
        ["user:{live:4711}:config balance", "user_balance:demo:4712 (seconds to live)"]
    );
}

#[tokio::test]
async fn the_writers_remember_what_the_database_holds() {
    let platform = platform().await;
    let done = work(&platform.postgres).await;
    let database = platform.postgres.connect().await.unwrap();
    let rows = reference(&database).await.unwrap();
    // The last commit of a user is the one whose transaction wrote its row.
    let written = "SELECT id, xmin::text FROM users WHERE xmin::text <> (SELECT min(xmin::text::bigint)::text FROM users)";
    let written = database.query(written, &[]).await.unwrap();
    let commits: HashMap<(i32, u64), _> = done.commits.iter().map(|c| ((c.user, c.xid), c.balance)).collect();
    assert!(!written.is_empty());
    for row in written {
        let (user, xid): (i32, String) = (row.get(0), row.get(1));
        let balance = amount::Micros::parse(&rows[&user]["wallet_balance"]);
        assert_eq!(commits.get(&(user, xid.parse().unwrap())).copied(), balance, "user {user}");
    }
}
