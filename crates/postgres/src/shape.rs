//! Whether the tables still are what was read: a move copies columns by name and place, so nobody may change them
//! under it.
//!
//! What is compared is everything that a copy, a change or a digest relies on: columns with their places and types,
//! what names a row in the stream, foreign keys, and whether a table came that nobody classified.

use std::collections::{BTreeMap, BTreeSet};

use model::fault::{Bug, planted};
use model::table::{HomeSchema, TableName};
use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;

use crate::error::{Doing, Result};
use crate::kept::{Asks, Keeping, Kept};
use crate::pgoutput::Relation;

/// The owned tables as they stand. Every foreign key has triggers at both its ends, and these an index by table.
const OWNED: &str = "
SELECT 'table', c.oid, c.relnatts::int4, n.nspname::text, c.relname::text,
       c.relreplident::text || coalesce((SELECT ' ' || i.indkey::text FROM pg_index AS i
           WHERE i.indrelid = c.oid AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END), ''),
       0::oid
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = ANY ($1)
UNION ALL
SELECT 'column', a.attrelid, a.attnum::int4, a.attname::text, format_type(a.atttypid, a.atttypmod),
       concat(CASE WHEN a.attnotnull THEN 'n' END, CASE WHEN a.attgenerated <> '' THEN 'g' END,
              CASE WHEN a.attidentity <> '' THEN 'i' END), a.atttypid
  FROM pg_attribute AS a WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT DISTINCT 'foreign key', t.tgrelid, 0, k.conname::text, '', '', 0::oid
  FROM pg_trigger AS t JOIN pg_constraint AS k ON k.oid = t.tgconstraint
 WHERE t.tgrelid = ANY ($1) AND k.contype = 'f' AND k.conparentid = 0";

/// All tables that could hold users' rows.
const ALL: &str = "
SELECT n.nspname::text, c.relname::text
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't' AND NOT c.relispartition
   AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', 'domicile')
   AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass
                      AND d.objid = c.oid AND d.deptype = 'e')";

/// The owned tables of one home database at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape(BTreeMap<u32, Table>);

/// The names of all tables of one home database at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables(BTreeSet<TableName>);

/// What changed first, in the order of the tables' object ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The table, under the name that it had.
    pub table: TableName,
    /// What happened to it, in words.
    pub what: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Table {
    name: TableName,
    /// Places ever given to columns: a column that came and went leaves its place.
    places: i32,
    /// The replica identity and the places of its columns.
    identity: String,
    columns: BTreeMap<i32, Column>,
    foreign_keys: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Column {
    name: String,
    sql_type: String,
    type_oid: u32,
    /// NOT NULL, generated, identity: a letter each.
    flags: String,
}

// === impl Shape ===

impl Shape {
    /// Looks at the owned tables of `home`. Inside a transaction that has read them nobody can change them any more.
    pub async fn read(
        session: &(impl GenericClient + Sync),
        kept: &Kept,
        home: &HomeSchema,
    ) -> Result<Self> {
        let oids: Vec<u32> = home.owned.iter().map(|table| table.oid).collect();
        let rows = Keeping::new(session, kept)
            .ask(OWNED, &[(&oids, Type::OID_ARRAY)])
            .await
            .doing("looking whether the tables are what they were")?;
        let mut tables = BTreeMap::new();
        let of = |kind: &'static str| rows.iter().filter(move |row| row.get::<_, &str>(0) == kind);
        for row in of("table") {
            let table = Table {
                name: TableName {
                    schema: row.get(3),
                    name: row.get(4),
                },
                places: row.get(2),
                identity: row.get(5),
                columns: BTreeMap::new(),
                foreign_keys: BTreeSet::new(),
            };
            tables.insert(row.get::<_, u32>(1), table);
        }
        for row in of("column") {
            if let Some(table) = tables.get_mut(&row.get(1)) {
                let column = Column {
                    name: row.get(3),
                    sql_type: row.get(4),
                    type_oid: row.get(6),
                    flags: row.get(5),
                };
                table.columns.insert(row.get(2), column);
            }
        }
        for row in of("foreign key") {
            if let Some(table) = tables.get_mut(&row.get(1)) {
                table.foreign_keys.insert(row.get(3));
            }
        }
        Ok(Self(tables))
    }

    /// What differs from `home`, which was read earlier.
    pub fn differs_from(&self, home: &HomeSchema) -> Option<Changed> {
        home.owned.iter().find_map(|table| {
            let changed = |what: &str| Changed {
                table: table.name.clone(),
                what: what.to_owned(),
            };
            let Some(now) = self.0.get(&table.oid).filter(|now| now.name == table.name) else {
                return Some(changed("it is gone"));
            };
            let before = table.columns.iter().map(|column| {
                let flags = [
                    (column.not_null, 'n'),
                    (column.generated, 'g'),
                    (column.identity, 'i'),
                ];
                let flags: String = flags.iter().filter(|(set, _)| *set).map(|f| f.1).collect();
                (column.name.as_str(), column.sql_type.as_str(), flags)
            });
            let now = now.columns.values();
            let now = now.map(|c| (c.name.as_str(), c.sql_type.as_str(), c.flags.clone()));
            (!before.eq(now)).then(|| changed("its columns are others"))
        })
    }

    /// What changed from here to `later`.
    pub fn changed(&self, later: &Self) -> Option<Changed> {
        if planted(Bug::SchemaUnwatched) {
            return None;
        }
        self.0.iter().find_map(|(oid, before)| {
            let what = match later.0.get(oid) {
                None => "it is gone".to_owned(),
                Some(after) => before.changed(after)?,
            };
            Some(Changed {
                table: before.name.clone(),
                what,
            })
        })
    }

    /// What differs between the tables as they were and the stream's word on one of them.
    pub fn contradicts(&self, relation: &Relation) -> Option<Changed> {
        let table = self.0.get(&relation.id)?;
        let streamed = relation.columns.iter();
        let streamed = streamed.map(|column| (column.name.as_str(), column.type_oid));
        let known = table.columns.values().filter(|c| !c.flags.contains('g'));
        let known = known.map(|column| (column.name.as_str(), column.type_oid));
        let same_name =
            (&relation.schema, &relation.name) == (&table.name.schema, &table.name.name);
        let same = (same_name && streamed.eq(known)) || planted(Bug::SchemaUnwatched);
        (!same).then(|| Changed {
            table: table.name.clone(),
            what: "the change stream describes it with other columns".to_owned(),
        })
    }
}

// === impl Tables ===

impl Tables {
    /// Looks which tables there are.
    pub async fn read(session: &(impl GenericClient + Sync), kept: &Kept) -> Result<Self> {
        let rows = Keeping::new(session, kept)
            .ask(ALL, &[])
            .await
            .doing("looking which tables there are")?;
        let name = |row: &tokio_postgres::Row| TableName {
            schema: row.get(0),
            name: row.get(1),
        };
        Ok(Self(rows.iter().map(name).collect()))
    }

    /// A table that `later` has and this has not.
    pub fn newcomer(&self, later: &Self) -> Option<Changed> {
        later.0.difference(&self.0).next().map(|name| Changed {
            table: name.clone(),
            what: "it is new, and nobody classified it".to_owned(),
        })
    }
}

// === impl Table ===

impl Table {
    fn changed(&self, after: &Self) -> Option<String> {
        if self == after {
            return None;
        }
        if self.name != after.name {
            return Some(format!("it is called {} now", after.name));
        }
        for (place, column) in &self.columns {
            let name = &column.name;
            match after.columns.get(place) {
                None => return Some(format!("column {name} is gone")),
                Some(now) if now.name != *name => {
                    return Some(format!("column {name} is called {} now", now.name));
                }
                Some(now)
                    if (&now.sql_type, now.type_oid) != (&column.sql_type, column.type_oid) =>
                {
                    let (was, is) = (&column.sql_type, &now.sql_type);
                    return Some(format!("column {name} was {was} and is {is} now"));
                }
                Some(now) if now.flags != column.flags => {
                    return Some(format!(
                        "column {name} has another NOT NULL, identity or generation"
                    ));
                }
                Some(_) => {}
            }
        }
        let new = after
            .columns
            .iter()
            .find(|(place, _)| !self.columns.contains_key(place));
        if let Some((_, column)) = new {
            return Some(format!("column {} is new", column.name));
        }
        if self.places != after.places {
            return Some("a column came and went".to_owned());
        }
        if self.identity != after.identity {
            return Some("another key or replica identity names its rows".to_owned());
        }
        let keys = self.foreign_keys.symmetric_difference(&after.foreign_keys);
        let keys: Vec<&str> = keys.map(String::as_str).collect();
        Some(format!("foreign key {} came or went", keys.join(", ")))
    }
}
