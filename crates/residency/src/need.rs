//! Where the guard is needed though nobody moves, and where foreign keys do its work then (docs/decisions/0007).
//!
//! While every record says *settled*, or *departed* and erased, the guard refuses a write in one case alone: that of a
//! row whose user is not here. Where an unbroken chain of foreign keys leads from every row to its user's row, the
//! database refuses that anyway, and the row trigger may rest: see [`crate::rest`].

use model::table::{HomeSchema, OwnedTable, TableName, literal, quote};

use crate::guard::{TRIGGER, function_name};
use crate::watch::{DROP_TRIGGER, EVENT_TRIGGER};

/// Whether somebody is neither settled here nor gone and erased: the guard must stand.
pub(crate) const UNSETTLED: &str = "EXISTS (SELECT FROM domicile.resident AS d \
     WHERE d.state <> 'settled' AND NOT (d.state = 'departed' AND d.erased_at IS NOT NULL))";

/// One step of the way from a row to its user's row, as a foreign key must enforce it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Step {
    pub(crate) child: TableName,
    child_oid: u32,
    columns: Vec<String>,
    parent: TableName,
    parent_oid: u32,
    parent_columns: Vec<String>,
}

/// The steps from the rows of `table` to those of the user table, where they are declared so that foreign keys can
/// enforce them all: one way, on no condition, never against the arrow. `None` for the user table.
pub(crate) fn steps(home: &HomeSchema, table: &OwnedTable) -> Option<Vec<Step>> {
    let users = home.owned(&home.users.name)?;
    let [way] = table.ways.as_slice() else {
        return None;
    };
    let enforced = way.is_plain() && way.hops.iter().all(|hop| hop.enforced);
    if table.name == users.name || !enforced {
        return None;
    }
    let (mut child, mut child_oid) = (table.name.clone(), table.oid);
    let mut steps = Vec::new();
    for hop in &way.hops {
        steps.push(Step {
            child,
            child_oid,
            columns: hop.columns.clone(),
            parent: hop.parent.clone(),
            parent_oid: hop.parent_oid,
            parent_columns: hop.parent_columns.clone(),
        });
        (child, child_oid) = (hop.parent.clone(), hop.parent_oid);
    }
    if child != users.name {
        steps.push(Step {
            child,
            child_oid,
            columns: vec![way.column.clone()],
            parent: users.name.clone(),
            parent_oid: users.oid,
            parent_columns: vec![home.users.key.clone()],
        });
    } else if way.column != home.users.key {
        return None;
    }
    Some(steps)
}

// === impl Step ===

impl Step {
    /// Whether a row stands here whose parent does not, as a query. A foreign key counts as valid although rows were
    /// written past it.
    pub(crate) fn broken(&self) -> String {
        format!(
            "SELECT EXISTS (SELECT FROM {} AS c WHERE NOT EXISTS (SELECT FROM {} AS p WHERE {}))",
            self.child.sql(),
            self.parent.sql(),
            model::table::equal("p", &self.parent_columns, "c", &self.columns),
        )
    }

    /// As a row of VALUES.
    fn row(&self, table: &OwnedTable) -> String {
        format!(
            "({}::oid, {}::oid, {}, {}::oid, {})",
            table.oid,
            self.child_oid,
            array(&self.columns),
            self.parent_oid,
            array(&self.parent_columns)
        )
    }
}

fn array(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| literal(name)).collect();
    format!("ARRAY[{}]::text[]", names.join(", "))
}

/// The statements that create `domicile.guard_needed`, which says why the guard of a table must stand though nobody
/// moves, or nothing.
///
/// It looks at the catalog alone, under the rights of whoever calls it, and is asked by the mover before the guard is
/// taken off and by the event trigger after whatever command may have taken a condition away.
pub(crate) fn function(home: &HomeSchema, mover: &str) -> String {
    let mut rows = vec![
        "(NULL::oid, NULL::oid, NULL::text[], NULL::oid, NULL::text[])".to_owned(), // so that there is one
    ];
    for table in &home.owned {
        for step in steps(home, table).unwrap_or_default() {
            rows.push(step.row(table));
        }
    }
    format!(
        r#"
CREATE OR REPLACE FUNCTION domicile.guard_needed(t oid) RETURNS text LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp AS $needed$
DECLARE
    step record;
    mighty oid[];
    found_name text;
BEGIN
    IF NOT EXISTS (SELECT FROM (VALUES {rows}) AS s(relation, child, columns, parent, parent_columns)
                   WHERE s.relation = t) THEN
        RETURN 'no chain of foreign keys alone leads from its rows to their users';
    END IF;
    IF (SELECT h.after_restart FROM domicile.home AS h) IS DISTINCT FROM 'open' THEN
        RETURN 'after_restart is closed';
    END IF;
    -- Nobody else would notice that a condition is taken away.
    IF (SELECT count(*) FROM pg_event_trigger AS e JOIN pg_roles AS r ON r.oid = e.evtowner AND r.rolsuper
        WHERE e.evtname IN ('{EVENT_TRIGGER}', '{DROP_TRIGGER}') AND e.evtenabled = 'A'
          AND e.evtfoid = to_regproc('domicile.keep_guard')) <> 2 THEN
        RETURN 'the event trigger {EVENT_TRIGGER} does not stand';
    END IF;
    FOR step IN SELECT s.* FROM (VALUES {rows}) AS s(relation, child, columns, parent, parent_columns)
            WHERE s.relation = t LOOP
        -- NOT NULL, and not only for rows to come.
        IF (SELECT count(*) FROM pg_attribute AS a WHERE a.attrelid = step.child AND a.attname = ANY (step.columns)
              AND NOT a.attisdropped AND a.attnotnull AND NOT EXISTS (SELECT FROM pg_constraint AS n
                WHERE n.contype = 'n' AND n.conrelid = a.attrelid AND n.conkey = ARRAY[a.attnum] AND NOT n.convalidated))
           <> cardinality(step.columns) THEN
            RETURN format('a column of %s by which the user is found may be null', step.child::regclass);
        END IF;
        IF NOT EXISTS (
            SELECT FROM pg_constraint AS c
            WHERE c.contype = 'f' AND c.conrelid = step.child AND c.confrelid = step.parent AND c.convalidated
              AND (c.confmatchtype = 'f' OR cardinality(c.conkey) = 1)
              AND cardinality(c.conkey) = cardinality(step.columns)
              AND NOT EXISTS (SELECT FROM unnest(step.columns, step.parent_columns) AS w(a, b) WHERE NOT EXISTS (
                    SELECT FROM unnest(c.conkey, c.confkey) AS k(a, b)
                    JOIN pg_attribute AS x ON x.attrelid = c.conrelid AND x.attnum = k.a
                    JOIN pg_attribute AS y ON y.attrelid = c.confrelid AND y.attnum = k.b
                    WHERE x.attname = w.a AND y.attname = w.b))
              AND NOT EXISTS (
                    WITH RECURSIVE part(oid) AS (
                        SELECT c.oid UNION SELECT d.oid FROM pg_constraint AS d JOIN part ON d.conparentid = part.oid)
                    SELECT FROM part JOIN pg_trigger AS g ON g.tgconstraint = part.oid WHERE g.tgenabled NOT IN ('O', 'A'))
        ) THEN
            RETURN format('no foreign key that is validated and enforced leads from %s to %s',
                step.child::regclass, step.parent::regclass);
        END IF;
    END LOOP;
    -- Foreign keys do not hold for what a subscription brings.
    IF EXISTS (SELECT FROM pg_subscription_rel AS s WHERE s.srrelid = t
               OR s.srrelid IN (SELECT p.relid FROM pg_partition_tree(t) AS p)
               OR s.srrelid IN (SELECT a.relid FROM pg_partition_ancestors(t) AS a)) THEN
        RETURN 'a subscription writes into it';
    END IF;
    -- Nor for who may set session_replication_role, by himself or as somebody he may become.
    IF current_setting('server_version_num')::int >= 150000 THEN
        mighty := ARRAY(SELECT r.oid FROM pg_roles AS r
                        WHERE has_parameter_privilege(r.oid, 'session_replication_role', 'SET'));
    ELSE
        mighty := ARRAY(SELECT r.oid FROM pg_roles AS r WHERE r.rolsuper);
    END IF;
    SELECT r.rolname INTO found_name FROM pg_roles AS r
        WHERE NOT r.rolsuper AND r.rolname <> {mover} AND has_database_privilege(r.oid, current_database(), 'CONNECT')
          AND (EXISTS (SELECT FROM unnest(mighty) AS m(oid) WHERE pg_has_role(r.oid, m.oid, 'MEMBER'))
            OR EXISTS (SELECT FROM pg_proc AS p WHERE p.oid = to_regprocedure('domicile.as_replica()')
                       AND p.proowner = ANY (mighty) AND has_function_privilege(r.oid, p.oid, 'EXECUTE')))
        LIMIT 1;
    IF FOUND THEN
        RETURN format('role %s may set session_replication_role', found_name);
    END IF;
    IF EXISTS (SELECT FROM pg_db_role_setting AS s, unnest(s.setconfig) AS c(said)
               WHERE c.said ILIKE 'session\_replication\_role=%' AND lower(c.said) <> 'session_replication_role=origin'
                 AND s.setdatabase IN (0, (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()))
                 AND (s.setrole = 0 OR EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = s.setrole AND r.rolname <> {mover}
                        AND has_database_privilege(r.oid, current_database(), 'CONNECT'))))
       OR EXISTS (SELECT FROM pg_proc AS p WHERE p.proconfig::text ILIKE '%session\_replication\_role=%')
       OR (SELECT s.reset_val FROM pg_settings AS s WHERE s.name = 'session_replication_role') <> 'origin' THEN
        RETURN 'session_replication_role is set for a role, a database or a function';
    END IF;
    RETURN NULL;
END $needed$;
REVOKE ALL ON FUNCTION domicile.guard_needed(oid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION domicile.guard_needed(oid) TO {mover_role};
"#,
        rows = rows.join(", "),
        mover = literal(mover),
        mover_role = quote(mover),
    )
}

/// The name of the function that puts the guard on `table` or takes it off, unquoted.
pub(crate) fn setter_name(table: &OwnedTable) -> String {
    format!("set_{}", function_name(table))
}

/// The statements, for one transaction, that create that function: for the mover alone, who does not own the table.
///
/// It belongs to the table's owner, who may do by himself what it does, so that it gives him nothing; and nobody else
/// may execute it. Whether the guard may rest, the event trigger decides, whoever asks.
pub(crate) fn setter(table: &OwnedTable, mover: &str) -> String {
    let name = setter_name(table);
    format!(
        r#"
CREATE OR REPLACE FUNCTION domicile.{function}(stands boolean) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $set$
DECLARE
    part oid;
BEGIN
    -- The root first, which takes its partitions along; older minor versions leave them as they are.
    FOR part IN SELECT p.relid FROM (SELECT {oid}::oid, 0 UNION SELECT p.relid::oid, p.level
                    FROM pg_partition_tree({oid}) AS p WHERE p.level > 0) AS p(relid, level)
                ORDER BY p.level, p.relid LOOP
        IF EXISTS (SELECT FROM pg_trigger AS g WHERE g.tgrelid = part AND g.tgname = '{TRIGGER}'
                     AND g.tgenabled <> CASE WHEN stands THEN 'A' ELSE 'D' END) THEN
            EXECUTE format('ALTER TABLE %s %s TRIGGER "{TRIGGER}"', part::regclass,
                CASE WHEN stands THEN 'ENABLE ALWAYS' ELSE 'DISABLE' END);
        END IF;
    END LOOP;
END $set$;
REVOKE ALL ON FUNCTION domicile.{function}(boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION domicile.{function}(boolean) TO {mover};
DO $owner$ BEGIN
    IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        EXECUTE format('ALTER FUNCTION domicile.%I(boolean) OWNER TO %I', {function_literal},
            (SELECT pg_get_userbyid(c.relowner) FROM pg_class AS c WHERE c.oid = {oid}));
    END IF;
END $owner$;
"#,
        function = quote(&name),
        function_literal = literal(&name),
        oid = table.oid,
        mover = quote(mover),
    )
}
