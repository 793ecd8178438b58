//! Reads the catalog in a handful of set-wise queries.

use std::collections::HashMap;

use model::table::{Column, ForeignKey, TableName};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use super::types::Types;
use super::{
    ByOid, Catalog, ReadError, Sequence, Table, TableColumn, TableKind, Trigger, TriggerFires,
};

const TABLES: &str = "
SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relispartition,
       c.relpersistence = 'u',
       EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid OR i.inhparent = c.oid)
           AND NOT c.relispartition AND c.relkind <> 'p',
       c.relrowsecurity, pg_get_userbyid(c.relowner)::text, c.reltuples::float8, c.relreplident::text,
       CASE WHEN c.relispartition THEN pg_partition_root(c.oid)::oid END
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm') AND c.relpersistence <> 't'
   AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', 'domicile')
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                      AND d.objid = c.oid AND d.deptype = 'e')";

const COLUMNS: &str = "
SELECT a.attrelid, a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull,
       a.attgenerated <> '', a.attidentity <> '', a.atttypid,
       CASE WHEN a.attgenerated <> '' THEN pg_get_expr(d.adbin, d.adrelid) END,
       NOT coalesce(l.collisdeterministic, true)
  FROM pg_attribute a
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
  LEFT JOIN pg_collation l ON l.oid = a.attcollation
 WHERE a.attrelid = ANY($1) AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attrelid, a.attnum";

const INDEXES: &str = "
SELECT i.indrelid, i.indisprimary, i.indisreplident,
       ARRAY(SELECT a.attname::text
               FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(number, place)
               JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
              WHERE k.place <= i.indnkeyatts ORDER BY k.place),
       x.relname::text
  FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
 WHERE i.indrelid = ANY($1) AND i.indisunique AND i.indisvalid AND i.indimmediate
   AND i.indpred IS NULL AND i.indexprs IS NULL
 ORDER BY i.indrelid, i.indisprimary DESC, i.indisreplident DESC, i.indexrelid";

const FOREIGN_KEYS: &str = "
SELECT f.conname::text, f.conrelid, f.confrelid, f.confmatchtype = 'f', f.convalidated,
       ARRAY(SELECT a.attname::text FROM unnest(f.conkey) WITH ORDINALITY k(number, place)
               JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.number
              ORDER BY k.place),
       ARRAY(SELECT a.attname::text FROM unnest(f.confkey) WITH ORDINALITY k(number, place)
               JOIN pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = k.number
              ORDER BY k.place)
  FROM pg_constraint f
 WHERE f.contype = 'f' AND f.conparentid = 0 AND f.conrelid = ANY($1) AND f.confrelid = ANY($1)
 ORDER BY f.conrelid::regclass::text, f.conname";

const TRIGGERS: &str = "
SELECT t.tgrelid, t.tgname::text, t.tgenabled::text, n.nspname::text, p.proname::text
  FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE t.tgrelid = ANY($1) AND NOT t.tgisinternal
 ORDER BY t.tgrelid, t.tgname";

// A sequence feeds a column that owns it (serial, identity) or whose default depends on it.
const SEQUENCES: &str = "
WITH feeds(sequence, relation, number) AS (
    SELECT objid, refobjid, refobjsubid FROM pg_depend
     WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass
       AND deptype IN ('a', 'i') AND refobjsubid > 0
  UNION
    SELECT d.refobjid, e.adrelid, e.adnum
      FROM pg_attrdef e JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = e.oid
     WHERE d.refclassid = 'pg_class'::regclass AND d.deptype = 'n'
)
SELECT f.relation, a.attname::text, s.schemaname::text, s.sequencename::text,
       s.start_value, s.increment_by, s.min_value, s.max_value, s.last_value
  FROM feeds f
  JOIN pg_class c ON c.oid = f.sequence AND c.relkind = 'S'
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_sequences s ON s.schemaname = n.nspname AND s.sequencename = c.relname
  JOIN pg_attribute a ON a.attrelid = f.relation AND a.attnum = f.number
 WHERE f.relation = ANY($1)
 ORDER BY f.relation, f.number, s.schemaname, s.sequencename";

/// Reads the whole catalog. A schema change that commits meanwhile may show in a part of it.
pub async fn read(client: &Client) -> Result<Catalog, ReadError> {
    let version = "SELECT current_setting('server_version_num')::int";
    let server_version = client
        .query_one_scalar(version, &[])
        .await
        .map_err(ReadError::of("the server's version"))?;
    let rows = client
        .query(TABLES, &[])
        .await
        .map_err(ReadError::of("the tables"))?;
    let mut replica_identity = HashMap::new();
    let mut tables: ByOid = HashMap::new();
    for row in &rows {
        let oid = row.get(0);
        replica_identity.insert(oid, row.get::<_, String>(10));
        tables.insert(oid, table(row));
    }
    let oids: Vec<u32> = tables.keys().copied().collect();
    let fetch = async |sql: &str, what: &str| {
        let parameters: &[&(dyn ToSql + Sync)] = &[&oids];
        client
            .query(sql, parameters)
            .await
            .map_err(ReadError::of(what))
    };

    let types = Types::read(client, &oids).await?;
    for row in fetch(COLUMNS, "the columns").await? {
        if let Some((_, table)) = tables.get_mut(&row.get(0)) {
            table.columns.push(column(&row, &types));
        }
    }
    for row in fetch(INDEXES, "the unique indexes").await? {
        if let Some((_, table)) = tables.get_mut(&row.get(0)) {
            add_index(table, &row, &replica_identity[&table.oid]);
        }
    }
    for row in fetch(TRIGGERS, "the triggers").await? {
        if let Some((_, table)) = tables.get_mut(&row.get(0)) {
            table.triggers.push(trigger(&row));
        }
    }
    for row in fetch(SEQUENCES, "the sequences").await? {
        let fed: String = row.get(1);
        let table = tables.get_mut(&row.get(0));
        let column = table.and_then(|(_, t)| t.columns.iter_mut().find(|c| c.column.name == fed));
        if let Some(column) = column {
            column.sequences.push(sequence(&row));
        }
    }
    let foreign_keys = fetch(FOREIGN_KEYS, "the foreign keys").await?;
    let foreign_keys = foreign_keys
        .iter()
        .filter_map(|row| foreign_key(row, &tables))
        .collect();
    Ok(Catalog {
        server_version,
        tables: tables.into_values().collect(),
        foreign_keys,
    })
}

fn table(row: &Row) -> (TableName, Table) {
    let partition: bool = row.get(4);
    let kind = match row.get::<_, &str>(3) {
        "p" => TableKind::Partitioned,
        "f" => TableKind::Foreign,
        "v" => TableKind::View,
        "m" => TableKind::MaterializedView,
        _ if partition => TableKind::Leaf,
        _ => TableKind::Ordinary,
    };
    let table = Table {
        oid: row.get(0),
        kind,
        partition,
        root: row.get(11),
        unlogged: row.get(5),
        inherits: row.get(6),
        row_security: row.get(7),
        owner: row.get(8),
        rows_estimate: row.get(9),
        columns: Vec::new(),
        identity_nothing: row.get::<_, &str>(10) == "n",
        key: Vec::new(),
        identity_wanted: None,
        primary_key: Vec::new(),
        unique: Vec::new(),
        triggers: Vec::new(),
    };
    (
        TableName {
            schema: row.get(1),
            name: row.get(2),
        },
        table,
    )
}

fn column(row: &Row, types: &Types) -> TableColumn {
    let oid = row.get(6);
    TableColumn {
        column: Column {
            name: row.get(1),
            sql_type: row.get(2),
            not_null: row.get(3),
            generated: row.get(4),
            identity: row.get(5),
            portable_binary: types.portable(oid),
        },
        base_type: types.base_name(oid),
        definition: types.definition(oid),
        generation: row.get(7),
        loose_collation: row.get(8),
        sequences: Vec::new(),
    }
}

fn add_index(table: &mut Table, row: &Row, replica_identity: &str) {
    let (primary, chosen): (bool, bool) = (row.get(1), row.get(2));
    let columns: Vec<String> = row.get(3);
    let names_rows = match replica_identity {
        "i" => chosen,
        "d" | "f" => primary,
        _ => false,
    };
    let whole = columns
        .iter()
        .all(|name| table.column(name).is_some_and(|c| c.column.not_null));
    if names_rows {
        table.key.clone_from(&columns);
    } else if table.key.is_empty() && whole && matches!(replica_identity, "d" | "f") {
        table.key.clone_from(&columns);
        // With FULL the log has every column.
        table.identity_wanted = (replica_identity == "d").then(|| row.get(4));
    }
    if primary {
        table.primary_key.clone_from(&columns);
    }
    table.unique.push(columns);
}

fn trigger(row: &Row) -> Trigger {
    Trigger {
        name: row.get(1),
        fires: match row.get::<_, &str>(2) {
            "A" => TriggerFires::Always,
            "R" => TriggerFires::Replica,
            "D" => TriggerFires::Disabled,
            _ => TriggerFires::Origin,
        },
        function: TableName {
            schema: row.get(3),
            name: row.get(4),
        },
    }
}

fn sequence(row: &Row) -> Sequence {
    Sequence {
        name: TableName {
            schema: row.get(2),
            name: row.get(3),
        },
        start: row.get(4),
        increment: row.get(5),
        min: row.get(6),
        max: row.get(7),
        last: row.get(8),
    }
}

fn foreign_key(row: &Row, tables: &ByOid) -> Option<ForeignKey> {
    let name = |oid: u32| tables.get(&oid).map(|(name, _)| name.clone());
    Some(ForeignKey {
        name: row.get(0),
        child: name(row.get(1))?,
        parent: name(row.get(2))?,
        match_full: row.get(3),
        validated: row.get(4),
        child_columns: row.get(5),
        parent_columns: row.get(6),
    })
}
