//! Watches over the guard: whether it stands, and, where an administrator installed it, an event trigger that refuses
//! to lose it.

use model::fault::{Bug, planted};
use model::table::{HomeSchema, literal};
use tokio_postgres::GenericClient;

use crate::Result;
use crate::error::Doing;
use crate::guard::{TRIGGER, TRUNCATE_TRIGGER};
use crate::need::UNSETTLED;

/// The event trigger's name.
pub const EVENT_TRIGGER: &str = "domicile_keep_guard";
/// The name of its half that sees what is dropped.
pub const DROP_TRIGGER: &str = "domicile_keep_guard_drop";

/// Whether trigger `g` is one of the guard's as we made it: fires always, at everything, for everybody but one role,
/// and calls a function of ours. A trigger can be replaced by whoever has the right TRIGGER on its table.
///
/// 29: AFTER INSERT OR UPDATE OR DELETE FOR EACH ROW; 34: BEFORE TRUNCATE FOR EACH STATEMENT.
const STANDS: &str = "g.tgattr = ''::int2vector \
    AND (g.tgname, g.tgtype) IN (('DOMICILE_GUARD', 29), ('DOMICILE_GUARD_TRUNCATE', 34)) \
    AND pg_get_triggerdef(g.oid) ~ ' WHEN [(][(]SESSION_USER <> ''([^'']|'''')*''::name[)][)] EXECUTE FUNCTION domicile[.]'";

/// The owned tables on which the guard does not stand as it must: both triggers, unchanged, and ENABLE ALWAYS.
pub async fn unguarded(session: &impl GenericClient, home: &HomeSchema) -> Result<Vec<String>> {
    let tables: Vec<String> = home.owned.iter().map(|table| table.name.sql()).collect();
    let rows = session
        .query(
            &format!(
                "SELECT t FROM unnest($1::text[]) AS t WHERE EXISTS \
                     (SELECT FROM (SELECT to_regclass(t) UNION SELECT p.relid FROM pg_partition_tree(to_regclass(t)) AS p \
                                   WHERE p.isleaf) AS part(relation) \
                      WHERE (SELECT count(*) FROM pg_trigger AS g WHERE g.tgrelid = part.relation AND {STANDS} \
                               AND g.tgenabled = 'A') <> 2)"
            ),
            &[&tables],
        )
        .await
        .doing("looking whether the guard stands")?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The statements that create the event trigger: a command that leaves a guarded table without its guard, or with a
/// disabled one, is refused, whoever gives it; but the row trigger may rest where `need` allows it. Where a
/// command takes away what allowed that, the row trigger is put on in its transaction. Only a superuser can run them.
///
/// Nothing here goes by `guarded.rests` alone: who owns the schema could write it. It says only that the mover meant it.
pub fn event_trigger(mover: &str) -> String {
    let mover = literal(mover);
    let unsettled = match planted(Bug::RestUnsettled) {
        true => "false",
        false => UNSETTLED,
    };
    format!(
        r#"
CREATE OR REPLACE FUNCTION domicile.keep_guard() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $keep$
DECLARE
    bare text;
    leaf regclass;
    identity name;
    rested oid;
    touches boolean := false;
BEGIN
    IF TG_EVENT = 'sql_drop' THEN
        IF NOT EXISTS (SELECT FROM pg_event_trigger_dropped_objects() AS o WHERE NOT o.is_temporary
                AND o.classid IN ('pg_trigger'::regclass, 'pg_constraint'::regclass, 'pg_proc'::regclass)) THEN
            RETURN;
        END IF;
    ELSE
        touches := EXISTS (SELECT FROM pg_event_trigger_ddl_commands() AS c WHERE c.classid = 'pg_class'::regclass
            AND c.objid IN (SELECT w.relation FROM domicile.guarded AS w
                            UNION SELECT p.relid FROM domicile.guarded AS w, pg_partition_tree(w.relation) AS p));
    END IF;
    -- A new partition has its root's row trigger already, which guards all but TRUNCATE.
    FOR leaf, identity IN SELECT p.relid, (SELECT c.relname FROM pg_index AS r, pg_partition_tree(r.indexrelid) AS t
                JOIN pg_index AS x ON x.indexrelid = t.relid JOIN pg_class AS c ON c.oid = x.indexrelid
                WHERE r.indrelid = w.relation AND r.indisreplident AND x.indrelid = p.relid)
            FROM domicile.guarded AS w, pg_partition_tree(w.relation) AS p
            WHERE p.isleaf AND p.relid <> w.relation AND NOT EXISTS (SELECT FROM pg_trigger AS g
                WHERE g.tgrelid = p.relid AND g.tgname = '{TRUNCATE_TRIGGER}') LOOP
        -- This command comes here again by its own event, and may have done the rest.
        IF NOT EXISTS (SELECT FROM pg_trigger AS g WHERE g.tgrelid = leaf AND g.tgname = '{TRUNCATE_TRIGGER}') THEN
            EXECUTE format('CREATE TRIGGER "{TRUNCATE_TRIGGER}" BEFORE TRUNCATE ON %s FOR EACH STATEMENT
                WHEN (session_user <> %L) EXECUTE FUNCTION domicile.guard_truncate()', leaf, {mover});
            EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER "{TRUNCATE_TRIGGER}"', leaf);
            IF identity IS NOT NULL THEN
                EXECUTE format('ALTER TABLE %s REPLICA IDENTITY USING INDEX %I', leaf, identity);
            END IF;
        END IF;
    END LOOP;
    -- Whatever may have taken a condition away, or put a guard to rest.
    IF TG_EVENT = 'sql_drop' OR TG_TAG IN ('CREATE SUBSCRIPTION', 'ALTER SUBSCRIPTION')
            OR TG_TAG = 'ALTER TABLE' AND touches THEN
        -- Nobody puts a guard to rest until this transaction has ended; where one rests, perhaps by this very command,
        -- nobody is enrolled or begins to arrive either. Where all stand, who is enrolled keeps nobody waiting.
        IF EXISTS (SELECT FROM domicile.guarded AS w WHERE w.rests) THEN
            LOCK TABLE domicile.guarded IN SHARE MODE;
        ELSE
            LOCK TABLE domicile.guarded IN ROW EXCLUSIVE MODE;
        END IF;
        IF current_setting('transaction_isolation') <> 'read committed' THEN
            -- Its snapshot may be of before: then this fails with 40001, for everyone who did that wrote here.
            PERFORM FROM domicile.guarded FOR SHARE;
        END IF;
        FOR rested IN SELECT w.relation FROM domicile.guarded AS w JOIN pg_class AS c ON c.oid = w.relation
                WHERE w.rests AND EXISTS (SELECT FROM pg_trigger AS g WHERE g.tgname = '{TRIGGER}' AND g.tgenabled = 'D'
                    AND (g.tgrelid = w.relation
                      OR g.tgrelid IN (SELECT p.relid FROM pg_partition_tree(w.relation) AS p))) LOOP
            IF domicile.guard_needed(rested) IS NOT NULL THEN
                FOR leaf IN SELECT p.relid FROM (SELECT rested, 0 UNION SELECT p.relid::oid, p.level
                        FROM pg_partition_tree(rested) AS p WHERE p.level > 0) AS p(relid, level)
                        ORDER BY p.level, p.relid LOOP
                    -- The root takes its partitions along; by its own event this may be done.
                    IF EXISTS (SELECT FROM pg_trigger AS g
                               WHERE g.tgrelid = leaf AND g.tgname = '{TRIGGER}' AND g.tgenabled = 'D') THEN
                        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER "{TRIGGER}"', leaf);
                    END IF;
                END LOOP;
                UPDATE domicile.guarded AS w SET rests = false WHERE w.relation = rested AND w.rests;
            ELSIF touches AND {unsettled} THEN
                RAISE EXCEPTION 'the guard on % must stand: users are moving or have left', rested::regclass
                    USING ERRCODE = 'DM409';
            END IF;
        END LOOP;
    END IF;
    SELECT part.relation::regclass::text INTO bare FROM domicile.guarded AS w
        JOIN pg_class AS c ON c.oid = w.relation
        CROSS JOIN LATERAL (SELECT w.relation::oid UNION SELECT p.relid::oid FROM pg_partition_tree(w.relation) AS p
                            WHERE p.isleaf) AS part(relation)
        WHERE (SELECT count(*) FROM pg_trigger AS g WHERE g.tgrelid = part.relation AND {STANDS}
                 AND (g.tgenabled = 'A' OR g.tgname = '{TRIGGER}' AND g.tgenabled = 'D' AND w.rests
                                        OR part.relation <> w.relation AND g.tgenabled = 'O'
                                           AND g.tgname = '{TRUNCATE_TRIGGER}')) <> 2 -- as above, in between
        LIMIT 1;
    IF bare IS NOT NULL THEN
        RAISE EXCEPTION 'the guard on % must stand; take Domicile out with `domicile uninstall`', bare
            USING ERRCODE = 'DM409';
    END IF;
END $keep$;
DROP EVENT TRIGGER IF EXISTS {EVENT_TRIGGER};
CREATE EVENT TRIGGER {EVENT_TRIGGER} ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'CREATE TRIGGER', 'ALTER TRIGGER', 'CREATE TABLE', 'CREATE SUBSCRIPTION',
                 'ALTER SUBSCRIPTION') EXECUTE FUNCTION domicile.keep_guard();
DROP EVENT TRIGGER IF EXISTS {DROP_TRIGGER};
CREATE EVENT TRIGGER {DROP_TRIGGER} ON sql_drop EXECUTE FUNCTION domicile.keep_guard();
ALTER EVENT TRIGGER {EVENT_TRIGGER} ENABLE ALWAYS;
ALTER EVENT TRIGGER {DROP_TRIGGER} ENABLE ALWAYS;
"#
    )
}
