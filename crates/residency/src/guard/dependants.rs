//! Rows that become or cease to be a user's because another row changes, with no foreign key of their own to tell:
//! those that his row points at (against the arrow), and those that name his row without a foreign key.
//!
//! Their own guard does not see it, so the other row's guard says it, with what the assembler needs to decide whether the
//! row came or went in the same transaction, or changed hands.

use model::table::{HomeSchema, Hop, OwnedTable, equal, quote};
use model::way::{Condition, filled};

use super::{ROW_MESSAGE, key};

/// How many rows one change is spelled out for; beyond, the user is copied afresh.
const SPELLED_MAX: u32 = 1_000;

/// The block for the guard of `table`; empty where nothing depends on it so.
pub(super) fn block(home: &HomeSchema, table: &OwnedTable) -> String {
    let mut blocks = Vec::new();
    for (dependant, hop, condition) in dependants(home, table) {
        blocks.push(if hop.against {
            pointed(table, dependant, hop, condition)
        } else {
            named(table, dependant, hop, condition)
        });
    }
    blocks.join("\n    ")
}

/// The tables that depend on `table` so, each with its step.
pub(super) fn dependants<'a>(
    home: &'a HomeSchema,
    table: &OwnedTable,
) -> Vec<(&'a OwnedTable, &'a Hop, &'a Condition)> {
    let mut found: Vec<(&OwnedTable, &Hop, &Condition)> = Vec::new();
    for other in &home.owned {
        for way in &other.ways {
            if let Some(hop) = way.hops.first()
                && hop.parent == table.name
                && (hop.against || !hop.enforced)
                && !found
                    .iter()
                    .any(|known| *known == (other, hop, &way.when[0]))
            {
                found.push((other, hop, &way.when[0]));
            }
        }
    }
    found
}

fn emit(said: &str) -> String {
    format!("PERFORM pg_logical_emit_message(true, '{ROW_MESSAGE}', ({said})::text);")
}

/// `x.a = NEW.b AND` the condition.
fn at(hop: &Hop, condition: &Condition, row: &str) -> String {
    format!(
        "{} AND {}",
        equal("x", &hop.columns, row, &hop.parent_columns),
        condition.sql("x")
    )
}

fn distinct(columns: &[String]) -> String {
    let terms = columns
        .iter()
        .map(|c| format!("OLD.{c} IS DISTINCT FROM NEW.{c}", c = quote(c)));
    terms.collect::<Vec<_>>().join(" OR ")
}

/// `table` points at rows of `x`, which are its owner's.
fn pointed(table: &OwnedTable, x: &OwnedTable, hop: &Hop, condition: &Condition) -> String {
    let columns = &hop.parent_columns;
    let find = |row: &str| {
        format!(
            "SELECT {} INTO pointed FROM {} AS x WHERE {}",
            key::array(x, "x", &x.key),
            x.name.sql(),
            at(hop, condition, row)
        )
    };
    let itself = {
        let same = table
            .key
            .iter()
            .map(|c| format!("o.{c} IS NOT DISTINCT FROM NEW.{c}", c = quote(c)));
        same.collect::<Vec<_>>().join(" AND ")
    };
    let others = format!(
        "FROM {} AS o CROSS JOIN LATERAL ({}) AS w(k) WHERE {} AND NOT ({itself})",
        table.name.sql(),
        table.owners_of("o"),
        equal("o", columns, "NEW", columns),
    );
    let base = format!("jsonb_build_object('t', {}::bigint, 'k', pointed)", x.oid);
    format!(
        "IF TG_OP <> 'DELETE' AND new_owner IS NOT NULL AND {points} AND (TG_OP = 'INSERT' OR {changed}) THEN
        {find_new};
        IF FOUND THEN
            already := false;
            FOR other, was_old IN SELECT w.k, bool_or(age(o.xmin) > age(pg_current_xact_id()::xid)) {others}
                    AND w.k IS NOT NULL GROUP BY w.k LOOP
                IF other = new_owner THEN
                    already := was_old;
                ELSE
                    -- Both own it now: it concerns him as a write of his own would.
                    held := domicile.admit(other);
                    IF held IS NOT NULL OR new_attempt IS NOT NULL THEN
                        {shared}
                    END IF;
                END IF;
            END LOOP;
            IF new_attempt IS NOT NULL THEN
                {now_his}
            END IF;
        END IF;
    END IF;
    IF TG_OP <> 'INSERT' AND old_attempt IS NOT NULL AND {pointed_before} AND (TG_OP = 'DELETE' OR {changed}) THEN
        {find_old};
        IF FOUND AND NOT EXISTS (SELECT 1 FROM {table_sql} AS o WHERE {still}) THEN
            {no_more}
        END IF;
    END IF;",
        points = filled("NEW", columns),
        pointed_before = filled("OLD", columns),
        changed = format!("({})", distinct(columns)),
        find_new = find("NEW"),
        find_old = find("OLD"),
        shared = emit(&format!(
            "{base} || jsonb_build_object('u', new_owner::text, 'a', new_attempt, 'n', 'still', \
             'was', jsonb_build_object('u', other::text, 'a', held))"
        )),
        now_his = emit(&format!(
            "{base} || jsonb_build_object('u', new_owner::text, 'a', new_attempt, \
             'n', CASE WHEN already THEN 'still' ELSE 'entered' END)"
        )),
        table_sql = table.name.sql(),
        still = equal("o", columns, "OLD", columns),
        no_more = emit(&format!(
            "{base} || jsonb_build_object('u', old_owner::text, 'a', old_attempt, 'n', 'left')"
        )),
    )
}

/// Rows of `x` name `table`'s without a foreign key.
fn named(table: &OwnedTable, x: &OwnedTable, hop: &Hop, condition: &Condition) -> String {
    let columns = &hop.parent_columns;
    let base = format!("jsonb_build_object('t', {}::bigint, 'k', pointed)", x.oid);
    let each = |row: &str, side: &str, note: &str| {
        format!(
            "spelled := 0;
        FOR pointed IN SELECT {key} FROM {x} AS x WHERE {at} LIMIT {SPELLED_MAX} LOOP
            spelled := spelled + 1;
            {one}
        END LOOP;
        IF spelled = {SPELLED_MAX} THEN
            {all}
        END IF;",
            key = key::array(x, "x", &x.key),
            x = x.name.sql(),
            at = at(hop, condition, row),
            one = emit(&format!(
                "{base} || jsonb_build_object('u', {side}_owner::text, 'a', {side}_attempt, 'n', '{note}')"
            )),
            all = emit(&format!(
                "jsonb_build_object('t', {}::bigint, 'k', {}, 'u', {side}_owner::text, 'a', {side}_attempt, \
                 'was', jsonb_build_object())",
                table.oid,
                key::array(table, row, &table.key),
            )),
        )
    };
    format!(
        "IF TG_OP <> 'INSERT' AND old_attempt IS NOT NULL AND (TG_OP = 'DELETE' OR {changed}) THEN
        {left}
    END IF;
    IF TG_OP <> 'DELETE' AND new_attempt IS NOT NULL AND (TG_OP = 'INSERT' OR {changed}) THEN
        {entered}
    END IF;",
        changed = format!("({})", distinct(columns)),
        left = each("OLD", "old", "left"),
        entered = each("NEW", "new", "entered"),
    )
}
