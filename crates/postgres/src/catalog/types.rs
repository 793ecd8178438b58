//! Types: what lies under a domain, what an enum means, and whether the binary form travels.

use std::collections::HashMap;

use tokio_postgres::Client;

use super::ReadError;

/// Below this PostgreSQL gives out object ids by hand: they mean the same in every database.
const FIRST_UNPINNED_OID: u32 = 10_000;

/// Types whose binary form is an object id, or a structure that names one.
const OBJECT_IDS: &[&str] = &[
    "regproc",
    "regprocedure",
    "regoper",
    "regoperator",
    "regclass",
    "regcollation",
    "regtype",
    "regrole",
    "regnamespace",
    "regconfig",
    "regdictionary",
    "regdatabase",
];

/// Types with a value, the empty one, whose binary form PostgreSQL writes and does not read.
const UNREADABLE: &[&str] = &["tsquery", "int2vector", "oidvector"];

/// All types that the columns of some tables are made of.
pub(super) struct Types(HashMap<u32, Type>);

struct Type {
    name: String,
    kind: String,
    array: bool,
    element: u32,
    base: u32,
    subtype: u32,
    sends: bool,
    definition: Option<String>,
}

const QUERY: &str = "
WITH RECURSIVE used(oid) AS (
    SELECT DISTINCT atttypid FROM pg_attribute
     WHERE attrelid = ANY($1) AND attnum > 0 AND NOT attisdropped
  UNION
    SELECT part.oid FROM used
      JOIN pg_type t ON t.oid = used.oid
      LEFT JOIN pg_range r ON r.rngtypid = t.oid OR r.rngmultitypid = t.oid
     CROSS JOIN LATERAL (VALUES (t.typelem), (t.typbasetype), (r.rngsubtype)) part(oid)
     WHERE part.oid <> 0
)
SELECT t.oid, format_type(t.oid, NULL), t.typtype::text,
       t.typelem <> 0 AND t.typlen = -1 AND t.typcategory = 'A', t.typelem, t.typbasetype,
       coalesce((SELECT max(r.rngsubtype::int8) FROM pg_range r
                  WHERE r.rngtypid = t.oid OR r.rngmultitypid = t.oid), 0)::oid,
       t.typsend <> 0 AND t.typreceive <> 0,
       CASE t.typtype
         WHEN 'e' THEN (SELECT string_agg(quote_literal(enumlabel), ',' ORDER BY enumsortorder)
                          FROM pg_enum WHERE enumtypid = t.oid)
         WHEN 'd' THEN format_type(t.typbasetype, t.typtypmod)
                       || CASE WHEN t.typnotnull THEN ' NOT NULL' ELSE '' END
                       || coalesce((SELECT string_agg(' ' || pg_get_constraintdef(oid), ''
                                                      ORDER BY pg_get_constraintdef(oid))
                                      FROM pg_constraint
                                     WHERE contypid = t.oid AND contype = 'c'), '')
         WHEN 'c' THEN (SELECT string_agg(quote_ident(attname) || ' '
                                          || format_type(atttypid, atttypmod), ',' ORDER BY attnum)
                          FROM pg_attribute
                         WHERE attrelid = t.typrelid AND attnum > 0 AND NOT attisdropped)
       END
  FROM used JOIN pg_type t ON t.oid = used.oid";

impl Types {
    pub(super) async fn read(client: &Client, tables: &[u32]) -> Result<Self, ReadError> {
        let rows = client
            .query(QUERY, &[&tables])
            .await
            .map_err(ReadError::of("the types"))?;
        let types = rows.iter().map(|row| {
            let oid: u32 = row.get(0);
            (
                oid,
                Type {
                    name: row.get(1),
                    kind: row.get(2),
                    array: row.get(3),
                    element: row.get(4),
                    base: row.get(5),
                    subtype: row.get(6),
                    sends: row.get(7),
                    definition: row.get(8),
                },
            )
        });
        Ok(Self(types.collect()))
    }

    /// The name that is left when domains are taken off.
    pub(super) fn base_name(&self, oid: u32) -> String {
        match self.0.get(&oid) {
            Some(found) if found.kind == "d" => self.base_name(found.base),
            Some(found) => found.name.clone(),
            None => String::new(),
        }
    }

    /// What the type, and every type that it is made of, means beyond its name.
    pub(super) fn definition(&self, oid: u32) -> Option<String> {
        let found = self.0.get(&oid)?;
        let parts = [found.element, found.base, found.subtype];
        let inner = parts.iter().filter_map(|part| self.definition(*part));
        let own = found.definition.clone();
        let all: Vec<String> = own.into_iter().chain(inner).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// Whether the binary form means the same in every database.
    pub(super) fn portable(&self, oid: u32) -> bool {
        let Some(found) = self.0.get(&oid) else {
            return false;
        };
        let name = found.name.as_str();
        let own = found.sends && !OBJECT_IDS.contains(&name) && !UNREADABLE.contains(&name);
        own && match found.kind.as_str() {
            // An array names its element's type by object id.
            "b" if found.array => {
                found.element < FIRST_UNPINNED_OID && self.portable(found.element)
            }
            "b" | "e" => true,
            "d" => self.portable(found.base),
            "r" | "m" => self.portable(found.subtype),
            // Composites name each field's type by object id; what else there may be is unknown here.
            _ => false,
        }
    }
}
