//! The tables of the schema `domicile` in a home database.

use model::KeyKind;

/// The statements that create what does not exist yet. Each may run again.
///
/// What each table is for stands in its COMMENT, so that an operator who looks with psql finds it.
pub fn statements(kind: KeyKind) -> String {
    let key = kind.sql_type();
    format!(
        r#"
CREATE SCHEMA IF NOT EXISTS domicile;
COMMENT ON SCHEMA domicile IS 'Domicile: who lives at this site. The truth; do not edit by hand.';

CREATE TABLE IF NOT EXISTS domicile.home (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    service text NOT NULL,
    site text NOT NULL,
    origin text NOT NULL,
    is_origin boolean NOT NULL,
    key_kind text NOT NULL,
    known_by text NOT NULL CHECK (known_by IN ('mark', 'row')),
    mark bigint,
    version integer NOT NULL,
    after_restart text NOT NULL DEFAULT 'open',
    secret bytea NOT NULL,
    fingerprint text NOT NULL,
    shut text,
    installed_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE domicile.home IS 'What this database is: one row.';
-- Of version 5.
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'domicile.home'::regclass AND attname = 'shut') THEN
        ALTER TABLE domicile.home ADD COLUMN shut text;
    END IF;
END $$;
COMMENT ON COLUMN domicile.home.shut IS 'Why the site was closed by hand: until somebody opens it nothing else does.';
-- Of version 7. Made here and never again, so that it stays the same however often this runs.
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'domicile.home'::regclass AND attname = 'nonce') THEN
        ALTER TABLE domicile.home ADD COLUMN nonce text NOT NULL DEFAULT replace(gen_random_uuid()::text, '-', '');
    END IF;
END $$;
COMMENT ON COLUMN domicile.home.nonce IS
    'What the guard shows with a refusal: whoever repeats it to the gateway was refused here, and made nothing up.';

CREATE TABLE IF NOT EXISTS domicile.resident (
    user_key {key} PRIMARY KEY,
    state text NOT NULL CHECK (state IN
        ('settled', 'moving', 'fenced', 'offered', 'departed', 'arriving', 'clearing', 'lost')),
    epoch bigint NOT NULL,
    seen bigint NOT NULL,
    peer text,
    batch text,
    attempt bigint,
    attempt_seen bigint NOT NULL DEFAULT 0,
    stripe integer NOT NULL DEFAULT 0,
    kept jsonb,
    erased_at timestamptz,
    changed_at timestamptz NOT NULL DEFAULT now(),
    told bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
COMMENT ON TABLE domicile.resident IS 'Who lives here, who left and where to, who is on his way. Rows are never deleted.';
-- Of version 5; looked for first, as the lock would wait for a move.
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'domicile.resident'::regclass AND attname = 'told') THEN
        ALTER TABLE domicile.resident ADD COLUMN told bigint NOT NULL DEFAULT 0;
        UPDATE domicile.resident SET told = -1
            WHERE state = 'departed' OR epoch > 1 AND state IN ('settled', 'moving', 'fenced', 'offered');
    END IF;
END $$;
COMMENT ON COLUMN domicile.resident.told IS
    'The position at which peers are told of this change of home; -1: to be numbered, 0: there was none.';
-- Not IF NOT EXISTS: that locks the table before it looks.
DO $$ BEGIN
    IF to_regclass('domicile.resident_unsettled') IS NOT NULL THEN
        -- Of version 1.
        DROP INDEX domicile.resident_unsettled;
    END IF;
    IF to_regclass('domicile.resident_attempt') IS NULL THEN
        -- Nothing that changes from step to step: a change of state then touches no index (a heap-only update).
        CREATE INDEX resident_attempt ON domicile.resident (attempt) WHERE attempt IS NOT NULL;
    END IF;
    IF to_regclass('domicile.resident_told') IS NULL THEN
        CREATE INDEX resident_told ON domicile.resident (told) WHERE told <> 0;
    END IF;
END $$;

CREATE TABLE IF NOT EXISTS domicile.telling (
    position bigint PRIMARY KEY CHECK (position > 0),
    mark uuid NOT NULL DEFAULT gen_random_uuid(),
    at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE domicile.telling IS
    'Up to where changes of home were numbered, run by run; the mark tells a run from another one of the same numbers.';

CREATE TABLE IF NOT EXISTS domicile.heard (
    peer text PRIMARY KEY,
    position bigint,
    mark text,
    again boolean NOT NULL DEFAULT false,
    at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE domicile.heard IS
    'How far this site came with what each peer tells of changes of home; again: it is to be heard from the beginning.';

-- Not logged: a crash, a promotion and a restore leave it empty.
CREATE UNLOGGED TABLE IF NOT EXISTS domicile.open (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    since timestamptz NOT NULL,
    relation oid NOT NULL,
    compared boolean NOT NULL,
    why text NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE domicile.open IS
    'That this site has heard its peers since its server started at that time (compared: to the end of it, and is open): see docs/restores.md.';

CREATE TABLE IF NOT EXISTS domicile.gateway (
    name text PRIMARY KEY,
    lease_until timestamptz NOT NULL,
    renewed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    passed_at timestamptz,
    since timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE domicile.gateway IS
    'Gateways that stand before this database; passed_at: a fence went past it, as its lease had ended.';

-- Not logged: a crash, a promotion and a restore leave them empty, and no fence passes a closing that is not there. So
-- nobody waits for a disk, or for a standby, while users are closed.
CREATE UNLOGGED TABLE IF NOT EXISTS domicile.closing (
    batch text PRIMARY KEY,
    users {key}[] NOT NULL,
    closed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    until timestamptz NOT NULL,
    opened_at timestamptz,
    home text,
    epochs bigint[]
);
COMMENT ON TABLE domicile.closing IS
    'Doors of batches: closed until opened_at; then home and epochs say where the users live, or, without a home, the records do.';

CREATE UNLOGGED TABLE IF NOT EXISTS domicile.closed (
    batch text NOT NULL,
    gateway text NOT NULL,
    undrained bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (batch, gateway)
);
COMMENT ON TABLE domicile.closed IS
    'Which gateway has closed its door for which batch, and how many requests had not ended by then.';

CREATE TABLE IF NOT EXISTS domicile.traffic (
    at timestamptz NOT NULL,
    span text NOT NULL CHECK (span IN ('minute', 'hour')),
    home text NOT NULL,
    market text NOT NULL,
    bounds_ms integer[] NOT NULL,
    requests bigint NOT NULL,
    failures bigint NOT NULL,
    parked bigint NOT NULL,
    redirected bigint NOT NULL,
    total_us bigint NOT NULL,
    within bigint[] NOT NULL CHECK (cardinality(within) = cardinality(bounds_ms) + 1),
    PRIMARY KEY (at, span, home, market, bounds_ms)
);
COMMENT ON TABLE domicile.traffic IS
    'What gateways of this site were asked, by home and market, nothing of users: minutes, and hours of what is older.';

CREATE TABLE IF NOT EXISTS domicile.counting (
    gateway text PRIMARY KEY,
    n bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE domicile.counting IS 'Up to which number each gateway''s counts stand in domicile.traffic.';

CREATE TABLE IF NOT EXISTS domicile.claim (
    hash bytea PRIMARY KEY CHECK (octet_length(hash) = 32),
    kind text NOT NULL,
    user_key {key} NOT NULL,
    site text NOT NULL,
    state text NOT NULL CHECK (state IN ('pending', 'held')),
    until timestamptz NOT NULL,
    turn bigint NOT NULL DEFAULT 1,
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    since timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE domicile.claim IS
    'Names that are unique everywhere, by keyed hashes, where this site keeps the registry: nobody else may have one, and until then it is not taken away.';
CREATE INDEX IF NOT EXISTS claim_asked ON domicile.claim (state, asked_at);

CREATE TABLE IF NOT EXISTS domicile.claim_operation (
    operation bytea PRIMARY KEY,
    request text NOT NULL,
    answer jsonb,
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE domicile.claim_operation IS
    'What was asked about claims within the last day, by keyed hashes of the operations'' ids, and how it was first answered.';
CREATE INDEX IF NOT EXISTS claim_operation_asked ON domicile.claim_operation (asked_at);

CREATE TABLE IF NOT EXISTS domicile.claim_told (
    site text NOT NULL,
    kind text NOT NULL,
    beginning timestamptz NOT NULL DEFAULT clock_timestamp(),
    began_at timestamptz,
    first_at timestamptz,
    PRIMARY KEY (site, kind)
);
COMMENT ON TABLE domicile.claim_told IS
    'When each site told all names that its users have: since when for the first time (first_at), and when it last began what it has ended.';

CREATE TABLE IF NOT EXISTS domicile.pinned (market text PRIMARY KEY, site text NOT NULL);
COMMENT ON TABLE domicile.pinned IS 'Markets whose users may be written at one site only.';

CREATE TABLE IF NOT EXISTS domicile.policy (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    version text NOT NULL,
    body jsonb NOT NULL,
    installed_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE domicile.policy IS
    'This site''s own copy of the policy: the last one is in force, those before were. Written by `domicile install`.';

CREATE TABLE IF NOT EXISTS domicile.guarded (
    relation regclass PRIMARY KEY,
    rests boolean NOT NULL DEFAULT false
);
-- Of version 2; looked for first, as the lock would wait for a move.
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'domicile.guarded'::regclass AND attname = 'rests') THEN
        ALTER TABLE domicile.guarded ADD COLUMN rests boolean NOT NULL DEFAULT false;
    END IF;
END $$;
COMMENT ON TABLE domicile.guarded IS
    'Tables on which the guard must stand; where it rests, nobody moves and foreign keys do its work.';

CREATE TABLE IF NOT EXISTS domicile.office (
    name text PRIMARY KEY,
    term bigint NOT NULL,
    taken_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE domicile.office IS 'Which mover acts here: a transaction under an older term is refused.';

CREATE SEQUENCE IF NOT EXISTS domicile.attempt;
CREATE SEQUENCE IF NOT EXISTS domicile.batch;
CREATE SEQUENCE IF NOT EXISTS domicile.move_number;

CREATE TABLE IF NOT EXISTS domicile.move (
    move_id text PRIMARY KEY,
    service text NOT NULL,
    source text NOT NULL,
    target text NOT NULL,
    phase text,
    direction text NOT NULL DEFAULT 'forward' CHECK (direction IN ('forward', 'back')),
    of text,
    state text NOT NULL CHECK (state IN ('running', 'done', 'aborted')),
    policy text,
    started_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    moved bigint NOT NULL DEFAULT 0,
    rows bigint NOT NULL DEFAULT 0,
    bytes bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE domicile.move IS 'Moves that leave from here.';

CREATE TABLE IF NOT EXISTS domicile.steering (
    move_id text PRIMARY KEY REFERENCES domicile.move,
    wish text CHECK (wish IN ('pause', 'abort')),
    throttled boolean NOT NULL DEFAULT false,
    rate bigint CHECK (rate > 0),
    at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE domicile.steering IS
    'What is wished of moves: to pause, to abort, to copy at that many bytes a second (throttled without a rate: unlimited).';

CREATE TABLE IF NOT EXISTS domicile.activity (
    move_id text PRIMARY KEY REFERENCES domicile.move,
    term bigint NOT NULL,
    doing jsonb NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE domicile.activity IS
    'What the process that carries a move last said of itself; true as long as it holds the office of that term.';

CREATE TABLE IF NOT EXISTS domicile.slot (name text PRIMARY KEY, identity text NOT NULL);
COMMENT ON TABLE domicile.slot IS 'The replication slot that moves read; a new slot is a new identity.';

CREATE TABLE IF NOT EXISTS domicile.chunk (
    attempt bigint PRIMARY KEY,
    move_id text NOT NULL REFERENCES domicile.move,
    target text NOT NULL,
    slot text NOT NULL,
    state text NOT NULL CHECK (state IN ('enrolled', 'copied', 'cancelled', 'finished')),
    users bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE domicile.chunk IS
    'Copying attempts that leave from here. cancelled: to be told to the target until it has cleaned up.';
CREATE INDEX IF NOT EXISTS chunk_open ON domicile.chunk (move_id) WHERE state <> 'finished';

CREATE TABLE IF NOT EXISTS domicile.batch_log (
    batch text PRIMARY KEY,
    move_id text NOT NULL REFERENCES domicile.move,
    attempt bigint NOT NULL,
    users bigint NOT NULL,
    rows bigint NOT NULL,
    digest jsonb,
    pause_us bigint,
    departed_at timestamptz NOT NULL DEFAULT now()
);
-- Of version 7; looked for first, as the lock would wait for a move.
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'domicile.batch_log'::regclass AND attname = 'markets') THEN
        ALTER TABLE domicile.batch_log ADD COLUMN markets jsonb;
    END IF;
END $$;
COMMENT ON COLUMN domicile.batch_log.markets IS 'How many of its users were of which market.';
COMMENT ON TABLE domicile.batch_log IS 'Batches that changed home from here, with the digest that both sides agreed on.';

CREATE TABLE IF NOT EXISTS domicile.passenger (
    batch text NOT NULL,
    user_key {key} NOT NULL,
    epoch bigint NOT NULL,
    PRIMARY KEY (batch, user_key)
);
COMMENT ON TABLE domicile.passenger IS 'Who went in which batch.';
CREATE INDEX IF NOT EXISTS passenger_user ON domicile.passenger (user_key);

CREATE TABLE IF NOT EXISTS domicile.set_aside (
    move_id text NOT NULL REFERENCES domicile.move,
    user_key {key} NOT NULL,
    reason text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (move_id, user_key)
);
COMMENT ON TABLE domicile.set_aside IS 'Users whom a move left where they are, and why.';

CREATE TABLE IF NOT EXISTS domicile.inbound (
    source text NOT NULL,
    attempt bigint NOT NULL,
    slot text NOT NULL,
    snapshot text,
    position pg_lsn NOT NULL DEFAULT '0/0',
    state text NOT NULL CHECK (state IN ('copying', 'copied', 'streaming', 'cancelled', 'finished')),
    rows bigint NOT NULL DEFAULT 0,
    bytes bigint NOT NULL DEFAULT 0,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, attempt)
);
COMMENT ON TABLE domicile.inbound IS
    'Copying attempts that arrive here, each with the stream position that its rows stand at.';

CREATE TABLE IF NOT EXISTS domicile.spool (
    source text NOT NULL,
    attempt bigint NOT NULL,
    n bigint GENERATED ALWAYS AS IDENTITY,
    xid bigint NOT NULL,
    commit_lsn pg_lsn NOT NULL,
    change bytea NOT NULL,
    PRIMARY KEY (source, attempt, n)
);
COMMENT ON TABLE domicile.spool IS 'Changes of attempts that are still being copied, in stream order.';

CREATE TABLE IF NOT EXISTS domicile.spoilt (
    source text NOT NULL,
    attempt bigint NOT NULL,
    user_key {key} NOT NULL,
    reason text NOT NULL,
    PRIMARY KEY (source, attempt, user_key)
);
COMMENT ON TABLE domicile.spoilt IS 'Users of an arriving attempt to whom a change could not be applied: never accepted in it.';

CREATE TABLE IF NOT EXISTS domicile.decision (
    service text NOT NULL,
    batch text NOT NULL,
    source text NOT NULL,
    verdict text NOT NULL CHECK (verdict IN ('accepted', 'refused')),
    named jsonb NOT NULL DEFAULT '[]',
    highest bigint NOT NULL DEFAULT 0,
    digest jsonb,
    decided_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (service, batch)
);
COMMENT ON TABLE domicile.decision IS 'What this site said of a batch: inserted once, never updated.';

CREATE SEQUENCE IF NOT EXISTS domicile.erasure_number;

CREATE TABLE IF NOT EXISTS domicile.erasure (
    erasure text PRIMARY KEY,
    scope text NOT NULL CHECK (scope IN ('batch', 'user')),
    batch text,
    move_id text,
    state text NOT NULL CHECK (state IN ('frozen', 'deleting', 'deleted', 'vacuumed', 'purged')),
    residue boolean NOT NULL DEFAULT false,
    users bigint NOT NULL,
    rows bigint NOT NULL,
    digest jsonb NOT NULL,
    agreed boolean,
    reason text,
    began_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    deleted_xid bigint,
    deleted_lsn pg_lsn,
    files jsonb,
    vacuumed_at timestamptz,
    vacuumed_lsn pg_lsn,
    left_in jsonb,
    wal jsonb,
    wal_clear_at timestamptz,
    backups_kept bigint,
    purged_at timestamptz
);
COMMENT ON TABLE domicile.erasure IS
    'Erasures at this site: how far each has come, and what was seen when it came there. Rows are never deleted.';
CREATE INDEX IF NOT EXISTS erasure_open ON domicile.erasure (state) WHERE state IN ('deleting', 'deleted', 'vacuumed');

CREATE TABLE IF NOT EXISTS domicile.erasing (
    erasure text NOT NULL REFERENCES domicile.erasure,
    user_key {key} NOT NULL,
    epoch bigint NOT NULL,
    PRIMARY KEY (erasure, user_key)
);
COMMENT ON TABLE domicile.erasing IS 'Whose rows an erasure is about; deleted when it has come to its end.';

CREATE TABLE IF NOT EXISTS domicile.entry (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    kind text NOT NULL,
    body jsonb NOT NULL
);
COMMENT ON TABLE domicile.entry IS
    'What happened, written in the transaction that did it; append-only. The ledger takes its entries from here.';

CREATE TABLE IF NOT EXISTS domicile.salt (user_key text PRIMARY KEY, salt bytea NOT NULL);
COMMENT ON TABLE domicile.salt IS
    'Secret: what opens the commitments to users in ledger entries. A row that is deleted makes those to its user nobody''s.';

CREATE TABLE IF NOT EXISTS domicile.leaf (
    position bigint PRIMARY KEY CHECK (position >= 0),
    n bigint NOT NULL UNIQUE,
    hash bytea NOT NULL
);
COMMENT ON TABLE domicile.leaf IS 'The ledger: which entry stands at which position, and the hash of its text; append-only.';

CREATE TABLE IF NOT EXISTS domicile.node (
    level smallint NOT NULL CHECK (level > 0),
    number bigint NOT NULL,
    hash bytea NOT NULL,
    PRIMARY KEY (level, number)
);
COMMENT ON TABLE domicile.node IS 'The ledger''s Merkle tree (RFC 6962) above the leaves: the perfect subtrees; append-only.';

CREATE TABLE IF NOT EXISTS domicile.head (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    size bigint NOT NULL,
    root bytea NOT NULL,
    key bytea NOT NULL,
    note text NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE domicile.head IS 'Heads of the ledger that this site signed; append-only.';

CREATE TABLE IF NOT EXISTS domicile.cosigned (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    size bigint NOT NULL,
    peer text NOT NULL,
    key bytea NOT NULL,
    line text NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE domicile.cosigned IS 'What peers countersigned of this site''s ledger; append-only.';
CREATE INDEX IF NOT EXISTS cosigned_size ON domicile.cosigned (size);

CREATE TABLE IF NOT EXISTS domicile.witnessed (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    of text NOT NULL,
    size bigint NOT NULL,
    root bytea NOT NULL,
    key bytea NOT NULL,
    own_key bytea NOT NULL,
    note text NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE domicile.witnessed IS
    'Heads of peers'' ledgers that this site countersigned; append-only. It countersigns only what continues the last.';
CREATE INDEX IF NOT EXISTS witnessed_of ON domicile.witnessed (of, n);

CREATE TABLE IF NOT EXISTS domicile.refused_head (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    of text NOT NULL,
    held text NOT NULL,
    shown text NOT NULL,
    held_key bytea NOT NULL,
    shown_key bytea NOT NULL,
    reason text NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE domicile.refused_head IS
    'Heads of peers'' ledgers that contradict what this site countersigned: evidence; append-only.';

CREATE OR REPLACE FUNCTION domicile.keep() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $keep$
BEGIN
    RAISE EXCEPTION 'rows of %.% are never changed or deleted', TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'DM409';
END $keep$;
"#
    )
}

/// Tables whose rows are never changed or deleted, whatever role asks.
pub const APPEND_ONLY: &[&str] = &[
    "entry",
    "decision",
    "policy",
    "leaf",
    "node",
    "head",
    "cosigned",
    "witnessed",
    "refused_head",
];

/// Tables whose rows are never deleted.
pub const NEVER_DELETED: &[&str] = &["resident", "erasure"];

/// The statements that attach `domicile.keep` to them.
pub fn keepers() -> String {
    let mut sql = String::new();
    let mut attach = |table: &str, name: &str, events: &str| {
        // Only where it does not stand: its lock would wait for every open transaction that created a user.
        sql.push_str(&format!(
            "DO $$ BEGIN
               IF NOT EXISTS (SELECT 1 FROM pg_trigger WHERE tgrelid = 'domicile.{table}'::regclass
                              AND tgname = '{name}' AND tgenabled = 'A') THEN
                 CREATE OR REPLACE TRIGGER {name} BEFORE {events} ON domicile.{table}
                   FOR EACH STATEMENT EXECUTE FUNCTION domicile.keep();
                 ALTER TABLE domicile.{table} ENABLE ALWAYS TRIGGER {name};
               END IF;
             END $$;\n"
        ));
    };
    for table in APPEND_ONLY {
        attach(table, "keep", "UPDATE OR DELETE OR TRUNCATE");
    }
    for table in NEVER_DELETED {
        attach(table, "keep", "DELETE OR TRUNCATE");
    }
    sql
}
