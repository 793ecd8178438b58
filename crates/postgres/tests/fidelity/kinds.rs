//! The types, with what each family finds hard.

/// A type: its name, what makes it special, and whether its binary form means the same everywhere.
pub struct Kind {
    pub sql_type: &'static str,
    pub special: &'static [&'static str],
    pub portable: bool,
    /// What tells two values apart, for types whose binary form does not; `$` is the column.
    pub told_by: Option<&'static str>,
    /// The extension that has the type.
    pub extension: Option<&'static str>,
}

const fn kind(sql_type: &'static str, special: &'static [&'static str]) -> Kind {
    Kind {
        sql_type,
        special,
        portable: true,
        told_by: None,
        extension: None,
    }
}

const fn local(
    sql_type: &'static str,
    told_by: &'static str,
    special: &'static [&'static str],
) -> Kind {
    Kind {
        portable: false,
        told_by: Some(told_by),
        ..kind(sql_type, special)
    }
}

/// A domain over a type whose send function takes no domains.
const fn over(
    sql_type: &'static str,
    told_by: &'static str,
    special: &'static [&'static str],
) -> Kind {
    Kind {
        told_by: Some(told_by),
        ..kind(sql_type, special)
    }
}

const fn of_extension(
    extension: &'static str,
    sql_type: &'static str,
    special: &'static [&'static str],
) -> Kind {
    Kind {
        extension: Some(extension),
        ..kind(sql_type, special)
    }
}

/// Made at both sites, at the target after others: their object ids differ.
pub const MADE: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'a \"b\", c');
    CREATE TYPE place AS (city text, code int, at timestamptz, f float8, c char(4));
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE DOMAIN wordy AS text CHECK (length(VALUE) < 9000);
    CREATE DOMAIN moody AS mood;
    CREATE DOMAIN placed AS place;
    CREATE DOMAIN many AS int[];
    CREATE TYPE floats AS RANGE (subtype = float8);
";

pub const KINDS: &[Kind] = &[
    kind("boolean", &["t", "f"]),
    kind("smallint", &["-32768", "32767", "0"]),
    kind("integer", &["-2147483648", "2147483647"]),
    kind("bigint", &["-9223372036854775808", "9223372036854775807"]),
    kind(
        "real",
        &[
            "NaN",
            "Infinity",
            "-Infinity",
            "-0",
            "0",
            "1e-45",
            "3.4028235e38",
            "1.17549435e-38",
            "0.1",
        ],
    ),
    kind(
        "double precision",
        &[
            "NaN",
            "Infinity",
            "-Infinity",
            "-0",
            "0",
            "5e-324",
            "2.2250738585072014e-308",
            "1.7976931348623157e308",
            "0.1",
            "0.30000000000000004",
        ],
    ),
    kind(
        "numeric",
        &[
            "NaN",
            "Infinity",
            "-Infinity",
            "1.0",
            "1.00",
            "1",
            "0.000",
            "-0.0",
            "1e1000",
            "1e-1000",
            "123456789012345678901234567890.000100",
        ],
    ),
    kind("numeric(20,5)", &["0", "-0.00001", "NaN"]),
    kind(
        "money",
        &["-92233720368547758.08", "92233720368547758.07", "0.01", "0"],
    ),
    kind(
        "timestamp without time zone",
        &[
            "infinity",
            "-infinity",
            "4714-11-24 00:00:00 BC",
            "294276-12-31 23:59:59.999999",
            "0001-01-01 00:00:00 BC",
            "2016-12-31 23:59:60",
            "1999-12-31 24:00:00",
        ],
    ),
    kind(
        "timestamp with time zone",
        &[
            "infinity",
            "-infinity",
            "0044-03-15 12:00:00+08:05:43 BC",
            "294276-12-31 23:59:59.999999+00",
            "2024-03-10 02:30:00-05",
            "1883-11-18 12:03:57.5-04:56:02",
        ],
    ),
    kind(
        "date",
        &[
            "infinity",
            "-infinity",
            "4714-11-24 BC",
            "5874897-12-31",
            "0001-01-01 BC",
            "2024-02-29",
        ],
    ),
    kind(
        "interval",
        &[
            "1 day",
            "24 hours",
            "1 mon",
            "30 days",
            "-1 mon +1 day -00:00:00.000001",
            "1 year -1 mon",
            "178000000 years",
            "-178000000 years",
            "0",
            "-1 day +02:03:04",
            "2562047788 hours",
        ],
    ),
    kind(
        "time without time zone",
        &["24:00:00", "00:00:00", "00:00:00.000001"],
    ),
    kind(
        "time with time zone",
        &[
            "23:59:59.999999+15:59:59",
            "24:00:00-15:59",
            "00:00:00+05:30:15",
        ],
    ),
    kind(
        "json",
        &[
            r#"{"b" : 1,  "a":2, "a":3}"#,
            " [1 , 2] ",
            r#""\u00e9""#,
            "1E400",
            "\n\t{}\n",
            r#""\ud83d\ude00""#,
        ],
    ),
    kind(
        "jsonb",
        &[
            r#"{"b":[1,null,{"a":1.0}],"a":"é"}"#,
            "1.00",
            "1",
            "null",
            r#""\ud83d\ude00""#,
            "{}",
            "1e400",
        ],
    ),
    kind("jsonpath", &["$.a[*] ? (@ > 1.0)", "strict $"]),
    kind("bytea", &["\\x", "\\x00ff", "\\x5c5c78"]),
    kind(
        "text",
        &[
            "",
            " ",
            "NULL",
            "\\N",
            "\\.",
            "a\tb\nc\\d\re",
            "o''brien",
            "{}",
            "e\u{301} \u{e9}",
        ],
    ),
    kind(
        "character varying(10)",
        &["", "tab\tx  ", "\u{738b}\u{738b}"],
    ),
    kind("character(5)", &["", "ab", "ab\u{738b}", "     "]),
    kind(r#""char""#, &["a", "", "\\"]),
    kind("name", &["pg_class", ""]),
    kind("bit(7)", &["1010101", "0000000"]),
    kind("bit varying", &["", "1", "000"]),
    kind(
        "inet",
        &[
            "10.0.0.1/8",
            "::1",
            "2001:db8::/32",
            "255.255.255.255/0",
            "10.0.0.1",
        ],
    ),
    kind("cidr", &["10.0.0.0/8", "10.0.0.1/32", "2001:db8::/32"]),
    kind("macaddr", &["08:00:2b:01:02:03"]),
    kind("macaddr8", &["08:00:2b:01:02:03:04:05"]),
    kind("uuid", &["00000000-0000-0000-0000-000000000000"]),
    kind(
        "integer[]",
        &[
            "{}",
            "{1,NULL,3}",
            "[2:3]={1,2}",
            "{{1,2},{3,4}}",
            "[-1:0][5:5]={{1},{2}}",
            "{NULL}",
        ],
    ),
    kind(
        "text[]",
        &[
            r#"{"a,b",NULL,"NULL","","\\","\"q\"","{}"}"#,
            "{}",
            r#"[0:0]={" x "}"#,
        ],
    ),
    kind("double precision[]", &["{NaN,-0,0,1e-320}"]),
    kind("numeric[]", &["{1.0,1.00,NaN}"]),
    kind(
        "timestamp with time zone[]",
        &["{infinity,\"0044-03-15 12:00:00+00 BC\"}"],
    ),
    kind("bytea[]", &[r#"{"\\x00","\\x"}"#]),
    kind("box[]", &["{(2,2),(1,1);(-0,1),(-1,-1)}"]),
    kind("interval[]", &["{\"1 day\",\"24:00:00\"}"]),
    kind("int4range", &["empty", "(,)", "[,5)", "[5,)"]),
    kind("numrange", &["[1.0,2.00)", "(1,2]", "[1.00,2.0)"]),
    kind(
        "tstzrange",
        &["[\"0044-03-15 12:00:00+00 BC\",infinity)", "[,infinity]"],
    ),
    kind("daterange", &["[2024-02-28,2024-03-01)"]),
    kind("floats", &["[-0,NaN]", "(,1e-320)", "empty"]),
    kind("int4multirange", &["{}", "{[1,3),[5,7)}"]),
    kind("nummultirange", &["{[1.0,1.50),(2,)}"]),
    kind("tsvector", &["'a':1A,3 'b q':2,4B", "", "'it''s' 'x\\\\y'"]),
    kind("point", &["(-0,0)", "(NaN,Infinity)", "(1e-320,0.1)"]),
    kind("line", &["{1,-0,0.30000000000000004}"]),
    kind("lseg", &["[(0,0),(1,0.1)]"]),
    kind("box", &["(1,1),(0,0)", "(-0,1),(-1,-1)"]),
    kind("path", &["[(0,0),(1,1)]", "((0,0),(1,1),(0.1,2))"]),
    kind("polygon", &["((0,0),(1,1),(0.1,2))"]),
    kind("circle", &["<(0.1,-0),1e-320>"]),
    kind("oid", &["0", "4294967295"]),
    kind("xid8", &["18446744073709551615"]),
    kind("pg_lsn", &["FFFFFFFF/FFFFFFFF", "0/0"]),
    kind("pg_snapshot", &["10:20:10,14"]),
    kind("mood", &["sad", "a \"b\", c"]),
    kind("positive", &["1"]),
    kind("wordy", &["", "\u{738b}"]),
    over(
        "moody",
        "encode(enum_send($::public.mood), 'hex')",
        &["ok", "sad"],
    ),
    over(
        "many",
        "encode(array_send($::int[]), 'hex')",
        &["[3:4]={1,NULL}", "{}"],
    ),
    kind(
        "xml",
        &[
            "<a b=\"1\">é &lt;<!-- c --></a>",
            "text <b/> more",
            "<?xml version=\"1.0\"?><a/>",
            "<?xml version=\"1.1\" standalone=\"yes\"?><a/>",
            "",
            "<a>\n</a>",
        ],
    ),
    of_extension("hstore", "hstore", &["", "a=>NULL, \"b c\"=>\"d\\\"e\""]),
    of_extension("citext", "citext", &["Ab", "aB", ""]),
    of_extension("ltree", "ltree", &["Top.a_1.b", ""]),
    of_extension("cube", "cube", &["(1,2),(3,0.1)", "(-0)"]),
    // Their binary form is not read back where they are empty.
    local(
        "int2vector",
        "encode(int2vectorsend($), 'hex')",
        &["1 2 -3", ""],
    ),
    local(
        "oidvector",
        "encode(oidvectorsend($), 'hex')",
        &["1 4294967295", ""],
    ),
    local(
        "tsquery",
        "encode(tsquerysend($), 'hex')",
        &["'a' & ( 'b' | !'c' ) <-> 'd':*AB", "", "'it''s'"],
    ),
    // Their binary form names object ids of one database.
    local(
        "mood[]",
        "array_dims($) || (SELECT string_agg(coalesce(enum_send(e), '\\x00'), '|') FROM unnest($) AS e)::text",
        &["{sad,NULL,\"a \\\"b\\\", c\"}", "{}", "[3:3]={ok}"],
    ),
    local(
        "place",
        "(textsend(($).city), int4send(($).code), timestamptz_send(($).at), float8send(($).f), bpcharsend(($).c))::text",
        &[
            "(\"a,b \\\"c\\\"\",1,\"0044-03-15 12:00:00+00 BC\",-0,x)",
            "(,,,,)",
            "(\"\",,infinity,1e-320,\"\")",
        ],
    ),
    local(
        "placed",
        "(textsend(($).city), int4send(($).code), timestamptz_send(($).at), float8send(($).f))::text",
        &["(王,2,,0.30000000000000004,ab)"],
    ),
    local(
        "place[]",
        "$::text",
        &["{\"(\\\"a,b\\\",1,,,)\",NULL}", "{}"],
    ),
    local(
        "positive[]",
        "array_send($::int[])::text",
        &["{1,2}", "[7:7]={3}", "{}"],
    ),
    local("regclass", "$::text", &["pg_class", "public.member", "-"]),
    local(
        "regtype",
        "$::text",
        &["public.mood", "timestamp with time zone", "integer[]"],
    ),
    local("regproc", "$::text", &["pg_catalog.now", "-"]),
    local("regrole", "$::text", &["postgres"]),
    local("regnamespace", "$::text", &["public"]),
];
