//! The least-privilege role.

use tokio_postgres::Client;

use super::identity::qualified;
use super::quote::{ident, idents, literal};
use super::{Statement, Step, Todo};
use crate::catalog::{Catalog, query_error};
use crate::config::{Config, Secret};
use crate::error::Result;

/// A role that `init` is asked to create.
#[derive(Debug, Clone)]
pub struct NewRole {
    /// Its name.
    pub name: String,
    /// Its password; `None` where it logs in otherwise (peer, certificate).
    pub password: Option<Secret>,
}

/// What is left to do: the role, then its grants.
pub(super) async fn plan(
    client: &Client,
    catalog: &Catalog,
    config: &Config,
    role: &NewRole,
) -> Result<Vec<Step>> {
    const SQL: &str = "SELECT rolcanlogin AND (rolreplication OR rolsuper) FROM pg_roles WHERE rolname = $1";
    let failed = |e| query_error(&format!("reading the role {:?}", role.name), &e);
    let found = client.query_opt(SQL, &[&role.name]).await.map_err(failed)?;
    let complete: Option<bool> = found.map(|row| row.get(0));
    let what = format!("role {}", role.name);
    let quoted = ident(&role.name);
    let mut steps = vec![match complete {
        Some(true) => Step::nothing(what),
        Some(false) => {
            let sql = include_str!("../../sql/role_replication.sql");
            Step { what, todo: Todo::Change(vec![Statement::brief(sql, &[("role", &quoted)])]) }
        }
        None => Step { what, todo: Todo::Create(vec![create(&quoted, role)]) },
    }];
    for (spec, table) in config.tables.iter().zip(&catalog.tables) {
        let Some(table) = table else { continue };
        let columns = spec.followed(table.columns.iter().map(|column| column.name.as_str()));
        let granted = match complete {
            Some(_) => holds(client, &role.name, table.oid, &columns).await.map_err(failed)?,
            None => false,
        };
        let what = format!("SELECT on {spec} for {}", role.name);
        if granted {
            steps.push(Step::nothing(what));
            continue;
        }
        let (schema, target) = (ident(&spec.schema), qualified(&spec.schema, &spec.name));
        let columns = idents(columns);
        let values =
            [("role", quoted.as_str()), ("schema", &schema), ("table", &target), ("columns", &columns)];
        let todo = Todo::Create(vec![Statement::brief(include_str!("../../sql/grant.sql"), &values)]);
        steps.push(Step { what, todo });
    }
    Ok(steps)
}

/// The server is sent a SCRAM verifier and not the password, which its log might keep.
fn create(quoted: &str, role: &NewRole) -> Statement {
    let sql = include_str!("../../sql/role.sql");
    let Some(password) = &role.password else {
        return Statement::brief(sql, &[("role", quoted), ("password", "NULL")]);
    };
    let verifier = literal(&postgres_protocol::password::scram_sha_256(password.expose().as_bytes()));
    let mut statement = Statement::brief(sql, &[("role", quoted), ("password", &verifier)]);
    statement.shown = Some(super::fill(sql, &[("role", quoted), ("password", "'***'")]));
    statement
}

/// Whether the role may read all of these columns already.
async fn holds(
    client: &Client,
    role: &str,
    oid: u32,
    columns: &[&str],
) -> Result<bool, tokio_postgres::Error> {
    const SQL: &str = "
        SELECT coalesce(bool_and(has_column_privilege($1::text::name, $2::oid, a, 'SELECT')), true)
               AND has_schema_privilege($1::text::name, (SELECT relnamespace FROM pg_class WHERE oid = $2), 'USAGE')
        FROM unnest($3::text[]) a";
    Ok(client.query_one(SQL, &[&role, &oid, &columns]).await?.get(0))
}
