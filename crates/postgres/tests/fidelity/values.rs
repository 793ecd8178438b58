//! Random values of a type, as PostgreSQL reads them.

/// A small generator: the same values in every run.
#[derive(Debug)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn of<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len() as u64) as usize]
    }
}

/// A random value of the family of `sql_type`, none where special values alone are tested.
pub fn random(sql_type: &str, chance: &mut Chance) -> Option<String> {
    let value = match sql_type {
        "smallint" => (chance.next() as i16).to_string(),
        "integer" | "positive" => (chance.next() as i32 & i32::MAX | 1).to_string(),
        "bigint" => (chance.next() as i64).to_string(),
        "real" => float(f64::from(f32::from_bits(chance.next() as u32))),
        "double precision" => float(f64::from_bits(chance.next())),
        "numeric" => numeric(chance),
        "numeric(20,5)" => format!("{}.{:05}", chance.next() as i32, chance.below(100_000)),
        "money" => format!("{}.{:02}", chance.next() as i32, chance.below(100)),
        "timestamp without time zone" => moment(chance),
        "timestamp with time zone" => format!(
            "{}+{:02}:{:02}",
            moment(chance),
            chance.below(15),
            chance.below(60)
        ),
        "date" => moment(chance)
            .split(' ')
            .next()
            .unwrap_or_default()
            .to_owned(),
        "interval" => format!(
            "{} mons {} days {} microseconds",
            chance.next() as i16,
            chance.next() as i16,
            chance.next() as i64 >> 12
        ),
        "time without time zone" => clock(chance),
        "time with time zone" => format!(
            "{}-{:02}:{:02}",
            clock(chance),
            chance.below(15),
            chance.below(60)
        ),
        "json" | "jsonb" => json(chance, 3),
        "bytea" => {
            let bytes = (0..chance.below(40)).map(|_| format!("{:02x}", chance.next() as u8));
            format!("\\x{}", bytes.collect::<String>())
        }
        "text" | "wordy" | "citext" => text(chance, 30),
        "character varying(10)" => text(chance, 10),
        "character(5)" => text(chance, 5).replace(' ', "_"),
        "bit varying" => bits(chance, 70),
        "inet" => format!(
            "{}.{}.0.1/{}",
            chance.below(256),
            chance.below(256),
            chance.below(33)
        ),
        "uuid" => format!("{:016x}{:016x}", chance.next(), chance.next()),
        "integer[]" => format!(
            "[{0}:{1}]={{{2},NULL,{3}}}",
            chance.next() as i8,
            0,
            chance.next() as i32,
            chance.next() as i32
        )
        .replacen(":0]", ":?]", 1),
        "int4range" => format!("[{},{})", chance.next() as i16, 40_000 + chance.below(9)),
        "point" => format!(
            "({},{})",
            float(f64::from_bits(chance.next())),
            chance.next() as i16
        ),
        "hstore" => format!(
            r#""{}"=>NULL, "k {}"=>"v\"{}""#,
            chance.below(9),
            chance.below(9),
            chance.next()
        ),
        _ => return None,
    };
    // The lower bound of an array says what the upper one has to be.
    Some(match value.split_once(":?]") {
        Some((low, rest)) => {
            let low: i64 = low.trim_start_matches('[').parse().unwrap_or(0);
            format!("[{low}:{}]{rest}", low + 2)
        }
        None => value,
    })
}

fn float(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else {
        format!("{value:e}").replace("inf", "Infinity")
    }
}

fn numeric(chance: &mut Chance) -> String {
    let digits = |chance: &mut Chance, n| {
        (0..n)
            .map(|_| char::from(b'0' + chance.below(10) as u8))
            .collect::<String>()
    };
    let (whole, scale) = (1 + chance.below(40), chance.below(30));
    let sign = ["", "-"][chance.below(2) as usize];
    match scale {
        0 => format!("{sign}{}", digits(chance, whole)),
        _ => format!("{sign}{}.{}", digits(chance, whole), digits(chance, scale)),
    }
}

fn moment(chance: &mut Chance) -> String {
    let era = ["", "", "", " BC"][chance.below(4) as usize];
    format!(
        "{:04}-{:02}-{:02} {}{era}",
        1 + chance.below(4_000),
        1 + chance.below(12),
        1 + chance.below(28),
        clock(chance)
    )
}

fn clock(chance: &mut Chance) -> String {
    format!(
        "{:02}:{:02}:{:02}.{:06}",
        chance.below(24),
        chance.below(60),
        chance.below(60),
        chance.below(1_000_000)
    )
}

fn text(chance: &mut Chance, length_max: u64) -> String {
    const LETTERS: &[&str] = &[
        "a",
        "B",
        " ",
        "'",
        "\"",
        "\\",
        "\t",
        "\n",
        "\r",
        "\u{1}",
        ",",
        "{",
        "}",
        "\u{e9}",
        "e\u{301}",
        "\u{738b}",
        "\u{1f600}",
        "\u{feff}",
        "\u{10ffff}",
        "\u{df}",
        "N",
        ".",
    ];
    let length = chance.below(length_max / 2 + 1);
    (0..length).map(|_| chance.of(LETTERS)).collect()
}

fn bits(chance: &mut Chance, length_max: u64) -> String {
    (0..chance.below(length_max))
        .map(|_| char::from(b'0' + chance.below(2) as u8))
        .collect()
}

fn json(chance: &mut Chance, depth: u64) -> String {
    let space = ["", " ", "\n", "\t "][chance.below(4) as usize];
    match if depth == 0 {
        3 + chance.below(4)
    } else {
        chance.below(7)
    } {
        0 => {
            let inner = (0..chance.below(4)).map(|_| json(chance, depth - 1));
            format!("{space}[{}]", inner.collect::<Vec<_>>().join(","))
        }
        1 | 2 => {
            let member = |chance: &mut Chance| {
                format!(
                    "{space}\"{}\" :{}",
                    chance.of(&["b", "a", "\u{e9}", "\\u0041", ""]),
                    json(chance, depth - 1)
                )
            };
            let inner: Vec<String> = (0..chance.below(4)).map(|_| member(chance)).collect();
            format!("{{{}{space}}}", inner.join(","))
        }
        3 => format!("{space}{}", chance.of(&["null", "true", "false"])),
        4 => format!(
            "{}{space}",
            chance.of(&[
                "1.0",
                "1.00",
                "-0",
                "1E5",
                "0.1e-7",
                "123456789012345678901234567890"
            ])
        ),
        5 => format!(
            "\"{}\"",
            chance.of(&["x", "\\ud83d\\ude00", "\\\"", "\\\\n", "\u{738b}"])
        ),
        _ => (chance.next() as i32).to_string(),
    }
}
