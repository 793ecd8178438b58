//! How a row of an owned table leads to its user, and the SQL that follows it.
//!
//! A way is a chain: the row, then at each hop the row of another table, and at the end a column with the user's key. At
//! every node there may be a condition. A declaration with several alternatives (the first of several columns, cases)
//! gives several ways whose conditions exclude each other, and so does a parent with alternatives for all its children.

use serde::{Deserialize, Serialize};

use crate::ownership::Comparison;
use crate::table::{OwnedTable, TableName, equal, quote};

/// A step of a way: from a row to the row of `parent` whose `parent_columns` equal its `columns`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// The row's columns.
    pub columns: Vec<String>,
    /// The table that decides about the row.
    pub parent: TableName,
    /// The parent's object id.
    pub parent_oid: u32,
    /// The parent's columns.
    pub parent_columns: Vec<String>,
    /// Whether a validated foreign key enforces this step. Against the arrow: the foreign key of the other direction.
    pub enforced: bool,
    /// Against the arrow: `parent` points here, so that several rows of it may.
    pub against: bool,
}

/// One test of a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Test {
    /// A comparison holds.
    Holds(Comparison),
    /// None of these columns is null.
    Filled(Vec<String>),
    /// The condition of an alternative that goes before does not hold.
    Not(Condition),
}

/// What must hold of a row: all of the tests. Empty: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition(pub Vec<Test>);

/// How a row leads to its user: along `hops`, then by `column` of the last table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// What must hold of the row and of the row after each hop: one more than there are hops.
    pub when: Vec<Condition>,
    /// The steps; empty where the table itself has the column.
    pub hops: Vec<Hop>,
    /// The column that holds the user's key.
    pub column: String,
}

/// Which users' rows a query is about.
#[derive(Clone, Copy, Debug)]
pub enum Among<'a> {
    /// Everybody's.
    All,
    /// Of those in the column `user_key` of this relation.
    Relation(&'a str),
    /// Of those in this SQL array of keys.
    Array(&'a str),
}

// === impl Condition ===

impl Condition {
    /// Whether it holds of every row.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As SQL, for a row under that alias; `true` where it is empty.
    pub fn sql(&self, row: &str) -> String {
        if self.is_empty() {
            return "true".to_owned();
        }
        let tests = self.0.iter().map(|test| match test {
            Test::Holds(comparison) => comparison.sql(row),
            Test::Filled(columns) => filled(row, columns),
            Test::Not(condition) => format!("({}) IS NOT TRUE", condition.sql(row)),
        });
        tests.collect::<Vec<_>>().join(" AND ")
    }

    /// The condition without what rules other alternatives out: what the alternative asks for by itself.
    pub fn alone(&self) -> Self {
        let own = self.0.iter().filter(|test| !matches!(test, Test::Not(_)));
        Self(own.cloned().collect())
    }

    /// The columns that it looks at.
    pub fn columns(&self) -> Vec<&String> {
        fn of(test: &Test) -> Vec<&String> {
            match test {
                Test::Holds(comparison) => vec![&comparison.column],
                Test::Filled(columns) => columns.iter().collect(),
                Test::Not(condition) => condition.columns(),
            }
        }
        self.0.iter().flat_map(of).collect()
    }
}

/// `a.x IS NOT NULL AND ...`
pub fn filled(row: &str, columns: &[String]) -> String {
    let terms = columns
        .iter()
        .map(|c| format!("{row}.{} IS NOT NULL", quote(c)));
    terms.collect::<Vec<_>>().join(" AND ")
}

// === impl Way ===

impl Way {
    /// The columns of the row itself that decide whose it is.
    pub fn deciding(&self) -> Vec<&String> {
        let mut columns = self.when[0].columns();
        match self.hops.first() {
            Some(hop) => columns.extend(&hop.columns),
            None => columns.push(&self.column),
        }
        columns
    }

    /// Whether the rows of one user may be reached more than once, or by several users.
    pub fn is_shared(&self) -> bool {
        self.hops.iter().any(|hop| hop.against)
    }

    /// Whether the way leads from every row to one owner, on no condition: down foreign keys alone, never against one.
    pub fn is_plain(&self) -> bool {
        self.when.iter().all(Condition::is_empty) && !self.is_shared()
    }

    /// The expression that gives the owner, where the row after `n` hops is called by `alias(n)`.
    fn owner(&self, alias: &dyn Fn(usize) -> String) -> String {
        format!("{}.{}", alias(self.hops.len()), quote(&self.column))
    }

    /// From the row called `t` (or what [`alias`] says) at node `at` onwards: the joins, the owner's expression
    /// and the conditions that belong into WHERE.
    fn follow(
        &self,
        at: usize,
        among: Among<'_>,
        conditions: &mut Vec<String>,
    ) -> (String, String) {
        let row = alias(at);
        if !self.when[at].is_empty() {
            conditions.push(self.when[at].sql(&row));
        }
        let Some(hop) = self.hops.get(at) else {
            let owner = format!("{row}.{}", quote(&self.column));
            let join = match among {
                Among::All => String::new(),
                Among::Relation(users) => format!(" JOIN {users} AS c ON c.user_key = {owner}"),
                Among::Array(users) => {
                    conditions.push(format!("{owner} = ANY ({users})"));
                    String::new()
                }
            };
            return (join, owner);
        };
        let next = alias(at + 1);
        if !hop.against {
            let (rest, owner) = self.follow(at + 1, among, conditions);
            let join = format!(
                " JOIN {} AS {next} ON {}{rest}",
                hop.parent.sql(),
                equal(&next, &hop.parent_columns, &row, &hop.columns)
            );
            return (join, owner);
        }
        // Several rows may point here for one user: the row counts once for each.
        let mut inner = Vec::new();
        let (rest, owner) = self.follow(at + 1, among, &mut inner);
        inner.insert(0, filled(&next, &hop.parent_columns));
        let pointed = format!("f{}", at + 1);
        let keys = hop.parent_columns.iter().enumerate();
        let (selected, same): (Vec<String>, Vec<String>) = keys
            .map(|(n, column)| {
                (
                    format!("{next}.{} AS k{n}", quote(column)),
                    format!("{pointed}.k{n} = {row}.{}", quote(&hop.columns[n])),
                )
            })
            .unzip();
        let join = format!(
            " JOIN (SELECT DISTINCT {}, {owner} AS owner FROM {} AS {next}{rest} WHERE {}) AS {pointed} ON {}",
            selected.join(", "),
            hop.parent.sql(),
            inner.join(" AND "),
            same.join(" AND "),
        );
        (join, format!("{pointed}.owner"))
    }

    /// `FROM parent AS p1 JOIN ... WHERE ...`, the rows that decide about one row called `row`: what stands in a subquery
    /// about that row. Not for a way without hops.
    pub fn beyond(&self, row: &str) -> String {
        let first = &self.hops[0];
        let mut conditions = vec![equal("p1", &first.parent_columns, row, &first.columns)];
        let mut sql = format!("FROM {} AS p1", first.parent.sql());
        for (n, hop) in self.hops.iter().enumerate().skip(1) {
            let (child, parent) = (format!("p{n}"), format!("p{}", n + 1));
            sql.push_str(&format!(
                " JOIN {} AS {parent} ON {}",
                hop.parent.sql(),
                equal(&parent, &hop.parent_columns, &child, &hop.columns)
            ));
        }
        for (n, condition) in self.when.iter().enumerate().skip(1) {
            if !condition.is_empty() {
                conditions.push(condition.sql(&format!("p{n}")));
            }
        }
        format!("{sql} WHERE {}", conditions.join(" AND "))
    }

    /// The owner's expression in a query with [`beyond`](Self::beyond) about the row called `row`.
    pub fn owner_of(&self, row: &str) -> String {
        self.owner(&|n| {
            if n == 0 {
                row.to_owned()
            } else {
                format!("p{n}")
            }
        })
    }
}

/// What the row after `n` hops is called.
fn alias(n: usize) -> String {
    if n == 0 {
        "t".to_owned()
    } else {
        format!("p{n}")
    }
}

// === impl OwnedTable ===

impl OwnedTable {
    /// A query of this table's rows, each called `t`, with their ways to the owners in `among`: selects what `what`
    /// makes of the owner's expression, where `and` holds too. A row that several users own comes once for each.
    pub fn select(
        &self,
        among: Among<'_>,
        what: impl Fn(&str) -> String,
        and: Option<&str>,
    ) -> String {
        let arms = self.ways.iter().map(|way| {
            let mut conditions = Vec::new();
            let (joins, owner) = way.follow(0, among, &mut conditions);
            conditions.extend(and.map(ToOwned::to_owned));
            let condition = match conditions.as_slice() {
                [] => String::new(),
                some => format!(" WHERE {}", some.join(" AND ")),
            };
            format!(
                "SELECT {} FROM {} AS t{joins}{condition}",
                what(&owner),
                self.name.sql()
            )
        });
        arms.collect::<Vec<_>>().join(" UNION ALL ")
    }

    /// Whether a row may lead to several users, of whom the first that applies is the owner.
    pub fn may_name_two(&self) -> bool {
        let excludes = |way: &Way| way.when[0].alone() != way.when[0];
        self.ways.iter().any(excludes)
    }

    /// Everybody to whom a row called `row` leads by any of its ways, whichever of them decides; as [`owners_of`](Self::owners_of).
    pub fn everybody_of(&self, row: &str) -> String {
        let mut every = self.clone();
        for way in &mut every.ways {
            way.when[0] = way.when[0].alone();
        }
        every.owners_of(row)
    }

    /// The owners of one row called `row`, as arms of a query with a single column; none of a way without hops.
    pub fn owners_of(&self, row: &str) -> String {
        let arms = self.ways.iter().map(|way| {
            let owner = way.owner_of(row);
            if way.hops.is_empty() {
                format!("SELECT {owner} WHERE {}", way.when[0].sql(row))
            } else {
                let condition = match way.when[0].is_empty() {
                    true => String::new(),
                    false => format!(" AND {}", way.when[0].sql(row)),
                };
                format!("SELECT {owner} {}{condition}", way.beyond(row))
            }
        });
        arms.collect::<Vec<_>>().join(" UNION ALL ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(column: &str, parent: &str, parent_column: &str, against: bool) -> Hop {
        Hop {
            columns: vec![column.into()],
            parent: TableName::parse(parent),
            parent_oid: 0,
            parent_columns: vec![parent_column.into()],
            enforced: true,
            against,
        }
    }

    fn table(ways: Vec<Way>) -> OwnedTable {
        OwnedTable {
            name: TableName::parse("t"),
            oid: 1,
            leaves: Vec::new(),
            columns: Vec::new(),
            key: vec!["id".into()],
            identity_wanted: None,
            ways,
        }
    }

    #[test]
    fn a_path_of_two_hops_joins_to_the_owner() {
        let way = Way {
            when: vec![Condition::default(); 3],
            hops: vec![
                hop("line_id", "line", "id", false),
                hop("order_id", "orders", "id", false),
            ],
            column: "user_id".into(),
        };
        let table = table(vec![way]);
        assert_eq!(
            table.select(
                Among::Relation("chunk"),
                |owner| format!("{owner}, t.*"),
                None
            ),
            r#"SELECT p2."user_id", t.* FROM "public"."t" AS t JOIN "public"."line" AS p1 ON p1."id" = t."line_id" JOIN "public"."orders" AS p2 ON p2."id" = p1."order_id" JOIN chunk AS c ON c.user_key = p2."user_id""#
        );
        assert_eq!(
            table.owners_of("NEW"),
            r#"SELECT p2."user_id" FROM "public"."line" AS p1 JOIN "public"."orders" AS p2 ON p2."id" = p1."order_id" WHERE p1."id" = NEW."line_id""#
        );
    }

    #[test]
    fn the_first_column_that_is_not_null_decides() {
        let a = Condition(vec![Test::Filled(vec!["a".into()])]);
        let b = Condition(vec![Test::Not(a.clone()), Test::Filled(vec!["b".into()])]);
        let way = |when, column: &str| Way {
            when: vec![when],
            hops: Vec::new(),
            column: column.into(),
        };
        assert_eq!(
            table(vec![way(a, "a"), way(b, "b")]).select(
                Among::Array("$1"),
                str::to_owned,
                Some("t.x")
            ),
            r#"SELECT t."a" FROM "public"."t" AS t WHERE t."a" IS NOT NULL AND t."a" = ANY ($1) AND t.x UNION ALL SELECT t."b" FROM "public"."t" AS t WHERE (t."a" IS NOT NULL) IS NOT TRUE AND t."b" IS NOT NULL AND t."b" = ANY ($1) AND t.x"#
        );
    }

    #[test]
    fn against_the_arrow_a_row_counts_once_for_each_owner() {
        let way = Way {
            when: vec![Condition::default(); 2],
            hops: vec![hop("id", "orders", "address_id", true)],
            column: "user_id".into(),
        };
        assert_eq!(
            table(vec![way]).select(Among::All, |_| "t.*".to_owned(), None),
            r#"SELECT t.* FROM "public"."t" AS t JOIN (SELECT DISTINCT p1."address_id" AS k0, p1."user_id" AS owner FROM "public"."orders" AS p1 WHERE p1."address_id" IS NOT NULL) AS f1 ON f1.k0 = t."id""#
        );
    }
}
