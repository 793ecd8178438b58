//! What the zoo's writers write: rows that come and go together, and what is known of each from what was acknowledged.

use std::collections::BTreeMap;

use rand::rngs::SmallRng;
use rand::{RngExt as _, seq::IndexedRandom as _};

/// A row: its table and what tells it there.
pub type Row = (&'static str, i64);

/// Rows of one user, with the value of the column `v` that each must have.
pub type Rows = BTreeMap<Row, String>;

/// The tables, each with the column that tells its rows here and the SQL of the owner of its row `t`: by hand, and not by
/// what Domicile makes of the configuration.
pub const TABLES: &[(&str, &str, &str)] = &[
    ("member", "id", "t.id"),
    ("orders", "id", "t.member_id"),
    (
        "address",
        "id",
        "(SELECT min(o.member_id) FROM orders o WHERE o.address_id = t.id)",
    ),
    (
        "address_line",
        "id",
        "(SELECT min(o.member_id) FROM orders o WHERE o.address_id = t.address_id)",
    ),
    ("line", "order_id", OF_ORDER),
    ("line_option", "order_id", OF_ORDER),
    ("option_note", "id", OF_ORDER),
    (
        "note_mark",
        "id",
        "(SELECT o.member_id FROM orders o, option_note n WHERE o.id = n.order_id AND n.id = t.note_id)",
    ),
    ("gift", "id", "coalesce(t.buyer_id, t.seller_id)"),
    (
        "gift_tag",
        "id",
        "(SELECT coalesce(g.buyer_id, g.seller_id) FROM gift g WHERE g.id = t.gift_id)",
    ),
    (
        "ticket",
        "id",
        "CASE WHEN t.order_id IS NULL THEN t.member_id ELSE (SELECT o.member_id FROM orders o WHERE o.id = t.order_id) END",
    ),
    (
        "ticket_line",
        "id",
        "(SELECT CASE WHEN k.order_id IS NULL THEN k.member_id ELSE o.member_id END
          FROM ticket k LEFT JOIN orders o ON o.id = k.order_id WHERE k.id = t.ticket_id)",
    ),
    (
        "remark",
        "id",
        "CASE t.kind WHEN 'user' THEN t.object_id ELSE (SELECT o.member_id FROM orders o WHERE o.id = t.object_id) END",
    ),
    (
        "reply",
        "id",
        "(SELECT CASE k.kind WHEN 'user' THEN k.object_id ELSE o.member_id END
          FROM remark k LEFT JOIN orders o ON o.id = k.object_id WHERE k.id = t.remark_id)",
    ),
    ("team", "id", "t.member_id"),
    (
        "player",
        "id",
        "(SELECT m.member_id FROM team m WHERE m.id = t.team_id)",
    ),
    ("folder", "id", "t.member_id"),
    ("token", "id", "t.member_id"),
    ("diary", "id", "t.member_id"),
    ("message", "id", "t.from_id"),
    ("follow", "id", "t.from_id"),
    ("event", "id", "t.member_id"),
    (
        "event_detail",
        "id",
        "(SELECT e.member_id FROM event e WHERE (e.id, e.at, e.c) = (t.event_id, t.at, t.c))",
    ),
    ("visit", "id", "t.member_id"),
    ("wide", "id", "t.member_id"),
    ("booking", "id", "t.member_id"),
    ("coupon", "id", "t.member_id"),
    ("\"Zoo\".\"Note Book\"", "\"Id\"", "t.\"Owner Id\""),
    (
        "\"Zoo\".\"select\"",
        "\"order\"",
        "(SELECT b.\"Owner Id\" FROM \"Zoo\".\"Note Book\" b WHERE b.\"Id\" = t.\"Book\")",
    ),
];

const OF_ORDER: &str = "(SELECT o.member_id FROM orders o WHERE o.id = t.order_id)";

/// Tables that only triggers of the application write, with the SQL of the owner.
pub const AUDIT: (&str, &str) = ("audit", "t.member_id");

/// What a bundle is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An order with its address, lines, ticket and remark.
    Order,
    /// A gift.
    Gift,
    /// A team and its player, who refer to each other.
    Team,
    /// Folders in folders.
    Folders,
    /// Tables with odd keys.
    Keys,
    /// Rows in partitions.
    Events,
    /// All types, and constraints.
    Wide,
    /// Odd names, and rows with two members.
    Names,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 8] = [
        Kind::Order,
        Kind::Gift,
        Kind::Team,
        Kind::Folders,
        Kind::Keys,
        Kind::Events,
        Kind::Wide,
        Kind::Names,
    ];
}

/// Rows that came together and go together.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// What it is.
    pub kind: Kind,
    /// Its number: most of its rows' keys.
    pub n: i64,
    /// The number of its address, where it has one of its own.
    pub address: i64,
    /// Whether the ticket and the remark still belong to the order.
    pub attached: bool,
    /// Its rows.
    pub rows: Rows,
}

/// One or more transactions, each a list of statements of which every one must change a row, and the bundle after them.
#[derive(Clone, Debug)]
pub struct Operation {
    /// The statements.
    pub transactions: Vec<Vec<String>>,
    /// The bundle, if it is still there.
    pub after: Option<Bundle>,
}

/// Brings the bundle `n` of `user`, its rows with the value `v`.
pub fn create(kind: Kind, n: i64, user: i64, v: &str, rng: &mut SmallRng) -> Operation {
    let m = n + 1;
    let (statements, tables): (Vec<String>, Vec<Row>) = match kind {
        Kind::Order => (
            vec![
                format!("INSERT INTO address VALUES ({n}, 'IN', '{v}')"),
                format!("INSERT INTO address_line VALUES ({n}, {n}, '{v}')"),
                format!(
                    "INSERT INTO orders (id, member_id, address_id, total, v) VALUES ({n}, {user}, {n}, {n} / 7.0, '{v}')"
                ),
                format!("INSERT INTO line VALUES ({n}, 1, '{v}')"),
                format!("INSERT INTO line_option VALUES (1, {n}, 1, '{v}')"),
                format!("INSERT INTO option_note VALUES ({n}, 1, 1, {n}, '{v}')"),
                format!("INSERT INTO note_mark VALUES ({n}, {n}, '{v}')"),
                format!("INSERT INTO ticket VALUES ({n}, {n}, NULL, '{v}')"),
                format!("INSERT INTO ticket_line VALUES ({n}, {n}, '{v}')"),
                format!("INSERT INTO remark VALUES ({n}, 'order', {n}, '{v}')"),
                format!("INSERT INTO reply VALUES ({n}, {n}, '{v}')"),
            ],
            ORDER.iter().map(|table| (*table, n)).collect(),
        ),
        Kind::Gift => (
            vec![
                match rng.random_range(0..3) {
                    0 => format!("INSERT INTO gift VALUES ({n}, {user}, 1, '{v}')"),
                    1 => format!("INSERT INTO gift VALUES ({n}, -1, {user}, '{v}')"),
                    _ => format!("INSERT INTO gift VALUES ({n}, NULL, {user}, '{v}')"),
                },
                format!("INSERT INTO gift_tag VALUES ({n}, {n}, '{v}')"),
            ],
            vec![("gift", n), ("gift_tag", n)],
        ),
        Kind::Team => (
            vec![
                format!("INSERT INTO player VALUES ({n}, {n}, '{v}')"),
                format!("INSERT INTO team VALUES ({n}, {user}, {n}, '{v}')"),
                format!("INSERT INTO player VALUES ({m}, {n}, '{v}')"),
            ],
            vec![("player", n), ("player", m), ("team", n)],
        ),
        Kind::Folders => (
            vec![
                format!("INSERT INTO folder VALUES ({n}, {user}, NULL, '{v}')"),
                format!(
                    "INSERT INTO folder VALUES ({m}, {user}, {n}, '{v}'), ({m} + 1, {user}, {m}, '{v}')"
                ),
            ],
            vec![("folder", n), ("folder", m), ("folder", m + 1)],
        ),
        Kind::Keys => (
            vec![
                format!("INSERT INTO token VALUES ('token-{n}-{v}', {n}, {user}, '{v}')"),
                format!(
                    "INSERT INTO diary VALUES ({n}, {user}, {}, '{v}')",
                    big(n, 64)
                ),
                format!("INSERT INTO visit VALUES ({n}, {user}, '{v}')"),
            ],
            vec![("token", n), ("diary", n), ("visit", n)],
        ),
        Kind::Events => (
            vec![
                format!("INSERT INTO event VALUES ({n}, 5, 'a', {user}, '{v}')"),
                format!("INSERT INTO event_detail VALUES ({n}, {n}, 5, 'a', '{v}')"),
                format!("INSERT INTO event VALUES ({m}, 150, 'c', {user}, '{v}')"),
            ],
            vec![("event", n), ("event", m), ("event_detail", n)],
        ),
        Kind::Wide => (
            vec![
                wide(n, user, v),
                format!(
                    "INSERT INTO booking VALUES ({n}, {user}, '[{n},{})', '{v}')",
                    n + 5
                ),
                format!(
                    "INSERT INTO coupon VALUES ({n}, {user}, 'code-{n}', {n}, '{v}'), ({m}, {user}, 'code-{m}', {m}, '{v}')"
                ),
            ],
            vec![("wide", n), ("booking", n), ("coupon", n), ("coupon", m)],
        ),
        Kind::Names => (
            vec![
                format!("INSERT INTO \"Zoo\".\"Note Book\" VALUES ({n}, {user}, 'x', '{v}')"),
                format!("INSERT INTO \"Zoo\".\"select\" VALUES ({n}, {n}, 's', 's', '{v}')"),
                format!("INSERT INTO message VALUES ({n}, {user}, {user}, '{v}')"),
                format!("INSERT INTO follow VALUES ({user}, 1, {n}, '{v}')"),
            ],
            vec![
                ("\"Zoo\".\"Note Book\"", n),
                ("\"Zoo\".\"select\"", n),
                ("message", n),
                ("follow", n),
            ],
        ),
    };
    let rows = tables.into_iter().map(|row| (row, v.to_owned())).collect();
    let bundle = Bundle {
        kind,
        n,
        address: n,
        attached: true,
        rows,
    };
    let mut transactions = vec![statements];
    if kind == Kind::Order && rng.random_bool(0.3) {
        // The address stands before anybody points at it.
        let rest = transactions[0].split_off(1);
        transactions.push(rest);
    }
    Operation {
        transactions,
        after: Some(bundle),
    }
}

const ORDER: [&str; 11] = [
    "address",
    "address_line",
    "orders",
    "line",
    "line_option",
    "option_note",
    "note_mark",
    "ticket",
    "ticket_line",
    "remark",
    "reply",
];

/// A text of `kilobytes` that does not compress.
fn big(n: i64, kilobytes: i64) -> String {
    format!(
        "(SELECT string_agg(md5(x::text || '{n}'), '') FROM generate_series(1, {kilobytes} * 32) AS x)"
    )
}

fn wide(n: i64, user: i64, v: &str) -> String {
    format!(
        r#"INSERT INTO wide (id, member_id, n, ts, d, i, b, j, js, a, ta, m, ms, p, f8, r, tr, tm, q, qs, bits, c, words, big, v)
        SELECT {n}, {user}, x.*, {big}, '{v}' FROM (VALUES
        (1.0, '2024-02-29 23:59:59.999999+05:30'::timestamptz, 'infinity'::date, '1 mon -1 day 00:00:01'::interval,
         '\x00ff'::bytea, '{{"b": [1, null], "a": "é"}}'::jsonb, '{{"b" : 1,  "a":2}}'::json, '{{1,NULL,3}}'::int[],
         '{{"a,b",NULL,"\"q\""}}'::text[], 'paid'::state, '{{new,"a \"b\", c"}}'::state[], 7::positive, 'NaN'::float8,
         '[1,5)'::int4range, '[2024-01-01 00:00+00,)'::tstzrange, '{{[1,2),[5,9)}}'::int4multirange,
         ROW(1, 'it''s')::pair, ARRAY[ROW(1, NULL)::pair], B'101', 'ab', 'a:1 fat:2A cat'::tsvector)) AS x"#,
        big = big(n, 16),
    )
}

impl Bundle {
    fn all(&mut self, rows: &[Row], v: &str) {
        for row in rows {
            self.rows.insert(*row, v.to_owned());
        }
    }

    /// Changes something of it.
    pub fn change(&self, user: i64, v: &str, fresh: i64, rng: &mut SmallRng) -> Operation {
        let (n, m) = (self.n, self.n + 1);
        let mut after = self.clone();
        if rng.random_bool(0.5) {
            // Any row by itself: its own guard alone sees it.
            let rows: Vec<Row> = self.rows.keys().copied().collect();
            let row = *rows.choose(rng).expect("a bundle has rows");
            let column = TABLES
                .iter()
                .find(|(table, ..)| *table == row.0)
                .map_or("id", |t| t.1);
            after.all(&[row], v);
            return Operation {
                transactions: vec![vec![format!(
                    "UPDATE {} SET v = '{v}' WHERE {column} = {}",
                    row.0, row.1
                )]],
                after: Some(after),
            };
        }
        let statements = match self.kind {
            Kind::Order => match rng.random_range(0..4) {
                0 => {
                    after.address = fresh;
                    let old = self.address;
                    after.rows.remove(&("address", old));
                    after.rows.remove(&("address_line", n));
                    after.all(&[("address", fresh), ("orders", n)], v);
                    vec![
                        format!("INSERT INTO address VALUES ({fresh}, 'IN', '{v}')"),
                        format!("UPDATE orders SET address_id = {fresh}, v = '{v}' WHERE id = {n}"),
                        format!("DELETE FROM address WHERE id = {old}"),
                    ]
                }
                1 if self.attached => {
                    after.attached = false;
                    after.all(&[("ticket", n), ("remark", n)], v);
                    vec![
                        format!(
                            "UPDATE ticket SET order_id = NULL, member_id = {user}, v = '{v}' WHERE id = {n}"
                        ),
                        format!(
                            "UPDATE remark SET kind = 'user', object_id = {user}, v = '{v}' WHERE id = {n}"
                        ),
                    ]
                }
                1 => {
                    after.attached = true;
                    after.all(&[("ticket", n), ("remark", n)], v);
                    vec![
                        format!(
                            "UPDATE remark SET kind = 'order', object_id = {n}, v = '{v}' WHERE id = {n}"
                        ),
                        format!("UPDATE ticket SET order_id = {n}, v = '{v}' WHERE id = {n}"),
                    ]
                }
                2 => {
                    after.all(&[("address", self.address), ("orders", n)], v);
                    vec![
                        format!("UPDATE address SET v = '{v}' WHERE id = {}", self.address),
                        format!(
                            "UPDATE orders SET v = '{v}', total = total + 0.001, state = 'paid' WHERE id = {n}"
                        ),
                    ]
                }
                _ => {
                    after.all(
                        &[
                            ("line", n),
                            ("line_option", n),
                            ("option_note", n),
                            ("note_mark", n),
                        ],
                        v,
                    );
                    vec![
                        format!("DELETE FROM line WHERE order_id = {n}"),
                        format!("INSERT INTO line VALUES ({n}, 2, '{v}')"),
                        format!("INSERT INTO line_option VALUES (2, {n}, 1, '{v}')"),
                        format!("INSERT INTO option_note VALUES ({n}, 1, 2, {n}, '{v}')"),
                        format!("INSERT INTO note_mark VALUES ({n}, {n}, '{v}')"),
                    ]
                }
            },
            Kind::Gift => {
                after.all(&[("gift", n)], v);
                let buyer = ["NULL", "-1"].choose(rng).expect("two");
                vec![format!(
                    "UPDATE gift SET buyer_id = {buyer}, seller_id = {user}, v = '{v}' WHERE id = {n}"
                )]
            }
            Kind::Team => {
                after.all(&[("team", n), ("player", n)], v);
                vec![
                    format!(
                        "UPDATE team SET lead_id = CASE lead_id WHEN {n} THEN {m} ELSE {n} END, v = '{v}' WHERE id = {n}"
                    ),
                    format!("UPDATE player SET v = '{v}' WHERE id = {n}"),
                ]
            }
            Kind::Folders => {
                after.all(&[("folder", m), ("folder", m + 1)], v);
                vec![format!(
                    "UPDATE folder SET parent_id = CASE WHEN id = {m} THEN {n} WHEN parent_id = {n} THEN {m} ELSE {n} END,
                         v = '{v}' WHERE id IN ({m}, {m} + 1)"
                )]
            }
            Kind::Keys => {
                after.all(&[("token", n), ("diary", n), ("visit", n)], v);
                vec![
                    format!("UPDATE token SET token = 'token-{n}-{v}', v = '{v}' WHERE id = {n}"),
                    format!("UPDATE diary SET v = '{v}' WHERE id = {n}"),
                    format!("UPDATE visit SET v = '{v}' WHERE id = {n}"),
                ]
            }
            Kind::Events => {
                let (at, c) = *[(5, "a"), (6, "b"), (150, "c")].choose(rng).expect("three");
                after.all(&[("event", n)], v);
                vec![format!(
                    "UPDATE event SET at = {at}, c = '{c}', v = '{v}' WHERE id = {n}"
                )]
            }
            Kind::Wide => {
                after.all(
                    &[("wide", n), ("coupon", n), ("coupon", m), ("booking", n)],
                    v,
                );
                vec![
                    format!("UPDATE coupon SET rank = {n} + {m} - rank, v = '{v}' WHERE id IN ({n}, {m})"),
                    format!(
                        "UPDATE wide SET v = '{v}', j = j || '{{\"v\": \"{v}\"}}', ms = ms || 'paid'::state, seq = DEFAULT,
                             f8 = f8 + 1, i = i + '1 day', a = a || 4 WHERE id = {n}"
                    ),
                    format!("UPDATE booking SET during = int8range({n}, {n} + 2), v = '{v}' WHERE id = {n}"),
                ]
            }
            Kind::Names => {
                after.all(
                    &[
                        ("\"Zoo\".\"Note Book\"", n),
                        ("\"Zoo\".\"select\"", n),
                        ("follow", n),
                    ],
                    v,
                );
                vec![
                    format!(
                        "UPDATE \"Zoo\".\"Note Book\" SET \"say \"\"x\"\"\" = '{v}', v = '{v}' WHERE \"Id\" = {n}"
                    ),
                    format!(
                        "UPDATE \"Zoo\".\"select\" SET standing = '{v}', v = '{v}' WHERE \"Book\" = {n}"
                    ),
                    format!("UPDATE follow SET to_id = to_id + 1, v = '{v}' WHERE id = {n}"),
                ]
            }
        };
        Operation {
            transactions: vec![statements],
            after: Some(after),
        }
    }

    /// Takes it away.
    pub fn delete(&self, rng: &mut SmallRng) -> Operation {
        let (n, m, address) = (self.n, self.n + 1, self.address);
        let mut transactions = Vec::new();
        let statements = match self.kind {
            Kind::Order => {
                let mut all = Vec::new();
                let remark = format!("DELETE FROM remark WHERE id = {n}");
                let orders = format!("DELETE FROM orders WHERE id = {n}");
                if !self.attached {
                    all.push(format!("DELETE FROM ticket WHERE id = {n}"));
                }
                match rng.random_range(0..4) {
                    0 => all.extend([orders, remark]),
                    1 => all.extend([
                        format!("DELETE FROM note_mark WHERE id = {n}"),
                        format!("DELETE FROM option_note WHERE id = {n}"),
                        format!("DELETE FROM line WHERE order_id = {n}"),
                        remark,
                        orders,
                    ]),
                    _ => all.extend([remark, orders]),
                }
                let address = format!("DELETE FROM address WHERE id = {address}");
                if rng.random_bool(0.2) {
                    // Left behind for a moment, or for ever: nobody's.
                    transactions.push(std::mem::take(&mut all));
                }
                all.push(address);
                all
            }
            Kind::Gift => vec![format!("DELETE FROM gift WHERE id = {n}")],
            Kind::Team => vec![format!("DELETE FROM team WHERE id = {n}")],
            Kind::Folders => vec![format!("DELETE FROM folder WHERE id = {n}")],
            Kind::Keys => vec![
                format!("DELETE FROM token WHERE id = {n}"),
                format!("DELETE FROM diary WHERE id = {n}"),
                format!("DELETE FROM visit WHERE id = {n}"),
            ],
            Kind::Events => vec![format!("DELETE FROM event WHERE id IN ({n}, {m})")],
            Kind::Wide => vec![
                format!("DELETE FROM wide WHERE id = {n}"),
                format!("DELETE FROM booking WHERE id = {n}"),
                format!("DELETE FROM coupon WHERE id IN ({n}, {m})"),
            ],
            Kind::Names => vec![
                format!("DELETE FROM \"Zoo\".\"Note Book\" WHERE \"Id\" = {n}"),
                format!("DELETE FROM message WHERE id = {n}"),
                format!("DELETE FROM follow WHERE id = {n}"),
            ],
        };
        transactions.push(statements);
        Operation {
            transactions,
            after: None,
        }
    }
}
