//! One side of a changed row, OLD or NEW: finds its owner and admits him.

use model::table::{HomeSchema, Hop, OwnedTable, Way, literal, quote};
use model::way::filled;

use super::Terms;

/// The ways that begin alike: one alternative of a table's declaration.
pub(super) fn alternatives(table: &OwnedTable) -> Vec<Vec<&Way>> {
    let mut alternatives: Vec<Vec<&Way>> = Vec::new();
    for way in &table.ways {
        let alike = |other: &&Way| {
            way.when[0] == other.when[0]
                && !way.hops.is_empty()
                && way.hops.first() == other.hops.first()
        };
        match alternatives.last_mut() {
            Some(last) if last.last().is_some_and(alike) => last.push(way),
            _ => alternatives.push(vec![way]),
        }
    }
    alternatives
}

/// The block for `row` (`NEW` or `OLD`), whose variables begin with `prefix`.
pub(super) fn side(
    home: &HomeSchema,
    table: &OwnedTable,
    terms: &Terms<'_>,
    row: &str,
    prefix: &str,
) -> String {
    let side = Side {
        home,
        table,
        terms,
        row,
        prefix,
        owner: format!("{prefix}_owner"),
    };
    let blocks = alternatives(table).into_iter().map(|ways| {
        let block = match ways[0].hops.first() {
            None => side.direct(&ways[0].column),
            Some(first) if ways.iter().any(|way| way.is_shared()) => side.shared(first, &ways),
            Some(first) => side.led(first, &ways),
        };
        match ways[0].when[0].is_empty() {
            true => block,
            false => format!("IF {} THEN {block} END IF;", ways[0].when[0].sql(row)),
        }
    });
    blocks.collect::<Vec<_>>().join("\n        ")
}

struct Side<'a> {
    home: &'a HomeSchema,
    table: &'a OwnedTable,
    terms: &'a Terms<'a>,
    row: &'a str,
    prefix: &'a str,
    /// The variable of the owner.
    owner: String,
}

// === impl Side ===

impl Side<'_> {
    /// Reads the state of the user in the variable `owner` into `standing`.
    fn probe(&self, owner: &str) -> String {
        // A user without a record is the common case at the origin: spare him the call.
        let adopted = match (self.terms.is_origin(), self.terms.mark) {
            (true, Some(mark)) => {
                format!("IF NOT FOUND AND {owner} <= {mark} THEN standing := 'settled'; END IF;")
            }
            // One statement, so that both are seen as of one moment: a row that was copied here has a record.
            (true, None) => format!(
                "IF NOT FOUND THEN
                SELECT coalesce(d.state, 'settled') INTO standing FROM {users} AS u
                    LEFT JOIN domicile.resident AS d ON d.user_key = u.{key} WHERE u.{key} = {owner};
            END IF;",
                users = self.home.users.name.sql(),
                key = quote(&self.home.users.key),
            ),
            (false, _) => String::new(),
        };
        format!(
            "SELECT d.state INTO standing FROM domicile.resident AS d WHERE d.user_key = {owner};
            {adopted}"
        )
    }

    /// The row has the owner's key.
    fn direct(&self, column: &str) -> String {
        let (owner, row, prefix) = (&self.owner, self.row, self.prefix);
        let is_user_table = self.table.name == self.home.users.name;
        let value = format!("{row}.{}", quote(column));
        let mut admit = format!("{prefix}_attempt := domicile.admit({owner});");
        if row == "NEW" && !is_user_table {
            admit = format!(
                "IF standing IS NULL AND domicile.coming({owner}, {oid}::oid, {column}) THEN
                    INSERT INTO domicile.resident (user_key, state, epoch, seen) VALUES ({owner}, 'settled', 1, 1)
                        ON CONFLICT (user_key) DO NOTHING;
                END IF;
                {admit}",
                oid = self.table.oid,
                column = literal(column),
            );
        }
        let guarded = format!(
            "{owner} := {value};
        IF {owner} IS NOT NULL THEN
            {probe}
            IF standing IS DISTINCT FROM 'settled' THEN
                {admit}
            END IF;
        END IF;",
            probe = self.probe(owner),
        );
        // A user who is being created was admitted by writing his record.
        if is_user_table && row == "NEW" {
            format!("IF TG_OP = 'UPDATE' THEN {guarded} ELSE {owner} := {value}; END IF;")
        } else {
            guarded
        }
    }

    /// The first of `ways` that leads somewhere, into `variable`; sets FOUND.
    fn look(&self, ways: &[&Way], variable: &str, lock: &str) -> String {
        let selects = ways.iter().enumerate().map(|(n, way)| {
            let select = format!(
                "SELECT {} INTO {variable} {}{lock};",
                way.owner_of(self.row),
                way.beyond(self.row)
            );
            match n {
                0 => select,
                _ => format!("IF NOT FOUND THEN {select} END IF;"),
            }
        });
        selects.collect::<Vec<_>>().join(" ")
    }

    /// The row points at the one that tells its owner.
    fn led(&self, first: &Hop, ways: &[&Way]) -> String {
        let (owner, prefix, row) = (&self.owner, self.prefix, self.row);
        format!(
            "IF {points} THEN
            {look}
            IF NOT FOUND THEN
                {nowhere}
            ELSIF {owner} IS NOT NULL THEN
                {probe}
                IF standing IS DISTINCT FROM 'settled' THEN
                    IF standing = 'moving' THEN
                        -- The parents first, so that none changes hands between this look and our commit.
                        {locking}
                        IF {owner} IS NULL THEN
                            RAISE EXCEPTION 'the row changed hands; try again' USING ERRCODE = '40001';
                        END IF;
                    END IF;
                    {prefix}_attempt := domicile.admit({owner});
                    {again}
                    IF again IS DISTINCT FROM {owner} THEN
                        RAISE EXCEPTION 'the row changed hands; try again' USING ERRCODE = '40001';
                    END IF;
                END IF;
            END IF;
        END IF;",
            points = filled(row, &first.columns),
            look = self.look(ways, owner, ""),
            nowhere = self.nowhere(ways),
            probe = self.probe(owner),
            locking = self.look(ways, owner, " FOR SHARE"),
            again = self.look(ways, "again", ""),
        )
    }

    /// Nothing was found at the end of the ways: a parent is missing, or the row is nobody's.
    fn nowhere(&self, ways: &[&Way]) -> String {
        let prefix = self.prefix;
        // Deleted by the same statement, or not there yet: the parent's own guard decides.
        let broken = gaps(ways, self.row, true);
        let mut block = format!("{prefix}_orphan := {};", any(&broken));
        let adrift = gaps(ways, self.row, false);
        if !adrift.is_empty() {
            // No foreign key asks for the parent: nobody's, unless this transaction brings it.
            block.push_str(&format!(" {prefix}_maybe := NOT {prefix}_orphan;"));
            if self.row == "NEW" {
                block.push_str(&format!(
                    " IF {} THEN PERFORM domicile.adrift(); END IF;",
                    any(&adrift)
                ));
            }
        }
        block
    }

    /// The row is pointed at by those that tell its owner, of whom there may be several.
    fn shared(&self, first: &Hop, ways: &[&Way]) -> String {
        let (owner, prefix, row) = (&self.owner, self.prefix, self.row);
        let owners: Vec<String> = ways
            .iter()
            .map(|way| format!("SELECT {} AS o {}", way.owner_of(row), way.beyond(row)))
            .collect();
        let locks: Vec<String> = ways
            .iter()
            .map(|way| format!("PERFORM 1 {} FOR SHARE;", way.beyond(row)))
            .collect();
        // Nobody points here yet, or any more: whoever does so in this transaction says whose it is.
        let maybe = if first.against {
            String::new()
        } else {
            format!("IF {owner} IS NULL THEN {prefix}_maybe := true; END IF;")
        };
        format!(
            "IF {points} THEN
            FOR candidate IN SELECT DISTINCT s.o FROM ({owners}) AS s WHERE s.o IS NOT NULL LOOP
                held := NULL;
                {probe}
                IF standing IS DISTINCT FROM 'settled' THEN
                    IF standing = 'moving' THEN
                        {locks}
                    END IF;
                    held := domicile.admit(candidate);
                    IF NOT EXISTS (SELECT 1 FROM ({owners}) AS s WHERE s.o = candidate) THEN
                        RAISE EXCEPTION 'the row changed hands; try again' USING ERRCODE = '40001';
                    END IF;
                END IF;
                -- Of several owners one who moves speaks for the row; the others are told besides.
                IF {owner} IS NULL OR held IS NOT NULL THEN
                    {owner} := candidate;
                    {prefix}_attempt := held;
                END IF;
                sharers := sharers || jsonb_build_array(jsonb_build_object('u', candidate::text, 'a', held));
            END LOOP;
            {maybe}
        END IF;",
            points = filled(row, &first.columns),
            owners = owners.join(" UNION ALL "),
            probe = self.probe("candidate"),
            locks = locks.join(" "),
        )
    }
}

fn any(conditions: &[String]) -> String {
    match conditions {
        [] => "false".to_owned(),
        some => format!("({})", some.join(" OR ")),
    }
}

/// The steps of `ways` at which a row is pointed at that is not there: those that a foreign key enforces, or the others.
fn gaps(ways: &[&Way], row: &str, enforced: bool) -> Vec<String> {
    let mut gaps = Vec::new();
    for way in ways {
        for (n, hop) in way.hops.iter().enumerate() {
            if hop.against || hop.enforced != enforced {
                continue;
            }
            let child = if n == 0 {
                row.to_owned()
            } else {
                format!("p{n}")
            };
            let missing = format!(
                "NOT EXISTS (SELECT 1 FROM {} AS g WHERE {})",
                hop.parent.sql(),
                model::table::equal("g", &hop.parent_columns, &child, &hop.columns)
            );
            let gap = if n == 0 {
                missing
            } else {
                let so_far = Way {
                    when: way.when[..=n].to_vec(),
                    hops: way.hops[..n].to_vec(),
                    column: String::new(),
                };
                format!(
                    "EXISTS (SELECT 1 {} AND {} AND {missing})",
                    so_far.beyond(row),
                    filled(&child, &hop.columns)
                )
            };
            if !gaps.contains(&gap) {
                gaps.push(gap);
            }
        }
    }
    gaps
}
