//! The operator's calls (CONTRACT section 5), after each operation.

use serde_json::Value;

use crate::harness::World;

/// What was found out.
#[derive(Debug, Default)]
pub struct Asked {
    /// Calls that were answered as they should be.
    pub good: usize,
    pub faults: Vec<String>,
    /// Users who were written again, each told by one event on both channels.
    pub refreshed: Vec<String>,
}

impl Asked {
    fn note(&mut self, what: &str, answer: Result<(), String>) {
        match answer {
            Ok(()) => self.good += 1,
            Err(fault) => self.faults.push(format!("{what}: {fault}")),
        }
    }
}

/// Asks everything: of each of `users` whether it is consistent, and to have the first of them written again.
pub async fn ask(world: &World, users: &[&str]) -> Asked {
    let mut asked = Asked::default();
    asked.note("status", status(world).await);
    asked.note("cluster-info", cluster_info(world).await);
    for user in users {
        asked.note(&format!("consistency of {user}"), consistency(world, user).await);
    }
    if let Some(user) = users.first() {
        match refresh(world, user).await {
            Ok(was_there) => {
                asked.good += 1;
                asked.refreshed.extend(was_there.then(|| (*user).to_owned()));
            }
            Err(fault) => asked.faults.push(format!("force-refresh of {user}: {fault}")),
        }
    }
    asked
}

/// The `data` of an answer with this status; its envelope is as it should be.
async fn call(world: &World, method: &str, path: &str) -> Result<(u16, Value), String> {
    let path = format!("/api/redis-health/{path}");
    let (status, body) = world.lockstep.http(method, &path).await.map_err(|error| error.to_string())?;
    let envelope: Value = serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))?;
    let sound = envelope["success"] == (status == 200) && envelope["message"].is_string();
    let data = envelope.get("data").filter(|_| sound).cloned();
    data.map(|data| (status, data)).ok_or_else(|| format!("{status} {envelope}"))
}

fn expect(is_so: bool, told: &Value) -> Result<(), String> {
    if is_so { Ok(()) } else { Err(told.to_string()) }
}

async fn status(world: &World) -> Result<(), String> {
    let (status, data) = call(world, "GET", "status").await?;
    let healthy = data["status"] == "healthy" && data["cache_operations"] == "working";
    expect(status == 200 && healthy && data["redis_connected"] == true, &data)
}

async fn cluster_info(world: &World) -> Result<(), String> {
    let (status, data) = call(world, "GET", "cluster-info").await?;
    let count = |value: &Value| value.as_u64().ok_or_else(|| data.to_string());
    let (configs, balances) = (count(&data["user_config_keys"])?, count(&data["balance_cache_keys"])?);
    let nodes = data["nodes"].as_array().ok_or_else(|| data.to_string())?;
    let mut keys = 0;
    for node in nodes {
        let sum = count(&node["user_configs"])? + count(&node["balance_caches"])?;
        expect(count(&node["keys"])? == sum && node["port"].is_u64() && node["host"].is_string(), node)?;
        keys += sum;
    }
    let masters = world.store.masters().await.len();
    let adds_up = count(&data["total_keys"])? == configs + balances && keys == configs + balances;
    expect(status == 200 && adds_up && nodes.len() == masters, &data)
}

/// The balance that the database has; `None`: there is no such user.
async fn balance(world: &World, user: &str) -> Option<String> {
    let (user_type, id) = user.split_once(':').expect("TYPE:ID");
    let query =
        format!("SELECT trim_scale(wallet_balance) FROM users WHERE id = {id} AND user_type = '{user_type}'");
    world.postgres.value(&query).await
}

fn path(user: &str, call: &str) -> String {
    let (user_type, id) = user.split_once(':').expect("TYPE:ID");
    format!("user/{id}/{call}?userType={user_type}")
}

async fn consistency(world: &World, user: &str) -> Result<(), String> {
    let (status, data) = call(world, "GET", &path(user, "consistency")).await?;
    let Some(balance) = balance(world, user).await else {
        return expect(status == 404, &data);
    };
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let sides = ["database", "redis_config", "redis_balance_cache"];
    let balances = sides.iter().all(|side| text(&data[side]["wallet_balance"]) == balance);
    let check = &data["consistency_check"];
    let agree = ["balance_matches", "cache_matches", "all_consistent"].iter().all(|name| check[name] == true);
    let named = user == format!("{}:{}", text(&data["user_type"]), text(&data["user_id"]));
    expect(status == 200 && data["is_consistent"] == true && balances && agree && named, &data)
}

/// Whether there was such a user.
async fn refresh(world: &World, user: &str) -> Result<bool, String> {
    let (status, data) = call(world, "POST", &path(user, "force-refresh")).await?;
    if balance(world, user).await.is_none() {
        return expect(status == 404, &data).map(|()| false);
    }
    let named = user == format!("{}:{}", data["user_type"].as_str().unwrap_or_default(), data["user_id"]);
    let fields = data["refreshed_fields"].as_array().cloned().unwrap_or_default();
    let wrote = ["wallet_balance", "balance"].iter().all(|name| fields.iter().any(|field| field == name));
    expect(status == 200 && named && wrote, &data).map(|()| true)
}
