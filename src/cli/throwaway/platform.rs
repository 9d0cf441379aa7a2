//! The platform's tables and users, secrets included.

use tokio_postgres::Client;

use super::servers::sql;
use crate::error::Result;

const SCHEMA: &str = include_str!("platform.sql");
/// What stands for the number of users in it.
const USERS: &str = ":users";

/// Makes the tables, and users with ids from 1.
pub async fn create(client: &Client, users: u32) -> Result<()> {
    client.batch_execute(&SCHEMA.replace(USERS, &users.to_string())).await.map_err(sql)
}
