//! The shop that moves: customers in 24 countries, three invoices each in order of time, 3.5 lines each.

/// The markets; users are spread evenly, and not by key.
pub(crate) const COUNTRIES: [&str; 24] = [
    "BR", "IN", "ID", "MX", "NG", "PL", "ZA", "AR", "AU", "BE", "CA", "CL", "CZ", "DE", "DK", "ES",
    "FI", "FR", "GB", "HU", "IE", "IT", "NL", "US",
];

/// How many of [`COUNTRIES`] move when copying is measured: a fifth of all users.
pub(crate) const MOVED: usize = 5;

/// From here on no one of [`COUNTRIES`] ever moves: the settled users of the other figures.
pub(crate) const SETTLED_FROM: usize = 12;

/// The tables.
pub(crate) const TABLES: [&str; 3] = ["customer", "invoice", "invoice_line"];

/// The tables without keys.
pub(crate) const SCHEMA: &str = include_str!("schema.sql");
/// Keys, secondary indexes, foreign keys.
pub(crate) const KEYS: &str = include_str!("keys.sql");

/// The application's own role: what it may, any application may.
pub(crate) const ROLE: &str = "shop";

/// How many customers there are at `scale`.
pub(crate) fn customers(scale: f64) -> u64 {
    (1_000_000.0 * scale).round() as u64
}

/// Countries as an SQL list of literals.
pub(crate) fn list(countries: &[&str]) -> String {
    let quoted: Vec<String> = countries.iter().map(|code| format!("'{code}'")).collect();
    quoted.join(", ")
}

/// Fills the tables of [`SCHEMA`]: `customers` customers, three invoices each on average whose owners are scattered
/// through time, one to six lines each.
pub(crate) fn fill(customers: u64) -> String {
    let countries = list(&COUNTRIES);
    let invoices = customers * 3;
    let hash = |of: &str| format!("(hashint8({of}) & 2147483647)");
    format!(
        "INSERT INTO customer SELECT i, 'user' || i || '@mail.example', 'Customer Number ' || i,
             (ARRAY[{countries}])[1 + {country} % 24], '+55 11 5555 ' || i, i || ' Main Street, Springfield',
             '2020-01-01'::timestamptz + i * interval '1 minute'
         FROM generate_series(1::bigint, {customers}) AS i;
         INSERT INTO invoice SELECT i, 1 + {owner} % {customers}, '2021-01-01'::timestamptz + i * interval '20 seconds',
             'Springfield', (99 + i % 5000) / 100.0
         FROM generate_series(1::bigint, {invoices}) AS i;
         INSERT INTO invoice_line SELECT row_number() OVER (), i, 1 + {track} % 3503, 0.99, 1
         FROM generate_series(1::bigint, {invoices}) AS i, generate_series(1, 1 + {lines} % 6) AS l;",
        country = hash("i"),
        owner = hash("i * 7919"),
        track = hash("i * 6 + l"),
        lines = hash("i * 31"),
    )
}

/// What makes ids for new rows from `first` on.
pub(crate) fn number_from(first: &str) -> String {
    let mut sql = String::new();
    for table in ["invoice", "invoice_line"] {
        sql += &format!(
            "CREATE SEQUENCE {table}_seq OWNED BY {table}.{table}_id;
             ALTER TABLE {table} ALTER {table}_id SET DEFAULT nextval('{table}_seq');
             SELECT setval('{table}_seq', {first} + (SELECT coalesce(max({table}_id), 0) FROM {table}));"
        );
    }
    sql
}

/// The same shop with the country in every table: without it native replication cannot pick a customer's rows.
pub(crate) const DENORMALISE: &str = "
    CREATE TABLE invoice_new AS SELECT i.*, c.country FROM invoice AS i JOIN customer AS c USING (customer_id)
        ORDER BY invoice_id;
    CREATE TABLE invoice_line_new AS SELECT l.*, i.country FROM invoice_line AS l JOIN invoice_new AS i USING (invoice_id)
        ORDER BY invoice_line_id;
    DROP TABLE invoice_line, invoice;
    ALTER TABLE invoice_new RENAME TO invoice;
    ALTER TABLE invoice_line_new RENAME TO invoice_line;";
/// What [`DENORMALISE`] loses and [`KEYS`] does not bring: run it before those.
pub(crate) const WITHOUT_CUSTOMER_KEYS: &str = "
    ALTER TABLE customer DROP CONSTRAINT customer_pkey CASCADE;
    ALTER TABLE customer DROP CONSTRAINT customer_email_key;
    DROP INDEX IF EXISTS customer_country_idx;";
