//! `[[tables]]` of the file -> [`TableSpec`]s.

use super::Shard;
use super::mistake::Mistakes;
use super::section::{Found, Section};
use super::tables::{MAX_NAME_BYTES, TableKind, TableSpec, UserType, is_sound_type, parse_table_name};

/// Reads every table, then what only all of them together can get wrong.
pub(super) fn read(sections: Vec<Found<Section<'_>>>, mistakes: &Mistakes) -> Vec<TableSpec> {
    let mut tables: Vec<TableSpec> = Vec::new();
    let nothing = sections.is_empty();
    let count = sections.len();
    for Found { value: mut section, place } in sections {
        let table = read_one(&mut section, &place, mistakes);
        section.finish();
        if let Some(table) = table {
            clashes(&table, &tables, &place, mistakes);
            tables.push(table);
        }
    }
    let complete = tables.len() == count;
    if !nothing && complete && !tables.iter().any(TableSpec::is_users) {
        mistakes.add(
            "",
            "no table of kind \"users\" is configured",
            "add a [[tables]] with kind = \"users\"",
        );
    }
    tables
}

fn read_one(section: &mut Section<'_>, place: &str, mistakes: &Mistakes) -> Option<TableSpec> {
    let name = match section.text("name") {
        Some(found) => {
            let parsed = parse_table_name(&found.value);
            if parsed.is_none() {
                let fact = format!("name {:?} is not the name of a table", found.value);
                mistakes.add(&found.place, fact, "write schema.table; quote parts that are not lower case");
            }
            parsed
        }
        None if section.has("name") => None,
        None => {
            mistakes.add(place, "the table has no name", "add name = \"public.users\" for example");
            None
        }
    };
    let kind = read_kind(section, place, mistakes);
    let user_type = read_user_type(section, kind.as_ref(), place, mistakes);
    let columns = section.texts("columns", false).map(|found| found.value);
    let (schema, name) = name?;
    Some(TableSpec { schema, name, kind: kind?, user_type: user_type?, columns, shard: Shard::WHOLE })
}

fn read_kind(section: &mut Section<'_>, place: &str, mistakes: &Mistakes) -> Option<TableKind> {
    const CURE: &str = "write kind = \"users\" or kind = \"transactions\"";
    let found = section.text("kind");
    let mut column = |key: &'static str, default: &str| {
        section.text(key).map_or_else(|| default.to_owned(), |found| found.value)
    };
    match found.as_ref().map(|found| found.value.as_str()) {
        Some("users") => Some(TableKind::Users {
            id_column: column("id_column", "id"),
            balance_column: column("balance_column", "wallet_balance"),
        }),
        Some("transactions") => {
            Some(TableKind::Transactions { user_id_column: column("user_id_column", "user_id") })
        }
        other => {
            // Asked for, so that they are not unknown as well.
            for key in ["id_column", "balance_column", "user_id_column"] {
                section.raw(key);
            }
            match (other, found.as_ref()) {
                (Some(kind), Some(found)) => {
                    mistakes.add(&found.place, format!("kind {kind:?} is not known"), CURE);
                }
                _ if section.has("kind") => {}
                _ => mistakes.add(place, "the table has no kind", CURE),
            }
            None
        }
    }
}

fn read_user_type(
    section: &mut Section<'_>,
    kind: Option<&TableKind>,
    place: &str,
    mistakes: &Mistakes,
) -> Option<UserType> {
    let wrong_type = section.has("user_type") || section.has("user_type_column");
    match (section.text("user_type"), section.text("user_type_column")) {
        (Some(constant), Some(_)) => {
            let fact = "user_type and user_type_column are both given";
            mistakes.add(&constant.place, fact, "keep the constant user_type, or the column, not both");
            None
        }
        (Some(constant), None) if !is_sound_type(&constant.value) => {
            let fact =
                format!("user_type {:?} makes keys that collide or lose their hash tag", constant.value);
            let cure = format!(
                "use a type of 1 to {MAX_NAME_BYTES} bytes that has no {{, }}, : or control characters"
            );
            mistakes.add(&constant.place, fact, cure);
            None
        }
        (Some(constant), None) => Some(UserType::Constant(constant.value)),
        (None, Some(column)) => Some(UserType::Column(column.value)),
        (None, None) if wrong_type => None,
        (None, None) => match kind {
            Some(TableKind::Users { .. }) => {
                let fact = "the table of users does not say their user type";
                let cure = "add user_type = \"live\" for example, or user_type_column = \"user_type\"";
                mistakes.add(place, fact, cure);
                None
            }
            _ => Some(UserType::Column("user_type".into())),
        },
    }
}

fn clashes(table: &TableSpec, earlier: &[TableSpec], place: &str, mistakes: &Mistakes) {
    for other in earlier {
        if (&other.schema, &other.name) == (&table.schema, &table.name) {
            mistakes.add(place, format!("the table {table} is configured twice"), "remove one of the two");
            return;
        }
        match (other.is_users(), table.is_users()) {
            (true, true) if matches!(table.user_type, UserType::Constant(_)) => {
                if let (UserType::Constant(constant), true) =
                    (&table.user_type, other.user_type == table.user_type)
                {
                    let fact = format!("{other} and {table} both have users of type {constant:?}");
                    mistakes.add(place, fact, "give each table of users a type of its own");
                }
            }
            (false, false) => {
                let fact = format!("{other} and {table} are both tables of transactions");
                mistakes.add(place, fact, "keep one: all user types share it");
            }
            _ => {}
        }
    }
}
