//! Whether tables that nobody follows cost anything but the walsender.

use super::backlog::{OTHER_TABLES, Workload};
use super::report::Row;
use super::table::Progress;
use super::world::World;
use super::{Size, compared, drain};
use crate::cli::throwaway::cluster::Layout;
use crate::cli::throwaway::servers::sql;
use crate::error::Result;

/// A drain of a backlog in which a thousand other tables are written as often as balances change, against one in which
/// nothing else is.
pub async fn tables(size: Size, progress: &Progress) -> Result<Vec<Row>> {
    progress.step("starting servers, loading users");
    let mut world = World::loaded(size, Layout::Single).await?;
    let alone = drain::once(&mut world, Workload::Even, progress).await?;
    progress.step("creating other tables");
    let create = format!(
        "DO $$ BEGIN
             FOR n IN 0..{OTHER_TABLES} - 1 LOOP
                 EXECUTE format('CREATE TABLE other_%s (n bigint PRIMARY KEY, written timestamptz)', n);
             END LOOP;
         END $$"
    );
    world.client.batch_execute(&create).await.map_err(sql)?;
    let beside = drain::once(&mut world, Workload::BesideOtherTables, progress).await?;
    Ok(compared::rows(&beside, "no other table is written", &alone))
}
