//! The guard function of one table.

use model::fault::{Bug, planted};
use model::table::{HomeSchema, Hop, OwnedTable, literal, quote};

use super::{
    NONCE, NOT_HERE, PINNED, ROW_MESSAGE, Terms, dependants, function_name, key, quick, side,
};

/// The guard function of `table`.
pub fn table_function(home: &HomeSchema, table: &OwnedTable, terms: &Terms<'_>) -> String {
    let is_user_table = table.name == home.users.name;
    let key_type = home.users.kind.sql_type();
    let new_side = side::side(home, table, terms, "NEW", "new");
    let old_side = side::side(home, table, terms, "OLD", "old");
    let same_owner = {
        let mut columns: Vec<&String> = table.ways.iter().flat_map(|way| way.deciding()).collect();
        columns.sort();
        columns.dedup();
        let terms = columns
            .iter()
            .map(|c| format!("OLD.{c} IS NOT DISTINCT FROM NEW.{c}", c = quote(c)));
        terms.collect::<Vec<_>>().join(" AND ")
    };
    let old_block = if planted(Bug::GuardWithoutOld) {
        String::from("old_owner := new_owner; old_attempt := new_attempt;")
    } else {
        format!(
            "IF TG_OP = 'UPDATE' AND {same_owner} THEN
            old_owner := new_owner;
            old_attempt := new_attempt;
        ELSE
            {old_side}
        END IF;"
        )
    };
    let key_changed = {
        let terms = table
            .key
            .iter()
            .map(|c| format!("OLD.{c} IS DISTINCT FROM NEW.{c}", c = quote(c)));
        terms.collect::<Vec<_>>().join(" OR ")
    };
    let (pin, user_row) = match is_user_table {
        true => (pin(home, terms), user_table_part(home, terms)),
        false => (String::new(), String::new()),
    };
    format!(
        r#"
CREATE OR REPLACE FUNCTION domicile.{function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp{settings} AS $guard$
#variable_conflict use_column
DECLARE
    standing text;
BEGIN
    {pin}
    {quick}
    DECLARE
    new_owner {key_type};
    old_owner {key_type};
    again {key_type};
    new_attempt bigint;
    old_attempt bigint;
    new_orphan boolean := false;
    old_orphan boolean := false;
    said jsonb;{more}
    BEGIN
    {refuse_closed}
    {user_row}
    IF TG_OP <> 'DELETE' THEN
        {new_side}
    END IF;
    IF TG_OP <> 'INSERT' THEN
        {old_block}
    END IF;
    {dependants}
    -- Whose row this is, for the stream: only where somebody concerned is moving, or where the parent that
    -- would tell is not there (its own message in this transaction does).
    IF new_attempt IS NULL AND old_attempt IS NULL AND NOT new_orphan AND NOT old_orphan{nor_maybe} THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'DELETE' THEN
        said := jsonb_build_object('t', {oid}::bigint, 'k', {old_key},
                    'u', old_owner::text, 'a', old_attempt);
        {old_parent_said}
    ELSE
        said := jsonb_build_object('t', {oid}::bigint, 'k', {new_key},
                    'u', new_owner::text, 'a', new_attempt);
        {new_parent_said}
        IF TG_OP = 'UPDATE' THEN
            IF {key_changed} THEN
                said := said || jsonb_build_object('o', {old_key});
            END IF;
            IF old_orphan THEN
                -- Its parent went, or took another key, and it followed: whose it was, the parent's message says.
                PERFORM pg_logical_emit_message(true, '{ROW_MESSAGE}',
                    (said || jsonb_build_object('u', NULL, 'a', NULL, 'p', {old_parent}))::text);
            ELSIF old_owner IS DISTINCT FROM new_owner THEN
                said := said || jsonb_build_object('was',
                            jsonb_build_object('u', old_owner::text, 'a', old_attempt));
            END IF;
        END IF;
    END IF;
    PERFORM pg_logical_emit_message(true, '{ROW_MESSAGE}', said::text);
    {sharers}
    RETURN NULL;
    END;
END $guard$;
"#,
        quick = quick::block(home, table, terms, &same_owner),
        function = quote(&function_name(table)),
        oid = table.oid,
        refuse_closed = terms.refuse_closed(),
        settings = settings(home, table),
        more = variables(home, table),
        dependants = dependants::block(home, table),
        nor_maybe = if may_be(table) {
            " AND NOT new_maybe AND NOT old_maybe"
        } else {
            ""
        },
        old_key = key::array(table, "OLD", &table.key),
        new_key = key::array(table, "NEW", &table.key),
        old_parent = parent(home, table, "OLD"),
        old_parent_said = parent_said(home, table, "OLD", "old"),
        new_parent_said = parent_said(home, table, "NEW", "new"),
        sharers = if is_shared(table) {
            sharers()
        } else {
            String::new()
        },
    )
}

/// Tells of each owner of a row that several own.
fn sharers() -> String {
    format!(
        "FOR candidate_said IN SELECT e FROM jsonb_array_elements(sharers) AS e LOOP
        EXIT WHEN jsonb_array_length(sharers) = 1;
        PERFORM pg_logical_emit_message(true, '{ROW_MESSAGE}', ((said - 'was' - 'o') || candidate_said)::text);
    END LOOP;"
    )
}

fn is_shared(table: &OwnedTable) -> bool {
    table.ways.iter().any(|way| way.is_shared())
}

/// Whether a row may be nobody's until its transaction says whose it is.
fn may_be(table: &OwnedTable) -> bool {
    let mut hops = table.ways.iter().flat_map(|way| &way.hops);
    hops.any(|hop| hop.against || !hop.enforced)
}

/// What the guards of most tables do without.
fn variables(home: &HomeSchema, table: &OwnedTable) -> String {
    let key_type = home.users.kind.sql_type();
    let mut declared = String::new();
    if may_be(table) {
        declared.push_str("\n    new_maybe boolean := false;\n    old_maybe boolean := false;");
    }
    let depended_on = !dependants::dependants(home, table).is_empty();
    if is_shared(table) || depended_on {
        declared.push_str("\n    held bigint;");
    }
    if is_shared(table) {
        declared.push_str(&format!(
            "\n    candidate {key_type};\n    candidate_said jsonb;\n    sharers jsonb := '[]';"
        ));
    }
    if depended_on {
        declared.push_str(&format!(
            "\n    other {key_type};\n    was_old boolean;\n    already boolean;\n    pointed jsonb;\n    spelled integer;"
        ));
    }
    declared
}

fn settings(home: &HomeSchema, table: &OwnedTable) -> &'static str {
    let of = |table: &OwnedTable, columns: &mut dyn Iterator<Item = &String>| {
        let types = columns.filter_map(|column| key::sql_type(table, column));
        types.map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let mut printed = of(table, &mut table.key.iter());
    printed.extend(of(
        table,
        &mut table
            .parents()
            .filter(|hop| !hop.against)
            .flat_map(|hop| &hop.columns),
    ));
    for (dependant, _, _) in dependants::dependants(home, table) {
        printed.extend(of(dependant, &mut dependant.key.iter()));
    }
    key::settings(printed.into_iter())
}

/// Adds to `said` the parent that would tell the owner, where he could not be read.
fn parent_said(home: &HomeSchema, table: &OwnedTable, row: &str, prefix: &str) -> String {
    let parent = parent(home, table, row);
    let orphan = format!(
        "IF {prefix}_orphan THEN
            said := said || jsonb_build_object('p', {parent});
        END IF;"
    );
    if !may_be(table) {
        return orphan;
    }
    format!(
        "{orphan}
        IF {prefix}_maybe THEN
            said := said || jsonb_build_object('p', {parent}, 'm', true);
        END IF;"
    )
}

/// The parent of a row as the messages name it: its table and key. NULL where nothing leads on from the row.
fn parent(home: &HomeSchema, table: &OwnedTable, row: &str) -> String {
    let cases = side::alternatives(table).into_iter().filter_map(|ways| {
        let hop = ways[0].hops.first().filter(|hop| !hop.against)?;
        let key = match parent_key(home, hop) {
            Some(columns) => key::array(table, row, &columns),
            // Named by other columns than its key: nothing here tells the key of a parent that is not there.
            None => "jsonb_build_array(NULL)".to_owned(),
        };
        let named = format!("jsonb_build_array({}::bigint, {key})", hop.parent_oid);
        Some(match ways[0].when[0].is_empty() {
            true => named,
            false => format!("CASE WHEN {} THEN {named} END", ways[0].when[0].sql(row)),
        })
    });
    let cases: Vec<String> = cases.collect();
    match cases.as_slice() {
        [] => "NULL".to_owned(),
        [one] => one.clone(),
        more => format!("coalesce({})", more.join(", ")),
    }
}

/// The columns of the row that point at its parent, in the order of the parent's own key.
fn parent_key(home: &HomeSchema, hop: &Hop) -> Option<Vec<String>> {
    let key = home
        .owned(&hop.parent)
        .map_or(&hop.parent_columns, |parent| &parent.key);
    let of = |column: &String| {
        let at = hop.parent_columns.iter().position(|c| c == column)?;
        Some(hop.columns[at].clone())
    };
    key.iter().map(of).collect()
}

/// A pinned market is written at its pin alone.
fn pin(home: &HomeSchema, terms: &Terms<'_>) -> String {
    let pinned: Vec<String> = terms
        .pinned
        .iter()
        .filter(|(_, site)| *site != terms.site)
        .map(|(market, _)| literal(market.as_str()))
        .collect();
    match &home.users.market {
        Some(market) if !pinned.is_empty() => {
            let table = quote(&home.users.name.name);
            format!(
                "IF TG_OP <> 'DELETE' AND (SELECT ({market})::text FROM (SELECT NEW.*) AS {table}) \
                   IN ({}) THEN
        RAISE EXCEPTION 'users of this market are pinned to another site' USING ERRCODE = '{PINNED}';
    END IF;",
                pinned.join(", ")
            )
        }
        _ => String::new(),
    }
}

/// What the user table's guard does besides: creation writes the record, and a key changes only as a deletion and
/// a creation.
fn user_table_part(home: &HomeSchema, terms: &Terms<'_>) -> String {
    let key = quote(&home.users.key);
    let origin = literal(terms.origin.as_str());
    let stood = match (terms.is_origin(), terms.mark) {
        (false, _) => "false".to_owned(),
        (true, Some(mark)) => format!("OLD.{key} <= {mark}"),
        (true, None) => "true".to_owned(),
    };
    let belongs_to_origin = match (terms.is_origin(), terms.mark) {
        (false, Some(mark)) => format!(
            "IF NEW.{key} <= {mark} AND NOT EXISTS \
               (SELECT 1 FROM domicile.resident AS d WHERE d.user_key = NEW.{key}) THEN
            RAISE EXCEPTION 'users with keys up to {mark} are created at the origin' USING ERRCODE = '{NOT_HERE}',
                DETAIL = jsonb_build_object('home', {origin}, 'epoch', 0, 'nonce', {NONCE})::text;
        END IF;"
        ),
        _ => String::new(),
    };
    let create = format!(
        "{belongs_to_origin}
        INSERT INTO domicile.resident (user_key, state, epoch, seen) VALUES (NEW.{key}, 'settled', 1, 1)
            ON CONFLICT (user_key) DO NOTHING;
        IF NOT FOUND THEN
            new_attempt := domicile.admit(NEW.{key});
        END IF;"
    );
    format!(
        "IF TG_OP = 'INSERT' THEN
        {create}
    ELSIF {stood} AND (TG_OP = 'DELETE' OR OLD.{key} IS DISTINCT FROM NEW.{key}) THEN
        -- Known while his row stood: stays known once it is gone.
        INSERT INTO domicile.resident (user_key, state, epoch, seen) VALUES (OLD.{key}, 'settled', 0, 0)
            ON CONFLICT (user_key) DO NOTHING;
    END IF;
    IF TG_OP = 'UPDATE' AND OLD.{key} IS DISTINCT FROM NEW.{key} THEN
        -- A deletion and a creation.
        IF domicile.admit(OLD.{key}) IS NOT NULL OR EXISTS (SELECT 1 FROM domicile.resident AS d
               WHERE d.user_key = NEW.{key} AND d.state = 'moving') THEN
            RAISE EXCEPTION 'the key of a moving user cannot change; try again' USING ERRCODE = '40001';
        END IF;
        {create}
    END IF;"
    )
}
