//! The guard: triggers that refuse a write for a user who does not live here, and that tell the stream whose
//! row a change concerns while its user is moving.
//!
//! One trigger function per owned table, generated from its way to the owner. Row triggers stand AFTER, so that
//! no trigger of the application can change the owner once the guard has looked, and are called so that
//! they sort before the triggers of foreign keys: a cascade's messages then follow their parent's.
//!
//! A settled user costs one index probe per row (and one more per step of the path). Only a moving user's
//! writers take locks: the shared lock of his stripe, then his record `FOR SHARE`. Why not less: a plain SELECT
//! lets transactions of an old snapshot commit after the fence; why not `FOR SHARE` alone: the fence starves.

use model::fault::{Bug, planted};
use model::table::{HomeSchema, OwnedTable, equal, literal, quote};
use model::{Market, SiteName};

use crate::{LOCK_CLASS, STRIPES};

/// The row trigger's name. It sorts before `RI_ConstraintTrigger...`.
pub const TRIGGER: &str = "DOMICILE_GUARD";
/// The TRUNCATE trigger's name.
pub const TRUNCATE_TRIGGER: &str = "DOMICILE_GUARD_TRUNCATE";
/// The prefix of the logical messages that name a changed row's owner.
pub const ROW_MESSAGE: &str = "domicile.row";
/// SQLSTATE of "not here": DETAIL is `{"home": site, "epoch": n}`.
pub const NOT_HERE: &str = "DM421";
/// SQLSTATE of "this market may not be written here".
pub const PINNED: &str = "DM403";
/// SQLSTATE of "this must stand": no home to go to, and no sense in trying again.
pub const KEPT: &str = "DM409";

/// What the guard of one home database needs to know beyond its tables.
#[derive(Clone, Debug)]
pub struct Terms<'a> {
    /// This site.
    pub site: &'a SiteName,
    /// The service's origin.
    pub origin: &'a SiteName,
    /// The highest integer key that existed at the origin at adoption; `None` where users are known by their rows.
    pub mark: Option<i64>,
    /// The role that the mover logs in as.
    pub mover: &'a str,
    /// Markets pinned to a site.
    pub pinned: &'a [(Market, SiteName)],
}

impl Terms<'_> {
    fn is_origin(&self) -> bool {
        self.site == self.origin
    }
}

/// The functions that all guards of a database share: `known`, `admit`, `where_is`, `guard_truncate`.
pub fn shared_functions(home: &HomeSchema, terms: &Terms<'_>) -> String {
    let key = home.users.kind.sql_type();
    let known = match (terms.is_origin(), terms.mark) {
        (false, _) => "false".to_owned(),
        (true, Some(mark)) => format!("$1 <= {mark}"),
        // By number: a column of the application's may be called like the parameter.
        (true, None) => format!(
            "EXISTS (SELECT 1 FROM {} AS u WHERE u.{} = $1)",
            home.users.name.sql(),
            quote(&home.users.key)
        ),
    };
    let origin = literal(terms.origin.as_str());
    let may_be_created = match (terms.is_origin(), terms.mark) {
        (false, Some(mark)) => format!("$1 > {mark}"),
        _ => "true".to_owned(),
    };
    let lock = if planted(Bug::GuardPlainSelect) {
        String::from("RETURN r.attempt;")
    } else {
        format!(
            "PERFORM pg_advisory_xact_lock_shared({LOCK_CLASS}, r.stripe);
        held := r.stripe;
        SELECT * INTO STRICT r FROM domicile.resident AS d WHERE d.user_key = k FOR SHARE;
        IF r.state = 'moving' THEN
            IF r.stripe <> held THEN
                RAISE EXCEPTION 'the user begins to move; try again' USING ERRCODE = '40001';
            END IF;
            RETURN r.attempt;
        END IF;"
        )
    };
    format!(
        r#"
-- Whether a user without a record has lived here since before Domicile was installed.
CREATE OR REPLACE FUNCTION domicile.known(k {key}) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $known$ SELECT {known} $known$;

-- Whether a row of `relation` may come before its user: nobody of that key is here, and a deferred foreign key sees
-- to it that he comes in the same transaction. His record is then written with his first row, so that
-- nobody can begin to arrive under the same key meanwhile.
CREATE OR REPLACE FUNCTION domicile.coming(k {key}, relation oid, owner_column name) RETURNS boolean LANGUAGE sql
    STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $coming$
    SELECT {may_be_created} AND current_setting('session_replication_role') <> 'replica'
        AND NOT EXISTS (SELECT 1 FROM {users} AS u WHERE u.{users_key} = $1)
        AND EXISTS (SELECT 1 FROM pg_constraint AS c WHERE c.contype = 'f' AND c.condeferrable AND c.convalidated
            AND c.conrelid = $2 AND c.confrelid = {users_literal}::regclass
            AND c.conkey = ARRAY(SELECT a.attnum FROM pg_attribute AS a
                WHERE a.attrelid = c.conrelid AND a.attname = $3)
            AND c.confkey = ARRAY(SELECT a.attnum FROM pg_attribute AS a
                WHERE a.attrelid = c.confrelid AND a.attname = {users_key_literal}))
$coming$;

-- Refuses a write for a user who does not live here or is fenced; for a moving user holds the locks that the
-- fence waits for and returns his attempt; for a settled one returns null.
CREATE OR REPLACE FUNCTION domicile.admit(k {key}) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $admit$
DECLARE
    r domicile.resident;
    held integer;
BEGIN
    SELECT * INTO r FROM domicile.resident AS d WHERE d.user_key = k;
    IF NOT FOUND THEN
        IF domicile.known(k) THEN
            -- Looked at again: the row that makes him known may have been copied here since the first look, and
            -- then his record came before it.
            SELECT * INTO r FROM domicile.resident AS d WHERE d.user_key = k;
            IF NOT FOUND THEN
                RETURN NULL;
            END IF;
        END IF;
    END IF;
    IF r.state IS NULL THEN
        RAISE EXCEPTION 'the user does not live at this site' USING ERRCODE = '{NOT_HERE}',
            DETAIL = jsonb_build_object('home', {origin}, 'epoch', 0)::text;
    END IF;
    IF r.state = 'moving' THEN
        {lock}
    END IF;
    IF r.state = 'settled' THEN
        RETURN NULL;
    ELSIF r.state IN ('fenced', 'offered') THEN
        RAISE EXCEPTION 'the user is changing home; try again' USING ERRCODE = '40001';
    ELSIF r.state = 'lost' THEN
        RAISE EXCEPTION 'the user is closed until an operator resolves what a restore lost'
            USING ERRCODE = 'DM423';
    END IF;
    RAISE EXCEPTION 'the user does not live at this site' USING ERRCODE = '{NOT_HERE}',
        DETAIL = jsonb_build_object('home', coalesce(r.peer, {origin}), 'epoch', r.epoch)::text;
END $admit$;

-- For an application whose statement a foreign key refused: where does the user live, as far as known here?
CREATE OR REPLACE FUNCTION domicile.where_is(k {key}) RETURNS jsonb LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $where$
    SELECT coalesce(
        (SELECT jsonb_build_object('state', d.state, 'epoch', d.epoch, 'home',
             CASE WHEN d.state IN ('settled', 'moving', 'fenced', 'offered') THEN h.site ELSE d.peer END)
         FROM domicile.resident AS d WHERE d.user_key = k),
        jsonb_build_object('state', CASE WHEN h.is_origin AND NOT domicile.known($1) THEN 'unknown' ELSE 'settled' END,
            'epoch', 0, 'home', h.origin))
    FROM domicile.home AS h $where$;

-- TRUNCATE deletes rows of all users, whoever they are.
CREATE OR REPLACE FUNCTION domicile.guard_truncate() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $truncate$
BEGIN
    -- An id drawn before looking, so that an enrolment's barrier waits for us.
    PERFORM pg_current_xact_id();
    IF EXISTS (SELECT 1 FROM domicile.resident AS d
               WHERE d.state <> 'settled' AND NOT (d.state = 'departed' AND d.erased_at IS NOT NULL)) THEN
        RAISE EXCEPTION 'TRUNCATE of % would delete rows of users who are moving or have left', TG_TABLE_NAME
            USING ERRCODE = '{KEPT}';
    END IF;
    RETURN NULL;
END $truncate$;
"#,
        users = home.users.name.sql(),
        users_key = quote(&home.users.key),
        users_literal = literal(&home.users.name.sql()),
        users_key_literal = literal(&home.users.key),
    )
}

/// The name of the guard function of `table`, unquoted.
pub fn function_name(table: &OwnedTable) -> String {
    // PostgreSQL cuts names after 63 bytes: the object id keeps long ones apart.
    let readable: String = table.name.name.chars().take(24).collect();
    format!("guard_{}_{readable}", table.oid)
}

/// The guard function of `table`.
pub fn table_function(home: &HomeSchema, table: &OwnedTable, terms: &Terms<'_>) -> String {
    let is_user_table = table.name == home.users.name;
    let key_type = home.users.kind.sql_type();
    let new_side = side(home, table, terms, "NEW", "new");
    let old_side = side(home, table, terms, "OLD", "old");
    let same_owner = {
        let columns: Vec<&String> = if table.owner.hops.is_empty() {
            vec![&table.owner.column]
        } else {
            table.owner.hops[0].columns.iter().collect()
        };
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
    let user_row = if is_user_table {
        user_table_part(home, terms)
    } else {
        String::new()
    };
    let parent = table
        .owner
        .hops
        .first()
        .map(|hop| (hop.parent_oid, parent_key(home, table)));
    let parent_of = |row: &str| match &parent {
        None => String::from("NULL"),
        Some((oid, columns)) => format!(
            "jsonb_build_array({oid}::bigint, {})",
            key_array(table, row, columns)
        ),
    };
    format!(
        r#"
CREATE OR REPLACE FUNCTION domicile.{function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp{settings} AS $guard$
#variable_conflict use_column
DECLARE
    standing text;
    new_owner {key_type};
    old_owner {key_type};
    again {key_type};
    new_attempt bigint;
    old_attempt bigint;
    new_orphan boolean := false;
    old_orphan boolean := false;
    said jsonb;
BEGIN
    {user_row}
    IF TG_OP <> 'DELETE' THEN
        {new_side}
    END IF;
    IF TG_OP <> 'INSERT' THEN
        {old_block}
    END IF;
    -- Whose row this is, for the stream: only where somebody concerned is moving, or where the parent that
    -- would tell is not there (its own message in this transaction does).
    IF new_attempt IS NULL AND old_attempt IS NULL AND NOT new_orphan AND NOT old_orphan THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'DELETE' THEN
        said := jsonb_build_object('t', TG_RELID::bigint, 'k', {old_key},
                    'u', old_owner::text, 'a', old_attempt);
        IF old_orphan THEN
            said := said || jsonb_build_object('p', {old_parent});
        END IF;
    ELSE
        said := jsonb_build_object('t', TG_RELID::bigint, 'k', {new_key},
                    'u', new_owner::text, 'a', new_attempt);
        IF new_orphan THEN
            said := said || jsonb_build_object('p', {new_parent});
        END IF;
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
    RETURN NULL;
END $guard$;
"#,
        function = quote(&function_name(table)),
        settings = text_settings(table),
        old_key = key_array(table, "OLD", &table.key),
        new_key = key_array(table, "NEW", &table.key),
        old_parent = parent_of("OLD"),
        new_parent = parent_of("NEW"),
    )
}

/// The columns of `table` that point at its parent, in the order of the parent's own key.
fn parent_key(home: &HomeSchema, table: &OwnedTable) -> Vec<String> {
    let Some(hop) = table.owner.hops.first() else {
        return Vec::new();
    };
    let key = home
        .owned(&hop.parent)
        .map_or(&hop.parent_columns, |parent| &parent.key);
    let of = |column: &String| {
        let at = hop.parent_columns.iter().position(|c| c == column);
        hop.columns[at.expect("a path leads to its parent's key: classification made sure")].clone()
    };
    key.iter().map(of).collect()
}

/// The key's values as the change stream prints them.
fn key_array(table: &OwnedTable, row: &str, columns: &[String]) -> String {
    let values = columns.iter().map(|column| {
        let value = format!("{row}.{}", quote(column));
        // format() prints as the stream does. A cast is cheaper, but prints boolean in words and drops the
        // padding of char(n); so it is for types alone where it is known to be the same.
        if key_type(table, column).is_some_and(casts_as_printed) {
            format!("{value}::text")
        } else {
            format!("CASE WHEN {value} IS NOT NULL THEN format('%s', {value}) END")
        }
    });
    format!(
        "jsonb_build_array({})",
        values.collect::<Vec<_>>().join(", ")
    )
}

fn key_type<'a>(table: &'a OwnedTable, column: &str) -> Option<&'a str> {
    table
        .columns
        .iter()
        .find(|c| c.name == column)
        .map(|c| c.sql_type.as_str())
}

/// Whether a value of this type, cast to text, reads as its output function prints it.
fn casts_as_printed(sql_type: &str) -> bool {
    ["smallint", "integer", "bigint", "uuid", "text", "numeric"].contains(&sql_type)
        || sql_type.starts_with("numeric(")
        || sql_type.starts_with("character varying")
}

/// Settings under which a key prints as in the change stream, where its type's text form depends on any.
/// They cost a little at every call, so they are left out for integers, texts and uuids.
fn text_settings(table: &OwnedTable) -> &'static str {
    let is_plain = |t: &str| {
        casts_as_printed(t) || t == "boolean" || t == "character" || t.starts_with("character(")
    };
    let pointing = table
        .owner
        .hops
        .first()
        .into_iter()
        .flat_map(|hop| &hop.columns);
    if table
        .key
        .iter()
        .chain(pointing)
        .filter_map(|column| key_type(table, column))
        .all(is_plain)
    {
        ""
    } else {
        "
    SET \"DateStyle\" = 'ISO, MDY' SET \"TimeZone\" = 'UTC' SET \"IntervalStyle\" = 'postgres'
    SET extra_float_digits = 3 SET bytea_output = 'hex'"
    }
}

/// Finds the owner of one side of the row and admits him.
fn side(
    home: &HomeSchema,
    table: &OwnedTable,
    terms: &Terms<'_>,
    row: &str,
    prefix: &str,
) -> String {
    let is_user_table = table.name == home.users.name;
    let owner = format!("{prefix}_owner");
    let attempt = format!("{prefix}_attempt");
    let hops = &table.owner.hops;
    // A user without a record is the common case at the origin: spare him the call.
    let adopted = match (terms.is_origin(), terms.mark) {
        (true, Some(mark)) => {
            format!("IF NOT FOUND AND {owner} <= {mark} THEN standing := 'settled'; END IF;")
        }
        // One statement, so that both are seen as of one moment: a row that was copied here has a record.
        (true, None) => format!(
            "IF NOT FOUND THEN
                SELECT coalesce(d.state, 'settled') INTO standing FROM {users} AS u
                    LEFT JOIN domicile.resident AS d ON d.user_key = u.{key} WHERE u.{key} = {owner};
            END IF;",
            users = home.users.name.sql(),
            key = quote(&home.users.key),
        ),
        (false, _) => String::new(),
    };
    let probe = format!(
        "SELECT d.state INTO standing FROM domicile.resident AS d WHERE d.user_key = {owner};
            {adopted}"
    );
    if hops.is_empty() {
        let column = format!("{row}.{}", quote(&table.owner.column));
        let admit = format!("{attempt} := domicile.admit({owner});");
        let admit = if row == "NEW" && !is_user_table {
            format!(
                "IF standing IS NULL AND domicile.coming({owner}, TG_RELID, {column}) THEN
                    INSERT INTO domicile.resident (user_key, state, epoch, seen) VALUES ({owner}, 'settled', 1, 1)
                        ON CONFLICT (user_key) DO NOTHING;
                END IF;
                {admit}",
                column = literal(&table.owner.column),
            )
        } else {
            admit
        };
        let guarded = format!(
            "{owner} := {column};
        IF {owner} IS NOT NULL THEN
            {probe}
            IF standing IS DISTINCT FROM 'settled' THEN
                {admit}
            END IF;
        END IF;"
        );
        // A user who is being created was admitted by writing his record.
        return if is_user_table && row == "NEW" {
            format!("IF TG_OP = 'UPDATE' THEN {guarded} ELSE {owner} := {column}; END IF;")
        } else {
            guarded
        };
    }
    let first = &hops[0];
    let from = {
        let mut sql = format!("{} AS p1", first.parent.sql());
        for (n, hop) in hops.iter().enumerate().skip(1) {
            let (child, parent) = (format!("p{n}"), format!("p{}", n + 1));
            sql.push_str(&format!(
                " JOIN {} AS {parent} ON {}",
                hop.parent.sql(),
                equal(&parent, &hop.parent_columns, &child, &hop.columns)
            ));
        }
        sql
    };
    let of = format!("p{}.{}", hops.len(), quote(&table.owner.column));
    let condition = equal("p1", &first.parent_columns, row, &first.columns);
    let points = first
        .columns
        .iter()
        .map(|c| format!("{row}.{} IS NOT NULL", quote(c)));
    let points = points.collect::<Vec<_>>().join(" AND ");
    format!(
        "IF {points} THEN
            SELECT {of} INTO {owner} FROM {from} WHERE {condition};
            IF NOT FOUND THEN
                -- Deleted by the same statement, or not there yet: the parent's own guard decides.
                {prefix}_orphan := true;
            ELSIF {owner} IS NOT NULL THEN
                {probe}
                IF standing IS DISTINCT FROM 'settled' THEN
                    IF standing = 'moving' THEN
                        -- The parents first, so that none changes hands between this look and our commit.
                        SELECT {of} INTO {owner} FROM {from} WHERE {condition} FOR SHARE;
                        IF {owner} IS NULL THEN
                            RAISE EXCEPTION 'the row changed hands; try again' USING ERRCODE = '40001';
                        END IF;
                    END IF;
                    {attempt} := domicile.admit({owner});
                    SELECT {of} INTO again FROM {from} WHERE {condition};
                    IF again IS DISTINCT FROM {owner} THEN
                        RAISE EXCEPTION 'the row changed hands; try again' USING ERRCODE = '40001';
                    END IF;
                END IF;
            END IF;
        END IF;"
    )
}

/// What the user table's guard does besides: creation writes the record, a key changes only as a deletion and
/// a creation, and a pinned market is written at its pin alone.
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
                DETAIL = jsonb_build_object('home', {origin}, 'epoch', 0)::text;
        END IF;"
        ),
        _ => String::new(),
    };
    let pinned: Vec<String> = terms
        .pinned
        .iter()
        .filter(|(_, site)| site != terms.site)
        .map(|(market, _)| literal(market.as_str()))
        .collect();
    let pin = match &home.users.market {
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
        "{pin}
    IF TG_OP = 'INSERT' THEN
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

/// The statements that attach the guard to `table`, where it does not stand already. Run them in one
/// transaction with a short `lock_timeout`: CREATE TRIGGER waits for open writers, and others queue behind it.
pub fn attach(table: &OwnedTable, terms: &Terms<'_>) -> String {
    format!(
        "DROP TRIGGER IF EXISTS {trigger} ON {table};
DROP TRIGGER IF EXISTS {truncate} ON {table};
CREATE TRIGGER {trigger} AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW
    WHEN (session_user <> {mover}) EXECUTE FUNCTION domicile.{function}();
CREATE TRIGGER {truncate} BEFORE TRUNCATE ON {table} FOR EACH STATEMENT
    WHEN (session_user <> {mover}) EXECUTE FUNCTION domicile.guard_truncate();
ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger};
ALTER TABLE {table} ENABLE ALWAYS TRIGGER {truncate};",
        trigger = quote(TRIGGER),
        truncate = quote(TRUNCATE_TRIGGER),
        table = table.name.sql(),
        mover = literal(terms.mover),
        function = quote(&function_name(table)),
    )
}

/// The statements that take the guard off `table`.
pub fn detach(table: &OwnedTable) -> String {
    format!(
        "DROP TRIGGER IF EXISTS {} ON {table}; DROP TRIGGER IF EXISTS {} ON {table};",
        quote(TRIGGER),
        quote(TRUNCATE_TRIGGER),
        table = table.name.sql()
    )
}

/// The stripe of the users at `position` in an enrolment: neighbours share one, so that a batch needs few locks.
pub fn stripe(position: usize, batch_users: usize) -> i32 {
    ((position / batch_users.max(1)) % STRIPES as usize) as i32
}
