//! Watches, through a whole move, whether somebody changes the tables under it.

use postgres::connect::Session;
use postgres::shape::{Changed, Shape, Tables};

use crate::desk::Desk;
use crate::error::{At, Error, Result};
use crate::route::{End, Route};

const DOING: &str = "looking whether the tables are what they were";

/// Both ends as they were when the move began.
#[derive(Clone, Debug)]
pub struct Shapes {
    /// The source's owned tables.
    pub source: Shape,
    /// The target's.
    pub target: Shape,
    /// All tables of the source and of the target.
    all: [Tables; 2],
}

// === impl Shapes ===

impl Shapes {
    /// Looks at both ends.
    ///
    /// # Errors
    /// [`Error::SchemaChanged`] where a table is no longer what the route says.
    pub async fn read(route: &Route, desk: &Desk) -> Result<Self> {
        let (source, target) = (&route.source, &route.target);
        let (here, there) = tokio::join!(look(source, &desk.source), look(target, &desk.target));
        let ((source_shape, source_tables), (target_shape, target_tables)) = (here?, there?);
        unchanged(source, source_shape.differs_from(&source.schema))?;
        unchanged(target, target_shape.differs_from(&target.schema))?;
        Ok(Self {
            source: source_shape,
            target: target_shape,
            all: [source_tables, target_tables],
        })
    }

    /// Looks again.
    ///
    /// # Errors
    /// [`Error::SchemaChanged`] where a table changed or came.
    pub async fn look_again(&self, route: &Route, desk: &Desk) -> Result<()> {
        let (source, target) = (&route.source, &route.target);
        let (here, there) = tokio::join!(look(source, &desk.source), look(target, &desk.target));
        let ends = [(source, &self.source, here), (target, &self.target, there)];
        for ((end, before, now), all) in ends.into_iter().zip(&self.all) {
            let (now, tables) = now?;
            unchanged(end, before.changed(&now))?;
            unchanged(end, all.newcomer(&tables))?;
        }
        Ok(())
    }

    /// The change of a table that explains `error`, told as exactly as it can be; `error` itself where there is none.
    pub async fn cause(&self, route: &Route, error: Error) -> Error {
        let from_a_table = matches!(
            error,
            Error::Postgres { .. } | Error::Residency { .. } | Error::SchemaChanged { .. }
        );
        if !from_a_table {
            return error;
        }
        let sessions = tokio::join!(route.source.session("mover"), route.target.session("mover"));
        let (Ok(source), Ok(target)) = sessions else {
            return error;
        };
        match self.look_again(route, &Desk { source, target }).await {
            Err(changed @ Error::SchemaChanged { .. }) => changed,
            _ => error,
        }
    }
}

/// The owned tables and all tables of `end`, as they are now.
async fn look(end: &End, session: &Session) -> Result<(Shape, Tables)> {
    let kept = session.kept();
    let (shape, tables) = tokio::join!(
        biased;
        Shape::read(&**session, &kept, &end.schema),
        Tables::read(&**session, &kept),
    );
    Ok((shape.at(&end.site, DOING)?, tables.at(&end.site, DOING)?))
}

/// An error, where something changed at `end`.
pub(crate) fn unchanged(end: &End, changed: Option<Changed>) -> Result<()> {
    match changed {
        None => Ok(()),
        Some(Changed { table, what }) => Err(Error::SchemaChanged {
            site: end.site.clone(),
            table: table.to_string(),
            what,
        }),
    }
}
