//! Ids that two sites could both give out.

use model::table::{HomeSchema, OwnedTable};

use super::{Expectation, Finding, Findings, Ids, Side};
use crate::catalog::{Catalog, Sequence, TableColumn};

/// What one site's catalog says about how its ids are kept apart.
pub(super) fn look(expect: &Expectation<'_>, findings: &mut Findings<'_>) {
    if expect.ids == Ids::Application {
        return;
    }
    for table in &expect.schema.owned {
        if follows_another_key(expect.schema, table) {
            continue;
        }
        let columns = key_columns(expect.catalog, table);
        let uuid = columns.iter().any(|column| column.base_type == "uuid");
        let key = table.key.join(", ");
        match expect.ids {
            Ids::Uuid if !uuid => findings.blocker(
                format!(
                    "ids are \"uuid\", but the key ({key}) of {} holds none",
                    table.name
                ),
                "give the table a uuid key, or set ids to \"ranges\" or \"application\"",
            ),
            Ids::Ranges if !uuid && columns.iter().all(|column| column.sequences.is_empty()) => {
                findings.warning(
                    format!(
                        "ids are \"ranges\", but no sequence feeds the key ({key}) of {}: nobody keeps it \
                         apart between sites",
                        table.name
                    ),
                    "give the key a sequence, or set ids to \"application\"",
                );
            }
            Ids::Uuid | Ids::Ranges | Ids::Application => {}
        }
    }
}

/// A key that contains the user's, or its parent's, is apart if that one is.
fn follows_another_key(schema: &HomeSchema, table: &OwnedTable) -> bool {
    if table.name == schema.users.name {
        return false;
    }
    table.ways.iter().all(|way| match way.hops.first() {
        Some(hop) => !hop.against && hop.columns.iter().all(|column| table.key.contains(column)),
        None => table.key.contains(&way.column),
    })
}

fn key_columns<'a>(catalog: &'a Catalog, table: &OwnedTable) -> Vec<&'a TableColumn> {
    let found = catalog.tables.get(&table.name);
    table
        .key
        .iter()
        .filter_map(|name| found?.column(name))
        .collect()
}

/// Where ids are ranges: the sequences behind owned tables' keys that could give out the same number at
/// two sites. `sites` should be all sites of the service, its origin first; the mend given with each
/// finding divides the numbers that are left between them.
pub fn compare_ids(sites: &[Side<'_>], ids: Ids) -> Vec<Finding> {
    let (Ids::Ranges, Some(first)) = (ids, sites.first()) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for table in &first.schema.owned {
        for name in &table.key {
            let columns: Vec<(&Side<'_>, &TableColumn)> = sites
                .iter()
                .filter_map(|side| {
                    let column = side.catalog.tables.get(&table.name)?.column(name)?;
                    (!column.sequences.is_empty()).then_some((side, column))
                })
                .collect();
            findings.extend(collisions(&format!("{}.{name}", table.name), &columns));
        }
    }
    findings
}

fn collisions(about: &str, columns: &[(&Side<'_>, &TableColumn)]) -> Vec<Finding> {
    let mut found = Vec::new();
    let mends = divide(columns);
    for (place, (side, column)) in columns.iter().enumerate() {
        let collides = |(other, theirs): &&(&Side<'_>, &TableColumn)| {
            other.site != side.site
                && column
                    .sequences
                    .iter()
                    .any(|a| theirs.sequences.iter().any(|b| overlap(a, b)))
        };
        let Some((other, _)) = columns.iter().find(collides) else {
            continue;
        };
        let mut findings = Findings {
            site: side.site,
            list: Vec::new(),
        };
        let mend = match &mends {
            Some(mends) => mends[place].clone(),
            None => format!(
                "too few numbers are left for {} sites: widen {about} to bigint",
                columns.len()
            ),
        };
        findings.blocker(
            format!(
                "the sequence behind {about} could give out numbers that {} gives out too",
                other.site
            ),
            mend,
        );
        found.append(&mut findings.list);
    }
    found
}

/// Whether two sequences could ever give the same number from here on.
fn overlap(a: &Sequence, b: &Sequence) -> bool {
    let (a_range, b_range) = (range(a), range(b));
    let apart = a_range.1 < b_range.0 || b_range.1 < a_range.0;
    // Steps with a common divisor keep two sequences apart if they set out at different remainders.
    let step = gcd(a.increment.unsigned_abs(), b.increment.unsigned_abs());
    let distance = (next(a) - next(b)).unsigned_abs();
    let interleaved = step > 1 && !distance.is_multiple_of(u128::from(step));
    !apart && !interleaved
}

/// The numbers that a sequence gives, or gave since its start.
fn range(sequence: &Sequence) -> (i128, i128) {
    let (next, start) = (next(sequence), i128::from(sequence.start));
    if sequence.increment > 0 {
        (next.min(start), sequence.max.into())
    } else {
        (sequence.min.into(), next.max(start))
    }
}

fn next(sequence: &Sequence) -> i128 {
    match sequence.last {
        Some(last) => i128::from(last) + i128::from(sequence.increment),
        None => sequence.start.into(),
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The statements that give each site numbers of its own, in the order of the sites: above every number
/// given so far, in round portions. `None` where too few are left.
fn divide(columns: &[(&Side<'_>, &TableColumn)]) -> Option<Vec<String>> {
    let top = columns
        .iter()
        .map(|(_, column)| match column.base_type.as_str() {
            "smallint" => i64::from(i16::MAX),
            "integer" => i64::from(i32::MAX),
            _ => i64::MAX,
        });
    let top = i128::from(top.min()?);
    let sequences = columns.iter().flat_map(|(_, column)| &column.sequences);
    let given = sequences
        .map(|sequence| sequence.last.unwrap_or(0).max(0))
        .max()?;
    let sites = i128::try_from(columns.len()).ok()?;
    let fits = |step: &i128| {
        let base = (i128::from(given) + step - 1) / step * step;
        base + sites * step <= top
    };
    let step = (1..=18).rev().map(|power| 10_i128.pow(power)).find(fits)?;
    let base = (i128::from(given) + step - 1) / step * step;
    let statements = columns.iter().enumerate().map(|(place, (_, column))| {
        let place = i128::try_from(place).expect("a handful of sites");
        let least = base + place * step + 1;
        let greatest = base + (place + 1) * step;
        let each = column.sequences.iter().map(|sequence| {
            let name = sequence.name.sql();
            if place == 0 {
                return format!("ALTER SEQUENCE {name} INCREMENT BY 1 MAXVALUE {greatest}");
            }
            format!(
                "ALTER SEQUENCE {name} INCREMENT BY 1 MINVALUE {least} MAXVALUE {greatest} \
                 START WITH {least} RESTART WITH {least}"
            )
        });
        each.collect::<Vec<_>>().join("; ")
    });
    Some(statements.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::sample::sequence;

    const TOP: i64 = i64::MAX;

    #[test]
    fn sequences_apart_are_left_alone() {
        let apart = [
            (sequence(1, 1, 1000, Some(7)), sequence(1001, 1, TOP, None)),
            (sequence(1, 2, TOP, Some(7)), sequence(2, 2, TOP, Some(100))),
            (sequence(1, 4, TOP, None), sequence(4, 6, TOP, None)),
        ];
        for (a, b) in &apart {
            assert!(!overlap(a, b) && !overlap(b, a), "{a:?} {b:?}");
        }
    }

    #[test]
    fn sequences_that_meet_are_found_however_far_apart_they_stand() {
        let meeting = [
            (sequence(1, 1, TOP, None), sequence(1, 1, TOP, Some(5000))),
            (
                sequence(1, 1, TOP, Some(7)),
                sequence(1_000_000, 1, TOP, None),
            ),
            (sequence(1, 2, TOP, None), sequence(3, 2, TOP, None)),
            (sequence(1, 2, TOP, None), sequence(2, 3, TOP, None)),
            (sequence(1, 1, 1000, None), sequence(1000, 1, TOP, None)),
        ];
        for (a, b) in &meeting {
            assert!(overlap(a, b) && overlap(b, a), "{a:?} {b:?}");
        }
    }
}
