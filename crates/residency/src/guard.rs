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

mod dependants;
mod function;
mod key;
mod quick;
mod side;

use std::collections::BTreeMap;

use model::fault::{Bug, planted};
use model::table::{HomeSchema, OwnedTable, TableName, literal, quote};
use model::{Market, SiteName};

pub use function::table_function;

use crate::{LOCK_CLASS, STRIPES};

/// The row trigger's name. It sorts before `RI_ConstraintTrigger...`.
pub const TRIGGER: &str = "DOMICILE_GUARD";
/// The TRUNCATE trigger's name.
pub const TRUNCATE_TRIGGER: &str = "DOMICILE_GUARD_TRUNCATE";
/// The prefix of the logical messages that name a changed row's owner.
pub const ROW_MESSAGE: &str = "domicile.row";
/// SQLSTATE of "not here": DETAIL is `{"home": site, "epoch": n, "nonce": text}`.
pub const NOT_HERE: &str = "DM421";
/// SQLSTATE of "this market may not be written here".
pub const PINNED: &str = "DM403";
/// SQLSTATE of "this must stand": no home to go to, and no sense in trying again.
pub const KEPT: &str = "DM409";

/// SQLSTATE of "closed since the server restarted": try again later.
pub const CLOSED: &str = "DM503";

/// Whether the site has been opened since its server started, in a query. By the table's own oid too, so that a row which a dump
/// brought along does not count.
pub(crate) const OPEN: &str = "EXISTS (SELECT FROM domicile.open AS o \
     WHERE o.since = pg_postmaster_start_time() AND o.relation = o.tableoid AND o.compared)";

/// The site's nonce, in a query: with it an application shows its gateway that the guard refused, and that it did so here.
pub(crate) const NONCE: &str = "(SELECT h.nonce FROM domicile.home AS h)";

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
    pub pinned: &'a BTreeMap<Market, SiteName>,
    /// Whether the guard is closed after a restart, until the site has compared itself with its peers.
    pub closes: bool,
}

impl Terms<'_> {
    fn is_origin(&self) -> bool {
        self.site == self.origin
    }

    /// What refuses while the guard is closed; nothing where it never is.
    fn refuse_closed(&self) -> String {
        match self.closes {
            false => String::new(),
            true => format!(
                "IF NOT {OPEN} THEN
        RAISE EXCEPTION 'this site is closed until it has compared its records with its peers'
            USING ERRCODE = '{CLOSED}';
    END IF;"
            ),
        }
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
            DETAIL = jsonb_build_object('home', {origin}, 'epoch', 0, 'nonce', {NONCE})::text;
    END IF;
    IF r.state = 'moving' THEN
        {lock}
    END IF;
    IF r.state = 'settled' THEN
        RETURN NULL;
    ELSIF r.state IN ('fenced', 'offered') THEN
        RAISE EXCEPTION 'the user is changing home; try again' USING ERRCODE = '40001',
            DETAIL = jsonb_build_object('nonce', {NONCE})::text;
    ELSIF r.state = 'lost' THEN
        RAISE EXCEPTION 'the user is closed until an operator resolves what a restore lost'
            USING ERRCODE = 'DM423';
    END IF;
    RAISE EXCEPTION 'the user does not live at this site' USING ERRCODE = '{NOT_HERE}',
        DETAIL = jsonb_build_object('home', coalesce(r.peer, {origin}), 'epoch', r.epoch, 'nonce', {NONCE})::text;
END $admit$;

-- Refuses a row that belongs to another one which is not here, where no foreign key does: once users have left, it may
-- be theirs. Where everybody still lives it may dangle, as it may without Domicile.
CREATE OR REPLACE FUNCTION domicile.adrift() RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $adrift$
BEGIN
    IF NOT {is_origin} OR EXISTS (SELECT 1 FROM domicile.resident AS d WHERE d.state = 'departed') THEN
        RAISE EXCEPTION 'the row that this one belongs to is not at this site' USING ERRCODE = '{NOT_HERE}',
            DETAIL = jsonb_build_object('home', {origin}, 'epoch', 0, 'nonce', {NONCE})::text;
    END IF;
END $adrift$;

-- For an application whose statement a foreign key refused: where does the user live, as far as known here?
CREATE OR REPLACE FUNCTION domicile.where_is(k {key}) RETURNS jsonb LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $where$
    SELECT jsonb_build_object('nonce', h.nonce) || coalesce(
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
    {refuse_closed}
    IF EXISTS (SELECT 1 FROM domicile.resident AS d
               WHERE d.state <> 'settled' AND NOT (d.state = 'departed' AND d.erased_at IS NOT NULL)) THEN
        RAISE EXCEPTION 'TRUNCATE of % would delete rows of users who are moving or have left', TG_TABLE_NAME
            USING ERRCODE = '{KEPT}';
    END IF;
    RETURN NULL;
END $truncate$;
"#,
        is_origin = terms.is_origin(),
        refuse_closed = terms.refuse_closed(),
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

/// The statements that attach the guard to `table`, where it does not stand already. Run them in one
/// transaction with a short `lock_timeout`: CREATE TRIGGER waits for open writers, and others queue behind it.
pub fn attach(table: &OwnedTable, terms: &Terms<'_>) -> String {
    let mut sql = detach(table);
    if let Some(index) = &table.identity_wanted {
        let index = TableName {
            schema: table.name.schema.clone(),
            name: index.clone(),
        };
        // Of a partitioned table's each partition has its own, which is a part of the index.
        sql.push_str(&format!(
            "
DO $identity$
DECLARE
    part record;
BEGIN
    FOR part IN SELECT x.indrelid::regclass AS relation, c.relname FROM pg_index AS x
            JOIN pg_class AS c ON c.oid = x.indexrelid
            WHERE x.indexrelid = {index}::regclass
                OR x.indexrelid IN (SELECT p.relid FROM pg_partition_tree({index}::regclass) AS p) LOOP
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY USING INDEX %I', part.relation, part.relname);
    END LOOP;
END $identity$;",
            index = literal(&index.sql()),
        ));
    }
    let (trigger, mover) = (quote(TRIGGER), literal(terms.mover));
    // PostgreSQL gives partitions the row trigger of their root, those to come too.
    sql.push_str(&format!(
        "
CREATE TRIGGER {trigger} AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW
    WHEN (session_user <> {mover}) EXECUTE FUNCTION domicile.{function}();",
        table = table.name.sql(),
        function = quote(&function_name(table)),
    ));
    for part in parts(table) {
        sql.push_str(&format!(
            "
CREATE TRIGGER {truncate} BEFORE TRUNCATE ON {part} FOR EACH STATEMENT
    WHEN (session_user <> {mover}) EXECUTE FUNCTION domicile.guard_truncate();
ALTER TABLE {part} ENABLE ALWAYS TRIGGER {trigger};
ALTER TABLE {part} ENABLE ALWAYS TRIGGER {truncate};",
            truncate = quote(TRUNCATE_TRIGGER),
        ));
    }
    sql
}

/// The statements that take the guard off `table`.
pub fn detach(table: &OwnedTable) -> String {
    let mut sql = format!(
        "DROP TRIGGER IF EXISTS {} ON {};",
        quote(TRIGGER),
        table.name.sql()
    );
    for part in parts(table) {
        sql.push_str(&format!(
            " DROP TRIGGER IF EXISTS {} ON {part};",
            quote(TRUNCATE_TRIGGER)
        ));
    }
    sql
}

/// The table and its partitions, as SQL: a TRUNCATE of a partition fires no trigger of its root.
fn parts(table: &OwnedTable) -> impl Iterator<Item = String> {
    std::iter::once(table.name.sql()).chain(table.leaves.iter().map(|(leaf, _)| leaf.sql()))
}

/// The stripe of the users at `position` in an enrolment: neighbours share one, so that a batch needs few locks.
pub fn stripe(position: usize, batch_users: usize) -> i32 {
    ((position / batch_users.max(1)) % STRIPES as usize) as i32
}
