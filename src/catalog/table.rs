//! A table: its columns, its indexes, its replica identity.

use tokio_postgres::Client;

use super::query_error;
use crate::error::Result;

/// A table as `pg_class`, `pg_attribute` and `pg_index` have it.
#[derive(Debug, Clone)]
pub struct Table {
    /// Its oid.
    pub oid: u32,
    /// `relkind`: `r` ordinary, `p` partitioned.
    pub kind: char,
    /// How old rows are identified in WAL.
    pub identity: Identity,
    /// Columns in their order.
    pub columns: Vec<Column>,
    /// Indexes, invalid ones too.
    pub indexes: Vec<Index>,
    /// The partitions that hold rows; each has a replica identity of its own.
    pub partitions: Vec<Partition>,
    /// The column lists under which publications have it, anybody's.
    pub lists: Vec<ColumnList>,
    /// Names of the publications that name it.
    pub publications: Vec<String>,
}

/// The columns of a table that a publication has; without one of the replica identity, updates fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnList {
    /// Name of the publication.
    pub publication: String,
    /// Listed columns.
    pub columns: Vec<String>,
}

/// A partition that holds rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its name, quoted and qualified where needed.
    pub name: String,
    /// Columns of its replica identity; empty for NOTHING and for FULL, which excludes a column list.
    pub identity_columns: Vec<String>,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type without modifier; of a domain, the type below it and below any domain between.
    pub type_name: String,
    /// Whether the type is an enum.
    pub is_enum: bool,
    /// Whether it is of a domain over that type.
    pub is_domain: bool,
    /// Whether NULL is excluded.
    pub not_null: bool,
    /// Whether it is generated: such columns are not replicated.
    pub generated: bool,
    /// Whether the connected role may read it.
    pub readable: bool,
}

/// `relreplident`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// The primary key.
    Default,
    /// Nothing.
    Nothing,
    /// The whole row.
    Full,
    /// The index with `indisreplident`.
    Index,
}

/// An index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Its name.
    pub name: String,
    /// Key columns; empty for an index on expressions.
    pub columns: Vec<String>,
    /// Whether it is the primary key.
    pub primary: bool,
    /// Whether it is unique over all rows: not partial, not deferrable, not on expressions.
    pub unique: bool,
    /// Whether it is complete; `CREATE INDEX CONCURRENTLY` leaves invalid ones when it fails.
    pub valid: bool,
    /// Whether it is the replica identity.
    pub is_identity: bool,
}

impl Table {
    /// Reads a table; `None` when there is none of that name.
    pub async fn read(client: &Client, schema: &str, name: &str) -> Result<Option<Table>> {
        const SQL: &str = "
            SELECT c.oid, c.relkind::text, c.relreplident::text
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = $1 AND c.relname = $2";
        let failed = |e| query_error(&format!("reading the table {schema}.{name}"), &e);
        let Some(row) = client.query_opt(SQL, &[&schema, &name]).await.map_err(failed)? else {
            return Ok(None);
        };
        let (oid, kind, identity): (u32, String, String) = (row.get(0), row.get(1), row.get(2));
        let identity = match identity.as_str() {
            "d" => Identity::Default,
            "f" => Identity::Full,
            "i" => Identity::Index,
            _ => Identity::Nothing,
        };
        let columns = columns(client, oid).await.map_err(failed)?;
        let indexes = indexes(client, oid).await.map_err(failed)?;
        let partitions = partitions(client, oid).await.map_err(failed)?;
        let lists = lists(client, oid).await.map_err(failed)?;
        let kind = kind.chars().next().unwrap_or(' ');
        let publications = publications(client, oid).await.map_err(failed)?;
        Ok(Some(Table { oid, kind, identity, columns, indexes, partitions, lists, publications }))
    }

    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Names of the columns that can be replicated.
    pub fn replicated(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().filter(|column| !column.generated).map(|column| column.name.as_str())
    }

    /// The first partition whose old rows WAL does not name by all of these columns.
    pub fn unidentified(&self, wanted: &[&str]) -> Option<&Partition> {
        let named =
            |partition: &Partition, column: &str| partition.identity_columns.iter().any(|c| c == column);
        self.partitions.iter().find(|partition| {
            partition.identity_columns.is_empty() || !wanted.iter().all(|column| named(partition, column))
        })
    }

    /// The first column list that leaves one of these columns out.
    pub fn narrower_list(&self, wanted: &[&str]) -> Option<&ColumnList> {
        let listed = |list: &ColumnList, column: &str| list.columns.iter().any(|c| c == column);
        self.lists.iter().find(|list| !wanted.iter().all(|column| listed(list, column)))
    }

    /// The columns by which WAL names an old row; empty: none, and UPDATE fails once published.
    pub fn identity_columns(&self) -> Vec<&str> {
        let of = |wanted: fn(&Index) -> bool| {
            let index = self.indexes.iter().find(|index| wanted(index) && index.valid);
            index.map_or(Vec::new(), |index| index.columns.iter().map(String::as_str).collect())
        };
        match self.identity {
            Identity::Default => of(|index| index.primary),
            Identity::Index => of(|index| index.is_identity),
            Identity::Full => self.columns.iter().map(|column| column.name.as_str()).collect(),
            Identity::Nothing => Vec::new(),
        }
    }
}

async fn partitions(client: &Client, oid: u32) -> Result<Vec<Partition>, tokio_postgres::Error> {
    const SQL: &str = "
        SELECT t.relid::regclass::text,
               ARRAY(SELECT a.attname::text
                     FROM pg_index x
                     JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = ANY (x.indkey)
                     WHERE x.indrelid = t.relid AND x.indisvalid
                       AND CASE c.relreplident WHEN 'd' THEN x.indisprimary WHEN 'i' THEN x.indisreplident END)
        FROM pg_partition_tree($1::oid::regclass) t JOIN pg_class c ON c.oid = t.relid
        WHERE t.isleaf AND t.level > 0
        ORDER BY 1";
    let rows = client.query(SQL, &[&oid]).await?;
    Ok(rows.iter().map(|row| Partition { name: row.get(0), identity_columns: row.get(1) }).collect())
}

async fn lists(client: &Client, oid: u32) -> Result<Vec<ColumnList>, tokio_postgres::Error> {
    // The row as JSON has prattrs (15+) where it exists.
    const SQL: &str = "
        SELECT p.pubname::text,
               ARRAY(SELECT a.attname::text FROM pg_attribute a
                     WHERE a.attrelid = r.prrelid
                       AND a.attnum::text = ANY (string_to_array(r.prattrs::text, ' ')))
        FROM (SELECT prpubid, prrelid, translate(to_jsonb(pr)->>'prattrs', '[],', '') AS prattrs
              FROM pg_publication_rel pr) r
        JOIN pg_publication p ON p.oid = r.prpubid
        WHERE r.prrelid = $1 AND r.prattrs IS NOT NULL
        ORDER BY 1";
    let rows = client.query(SQL, &[&oid]).await?;
    Ok(rows.iter().map(|row| ColumnList { publication: row.get(0), columns: row.get(1) }).collect())
}

async fn publications(client: &Client, oid: u32) -> Result<Vec<String>, tokio_postgres::Error> {
    const SQL: &str = "
        SELECT p.pubname::text FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
        WHERE r.prrelid = $1 ORDER BY 1";
    Ok(client.query(SQL, &[&oid]).await?.iter().map(|row| row.get(0)).collect())
}

async fn columns(client: &Client, oid: u32) -> Result<Vec<Column>, tokio_postgres::Error> {
    const SQL: &str = "
        SELECT a.attname::text, format_type(b.oid, NULL), b.typtype = 'e', a.attnotnull,
               a.attgenerated <> '', has_column_privilege(a.attrelid, a.attnum, 'SELECT'), b.oid <> a.atttypid
        FROM pg_attribute a
        CROSS JOIN LATERAL (
            WITH RECURSIVE below AS (
                SELECT t.oid, t.typtype, t.typbasetype FROM pg_type t WHERE t.oid = a.atttypid
                UNION ALL
                SELECT t.oid, t.typtype, t.typbasetype FROM pg_type t JOIN below ON t.oid = below.typbasetype)
            SELECT oid, typtype FROM below WHERE typtype <> 'd') b
        WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY a.attnum";
    let rows = client.query(SQL, &[&oid]).await?;
    Ok(rows
        .iter()
        .map(|row| Column {
            name: row.get(0),
            type_name: row.get(1),
            is_enum: row.get(2),
            not_null: row.get(3),
            generated: row.get(4),
            readable: row.get(5),
            is_domain: row.get(6),
        })
        .collect())
}

async fn indexes(client: &Client, oid: u32) -> Result<Vec<Index>, tokio_postgres::Error> {
    const SQL: &str = "
        SELECT i.relname::text,
               ARRAY(SELECT a.attname::text
                     FROM unnest((x.indkey::int2[])[0:x.indnkeyatts - 1]) WITH ORDINALITY k (num, place)
                     JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.num
                     ORDER BY k.place),
               x.indisprimary,
               x.indisunique AND x.indimmediate AND x.indpred IS NULL AND x.indexprs IS NULL,
               x.indisvalid, x.indisreplident
        FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
        WHERE x.indrelid = $1
        ORDER BY i.relname";
    let rows = client.query(SQL, &[&oid]).await?;
    Ok(rows
        .iter()
        .map(|row| Index {
            name: row.get(0),
            columns: row.get(1),
            primary: row.get(2),
            unique: row.get(3),
            valid: row.get(4),
            is_identity: row.get(5),
        })
        .collect())
}
