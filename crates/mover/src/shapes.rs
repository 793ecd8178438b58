//! Watches, through a whole move, whether somebody changes the tables under it.

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
        let shapes = Self {
            source: Shape::read(&*desk.source, &source.schema)
                .await
                .at(&source.site, DOING)?,
            target: Shape::read(&*desk.target, &target.schema)
                .await
                .at(&target.site, DOING)?,
            all: [
                Tables::read(&*desk.source).await.at(&source.site, DOING)?,
                Tables::read(&*desk.target).await.at(&target.site, DOING)?,
            ],
        };
        unchanged(source, shapes.source.differs_from(&source.schema))?;
        unchanged(target, shapes.target.differs_from(&target.schema))?;
        Ok(shapes)
    }

    /// Looks again.
    ///
    /// # Errors
    /// [`Error::SchemaChanged`] where a table changed or came.
    pub async fn look_again(&self, route: &Route, desk: &Desk) -> Result<()> {
        let ends = [
            (&route.source, &desk.source, &self.source),
            (&route.target, &desk.target, &self.target),
        ];
        for ((end, session, before), all) in ends.into_iter().zip(&self.all) {
            let (now, tables) = tokio::join!(
                biased;
                Shape::read(&**session, &end.schema),
                Tables::read(&**session),
            );
            unchanged(end, before.changed(&now.at(&end.site, DOING)?))?;
            unchanged(end, all.newcomer(&tables.at(&end.site, DOING)?))?;
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
