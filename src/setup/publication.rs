//! The publication: the followed columns and the replica identity's, nothing else.

use super::identity::qualified;
use super::quote::{ident, idents};
use super::{Statement, Step, Todo};
use crate::catalog::{Catalog, Publication};
use crate::config::{Config, TableSpec};
use crate::error::{Error, Result};

/// One table as it is to be published; `columns` is `None` where there can be no list, `filter` where all rows are.
pub(super) struct Wanted<'a> {
    pub spec: &'a TableSpec,
    pub columns: Option<Vec<&'a str>>,
    pub filter: Option<String>,
}

/// What is left to do.
pub(super) fn plan(catalog: &Catalog, config: &Config, wanted: &[Wanted<'_>]) -> Result<Step> {
    let name = &config.postgres.publication;
    let what = format!("publication {name}");
    let tables: Vec<_> = wanted.iter().map(clause).collect();
    let (quoted, tables) = (ident(name), tables.join(",\n    "));
    let values = [("publication", quoted.as_str()), ("tables", tables.as_str())];
    let todo = match &catalog.publication {
        None => Todo::Create(vec![Statement::brief(include_str!("../../sql/publication.sql"), &values)]),
        Some(publication) if publication.all_tables => {
            return Err(Error::definite(
                format!("publication {name:?} is FOR ALL TABLES, so it cannot leave columns out"),
                "choose another name under postgres.publication, then run \"lockstep init\" again",
            ));
        }
        Some(publication) if is_as_wanted(publication, wanted) => Todo::Nothing,
        Some(_) => {
            Todo::Change(vec![Statement::brief(include_str!("../../sql/publication_change.sql"), &values)])
        }
    };
    Ok(Step { what, todo })
}

fn clause(table: &Wanted<'_>) -> String {
    let name = qualified(&table.spec.schema, &table.spec.name);
    let columns = table.columns.as_ref().map(|columns| format!(" ({})", idents(columns.iter().copied())));
    let filter = table.filter.as_ref().map(|filter| format!(" WHERE ({filter})"));
    name + &columns.unwrap_or_default() + &filter.unwrap_or_default()
}

fn is_as_wanted(publication: &Publication, wanted: &[Wanted<'_>]) -> bool {
    let same_columns = |published: Option<&Vec<String>>, wanted: Option<&Vec<&str>>| match (published, wanted)
    {
        (Some(published), Some(wanted)) => {
            published.len() == wanted.len()
                && published.iter().all(|column| wanted.contains(&column.as_str()))
        }
        _ => true,
    };
    publication.all_operations
        && publication.via_root
        && publication.tables.len() == wanted.len()
        && wanted.iter().all(|table| {
            publication.table(&table.spec.schema, &table.spec.name).is_some_and(|published| {
                published.has_filter(table.filter.as_deref())
                    && same_columns(published.columns.as_ref(), table.columns.as_ref())
            })
        })
}
