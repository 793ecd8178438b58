-- One of everything that applications do with their tables. Members are the users.
CREATE SCHEMA "Zoo";
CREATE TYPE state AS ENUM ('new', 'paid', 'a "b", c');
CREATE TYPE kind AS ENUM ('order', 'user');
CREATE TYPE pair AS (n integer, word text);
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);

CREATE TABLE country (code text PRIMARY KEY, title text);
CREATE TABLE scratch (x integer);
CREATE TABLE member (id bigint PRIMARY KEY, market text NOT NULL, email text UNIQUE, updated_at timestamptz, v text);

-- Against the arrow: an address belongs to the member whose order points at it.
CREATE TABLE address (id bigint PRIMARY KEY, country text NOT NULL REFERENCES country, v text);
CREATE TABLE address_line (id bigint PRIMARY KEY, address_id bigint NOT NULL REFERENCES address ON DELETE CASCADE, v text);
CREATE TABLE orders (id bigint PRIMARY KEY, member_id bigint NOT NULL REFERENCES member ON DELETE CASCADE,
    address_id bigint REFERENCES address, total numeric(12,3) DEFAULT 0, state state NOT NULL DEFAULT 'new',
    placed timestamptz DEFAULT clock_timestamp(), touched integer NOT NULL DEFAULT 0, v text);
CREATE INDEX ON orders (member_id);
CREATE INDEX ON orders (address_id);

-- Paths of one to four steps, by composite keys.
CREATE TABLE line (order_id bigint REFERENCES orders ON DELETE CASCADE, n integer, v text, PRIMARY KEY (order_id, n));
CREATE TABLE line_option (n integer, order_id bigint, k integer, v text, PRIMARY KEY (order_id, n, k),
    FOREIGN KEY (order_id, n) REFERENCES line ON DELETE CASCADE);
CREATE TABLE option_note (id bigint PRIMARY KEY, k integer, n integer, order_id bigint, v text,
    FOREIGN KEY (order_id, n, k) REFERENCES line_option (order_id, n, k) ON DELETE CASCADE);
CREATE TABLE note_mark (id bigint PRIMARY KEY, note_id bigint NOT NULL REFERENCES option_note ON DELETE CASCADE, v text);

-- The first of several, and by cases.
CREATE TABLE gift (id bigint PRIMARY KEY, buyer_id bigint, seller_id bigint, v text);
CREATE TABLE gift_tag (id bigint PRIMARY KEY, gift_id bigint NOT NULL REFERENCES gift ON DELETE CASCADE, v text);
CREATE TABLE ticket (id bigint PRIMARY KEY, order_id bigint REFERENCES orders ON DELETE CASCADE, member_id bigint, v text);
CREATE TABLE ticket_line (id bigint PRIMARY KEY, ticket_id bigint NOT NULL REFERENCES ticket ON DELETE CASCADE, v text);
CREATE TABLE remark (id bigint PRIMARY KEY, kind kind NOT NULL, object_id bigint NOT NULL, v text);
CREATE TABLE reply (id bigint PRIMARY KEY, remark_id bigint NOT NULL REFERENCES remark ON DELETE CASCADE, v text);

-- A cycle, and a table that refers to itself.
CREATE TABLE team (id bigint PRIMARY KEY, member_id bigint NOT NULL REFERENCES member, lead_id bigint NOT NULL, v text);
CREATE TABLE player (id bigint PRIMARY KEY,
    team_id bigint NOT NULL REFERENCES team ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED, v text);
ALTER TABLE team ADD FOREIGN KEY (lead_id) REFERENCES player DEFERRABLE INITIALLY DEFERRED;
CREATE TABLE folder (id bigint PRIMARY KEY, member_id bigint NOT NULL REFERENCES member,
    parent_id bigint REFERENCES folder ON DELETE CASCADE, v text);

-- Keys: a unique index, a whole row, an identity.
CREATE TABLE token (token text NOT NULL UNIQUE, id bigint, member_id bigint NOT NULL REFERENCES member, v text);
CREATE TABLE diary (id bigint PRIMARY KEY, member_id bigint NOT NULL REFERENCES member, page text, v text);
ALTER TABLE diary REPLICA IDENTITY FULL;
ALTER TABLE diary ALTER page SET STORAGE EXTERNAL;
CREATE TABLE audit (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, member_id bigint NOT NULL REFERENCES member,
    what text, v text);

-- Rows with two members.
CREATE TABLE message (id bigint PRIMARY KEY, from_id bigint NOT NULL REFERENCES member, to_id bigint REFERENCES member, v text);
CREATE TABLE follow (from_id bigint NOT NULL REFERENCES member, to_id bigint, id bigint, v text, PRIMARY KEY (from_id, to_id, id));

-- Partitions: two levels, a leaf whose columns stand in another order.
CREATE TABLE event (id bigint, at integer, c text, member_id bigint NOT NULL REFERENCES member, v text,
    PRIMARY KEY (id, at, c)) PARTITION BY RANGE (at);
CREATE TABLE event_early PARTITION OF event FOR VALUES FROM (0) TO (100) PARTITION BY LIST (c);
CREATE TABLE event_early_a PARTITION OF event_early FOR VALUES IN ('a');
CREATE TABLE event_early_b (v text, c text NOT NULL, gone text, member_id bigint NOT NULL, at integer NOT NULL, id bigint NOT NULL);
ALTER TABLE event_early_b DROP COLUMN gone;
ALTER TABLE event_early ATTACH PARTITION event_early_b FOR VALUES IN ('b');
CREATE TABLE event_late PARTITION OF event FOR VALUES FROM (100) TO (200);
CREATE TABLE event_detail (id bigint PRIMARY KEY, event_id bigint, at integer, c text, v text,
    FOREIGN KEY (event_id, at, c) REFERENCES event ON DELETE CASCADE ON UPDATE CASCADE);
-- Partitions without a primary key.
CREATE TABLE visit (id bigint NOT NULL, member_id bigint NOT NULL REFERENCES member, v text, UNIQUE (member_id, id))
    PARTITION BY HASH (member_id);
CREATE TABLE visit_0 PARTITION OF visit FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE visit_1 PARTITION OF visit FOR VALUES WITH (MODULUS 2, REMAINDER 1);

-- Types.
CREATE TABLE wide (id bigint PRIMARY KEY, seq bigint GENERATED ALWAYS AS IDENTITY, member_id bigint NOT NULL REFERENCES member,
    n numeric, ts timestamptz, d date, i interval, b bytea, j jsonb, js json, a int[], ta text[], m state, ms state[],
    p positive, f8 double precision, r int4range, tr tstzrange, tm int4multirange, q pair, qs pair[], bits bit varying(9),
    c char(5), words tsvector, doubled bigint GENERATED ALWAYS AS (id * 2) STORED,
    found tsvector GENERATED ALWAYS AS (to_tsvector('simple', coalesce(v, ''))) STORED, big text, v text);
ALTER TABLE wide ALTER big SET STORAGE EXTERNAL;

-- Constraints.
CREATE TABLE booking (id bigint PRIMARY KEY, member_id bigint NOT NULL REFERENCES member, during int8range NOT NULL, v text,
    EXCLUDE USING gist (int8range(member_id, member_id, '[]') WITH &&, during WITH &&));
CREATE TABLE coupon (id bigint PRIMARY KEY, member_id bigint NOT NULL REFERENCES member, code text UNIQUE, rank bigint, v text,
    UNIQUE (member_id, rank) DEFERRABLE INITIALLY DEFERRED);

-- Names.
CREATE TABLE "Zoo"."Note Book" ("Id" bigint PRIMARY KEY, "Owner Id" bigint NOT NULL REFERENCES member, "say ""x""" text, v text);
CREATE TABLE "Zoo"."select" ("order" bigint PRIMARY KEY, "Book" bigint NOT NULL REFERENCES "Zoo"."Note Book" ON DELETE CASCADE,
    standing text, said text, v text);

-- Triggers of the application.
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.updated_at := clock_timestamp(); RETURN NEW; END $$;
CREATE TRIGGER touch BEFORE UPDATE ON member FOR EACH ROW EXECUTE FUNCTION touch();
CREATE FUNCTION note_audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO audit (member_id, what, v) VALUES (NEW.member_id, TG_OP || ' ' || NEW.id, NEW.v); RETURN NULL; END $$;
CREATE TRIGGER note_audit AFTER INSERT OR UPDATE OF v ON orders FOR EACH ROW EXECUTE FUNCTION note_audit();
-- Sorts last, and writes the row once more, when the guard has looked.
CREATE FUNCTION once_more() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    UPDATE orders SET touched = touched + 1 WHERE id = NEW.id; RETURN NULL; END $$;
CREATE TRIGGER zzz_once_more AFTER UPDATE OF v ON orders FOR EACH ROW EXECUTE FUNCTION once_more();
-- Sorts last, and says whose the gift is.
CREATE FUNCTION whose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NEW.buyer_id = -1 THEN NEW.buyer_id := NEW.seller_id; END IF; RETURN NEW; END $$;
CREATE TRIGGER zzz_whose BEFORE INSERT OR UPDATE ON gift FOR EACH ROW EXECUTE FUNCTION whose();
