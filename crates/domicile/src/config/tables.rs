//! `[service.NAME.tables]`: whose the rows of each table are.

use std::collections::BTreeMap;

use model::ownership::{Case, Ownership};
use model::table::TableName;

use super::ConfigError;
use super::reader::Node;
use super::service::{Classified, UserColumns};

pub(super) fn read_tables(
    node: Option<Node<'_>>,
    user: &UserColumns,
) -> Result<BTreeMap<TableName, Classified>, ConfigError> {
    let mut tables = BTreeMap::new();
    let mut parents = Vec::new();
    let Some(node) = node else {
        return Ok(tables);
    };
    for (name, node) in node.table()?.rest() {
        let ownership = read_one(&node)?;
        let table = TableName::parse(&name);
        if table == user.table && ownership != Ownership::Column(user.key.clone()) {
            return Err(node.error(format_args!(
                "this is the user table, owned by its key: write {:?} or leave it out",
                user.key
            )));
        }
        parents.extend(
            leads_to(&ownership)
                .into_iter()
                .map(|parent| (parent, node.clone())),
        );
        let line = node.line;
        if tables
            .insert(table, Classified { ownership, line })
            .is_some()
        {
            return Err(node.error("the table is classified twice, with and without its schema"));
        }
    }
    for (parent, node) in parents {
        let owned = match tables.get(&parent).map(|classified| &classified.ownership) {
            Some(Ownership::Undecided) => true,
            Some(ownership) => ownership.is_owned(),
            None => parent == user.table,
        };
        if !owned {
            return Err(node.error(format_args!("points at {parent}, which belongs to no user")));
        }
    }
    Ok(tables)
}

/// A text, a list of texts, `{ reference = "copy" }`, `{ when = …, owner = … }` or a list of these.
fn read_one(node: &Node<'_>) -> Result<Ownership, ConfigError> {
    if let Some(text) = node.as_string() {
        return Ownership::parse(text).map_err(|error| node.error(error));
    }
    if node.is_table() {
        let mut inner = node.table()?;
        if let Some(reference) = inner.string("reference")? {
            inner.finish()?;
            return match reference.as_str() {
                "copy" => Ok(Ownership::ReferenceCopied),
                _ => Err(node.error(
                    "write { reference = \"copy\" }, or \"reference\" to have it compared alone",
                )),
            };
        }
        return Ok(Ownership::Cases(vec![read_case(node)?]));
    }
    let Ok(nodes) = node.nodes() else {
        return Err(node.error(
            "write a column, \"column -> table\", a list of these, { when = \"kind = 'order'\", owner = … }, a list of \
             these, \"reference\" or \"ignore\"",
        ));
    };
    if nodes.first().is_some_and(Node::is_table) {
        let cases = nodes.iter().map(read_case).collect::<Result<_, _>>()?;
        return Ok(Ownership::Cases(cases));
    }
    let texts = nodes
        .iter()
        .map(|node| node.string().map(str::to_owned))
        .collect::<Result<Vec<_>, _>>()?;
    Ownership::parse_first(&texts).map_err(|error| node.error(error))
}

fn read_case(node: &Node<'_>) -> Result<Case, ConfigError> {
    let mut inner = node.table()?;
    let (when, owner) = (inner.need("when")?, inner.need("owner")?);
    inner.finish()?;
    Case::parse(when.string()?, owner.string()?).map_err(|error| node.error(error))
}

/// The tables that a declaration leads to.
fn leads_to(ownership: &Ownership) -> Vec<TableName> {
    match ownership {
        Ownership::Path { parent: table, .. } | Ownership::Against { by: table, .. } => {
            vec![TableName::parse(table)]
        }
        Ownership::First(ways) => ways.iter().flat_map(leads_to).collect(),
        Ownership::Cases(cases) => cases
            .iter()
            .flat_map(|case| leads_to(&case.owner))
            .collect(),
        Ownership::Column(_)
        | Ownership::Reference
        | Ownership::ReferenceCopied
        | Ownership::Ignore
        | Ownership::Undecided => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn read(tables: &str) -> Result<Ownership, String> {
        let text = format!(
            "[site.a]\n[service.s]\norigin = \"a\"\nuser = {{ table = \"customer\", key = \"id\" }}\n\
             ids = \"uuid\"\ndatabase.a = \"postgres://h/d\"\n[service.s.tables]\norders = \"customer_id\"\nx = {tables}\n"
        );
        let config = Config::parse(&text, std::path::Path::new("domicile.toml"));
        let config = config.map_err(|error| error.to_string())?;
        let service = config.services.values().next().expect("one service");
        Ok(service.ownership()[&TableName::parse("x")].clone())
    }

    #[test]
    fn every_form_of_the_design_is_read() {
        for (toml, shown) in [
            ("\"a\"", "a"),
            ("\"(a, b) -> orders\"", "(a, b) -> orders"),
            ("\"<- orders.x_id\"", "<- orders.x_id"),
            (
                "[\"buyer_id\", \"order_id -> orders\"]",
                "buyer_id, else order_id -> orders",
            ),
            (
                "{ when = \"kind = 'order'\", owner = \"object_id -> orders\" }",
                "object_id -> orders when kind = 'order'",
            ),
            (
                "[{ when = \"kind = 'order'\", owner = \"object_id -> orders\" }, \
                  { when = \"kind = 'user'\", owner = \"object_id\" }]",
                "object_id -> orders when kind = 'order', else object_id when kind = 'user'",
            ),
        ] {
            assert_eq!(read(toml).expect(toml).to_string(), shown);
        }
        assert_eq!(
            read("{ reference = \"copy\" }"),
            Ok(Ownership::ReferenceCopied)
        );
    }

    #[test]
    fn what_is_no_form_is_named_with_its_line() {
        for (toml, part) in [
            ("5", "write a column"),
            ("[]", "says nothing"),
            ("[\"a\", \"ignore\"]", "cannot be one of several"),
            ("{ when = \"f(x) = 1\", owner = \"a\" }", "is no condition"),
            ("{ when = \"a = 1\" }", "`owner` is missing"),
            (
                "{ when = \"a = 1\", owner = \"a\", els = \"b\" }",
                "unknown key `els`",
            ),
            ("{ reference = \"copied\" }", "reference = \"copy\""),
            ("[\"a\", \"b_id -> nobody\"]", "belongs to no user"),
            (
                "{ when = \"a = 1\", owner = \"<- nobody.b\" }",
                "belongs to no user",
            ),
        ] {
            let error = read(toml).expect_err(toml);
            assert!(
                error.contains(part) && error.contains("domicile.toml"),
                "{toml}: {error}"
            );
            assert!(error.contains('9'), "the line: {error}");
        }
    }
}
