//! Watches, through a whole move, whether somebody changes the tables under it.

use postgres::connect::Session;
use postgres::shape::{self, Changed, Shape};

use crate::desk::Desk;
use crate::error::{At, Error, Result};
use crate::route::{End, Offices, Route};

const DOING: &str = "looking whether the tables are what they were";

/// The tables of one end as they were when the move began.
#[derive(Clone, Debug)]
pub struct Tables {
    /// The owned ones.
    pub shape: Shape,
    all: shape::Tables,
}

// === impl Tables ===

impl Tables {
    /// Looks at `end`.
    ///
    /// # Errors
    /// [`Error::SchemaChanged`] where a table is no longer what was read when the move was planned.
    pub async fn read(end: &End, session: &Session) -> Result<Self> {
        let tables = look(end, session).await?;
        unchanged(end, tables.shape.differs_from(&end.schema))?;
        Ok(tables)
    }

    /// Looks again.
    ///
    /// # Errors
    /// [`Error::SchemaChanged`] where a table changed or came.
    pub async fn look_again(&self, end: &End, session: &Session) -> Result<()> {
        let now = look(end, session).await?;
        unchanged(end, self.shape.changed(&now.shape))?;
        unchanged(end, self.all.newcomer(&now.all))
    }
}

/// The source's tables as they were when the move began; the target watches over its own.
#[derive(Clone, Debug)]
pub struct Shapes {
    tables: Tables,
}

// === impl Shapes ===

impl Shapes {
    /// Looks at both ends, and bids the target watch.
    ///
    /// # Errors
    /// [`Error::SchemaChanged`] where a table is no longer what the route says.
    pub async fn read(route: &Route, desk: &Desk) -> Result<Self> {
        let here = Tables::read(&route.source, &desk.source);
        let (tables, there) = tokio::join!(here, desk.target.watch());
        let tables = tables?;
        there?;
        Ok(Self { tables })
    }

    /// The source's owned tables.
    pub fn source(&self) -> &Shape {
        &self.tables.shape
    }

    /// Looks again at both ends.
    ///
    /// # Errors
    /// [`Error::SchemaChanged`] where a table changed or came.
    pub async fn look_again(&self, route: &Route, desk: &Desk) -> Result<()> {
        let (here, there) = tokio::join!(
            self.look_again_here(route, &desk.source),
            desk.target.look_again()
        );
        here?;
        there
    }

    /// Looks again at the source.
    ///
    /// # Errors
    /// As [`look_again`](Self::look_again).
    pub async fn look_again_here(&self, route: &Route, session: &Session) -> Result<()> {
        self.tables.look_again(&route.source, session).await
    }

    /// The change of a table that explains `error`, told as exactly as it can be; `error` itself where there is none.
    pub async fn cause(&self, route: &Route, offices: &Offices, error: Error) -> Error {
        let from_a_table = matches!(
            error,
            Error::Postgres { .. }
                | Error::Residency { .. }
                | Error::Peer { .. }
                | Error::SchemaChanged { .. }
        );
        if !from_a_table {
            return error;
        }
        let Ok(desk) = Desk::open(route, offices, "mover").await else {
            return error;
        };
        match self.look_again(route, &desk).await {
            Err(changed @ Error::SchemaChanged { .. }) => changed,
            _ => error,
        }
    }
}

/// The owned tables and all tables of `end`, as they are now.
async fn look(end: &End, session: &Session) -> Result<Tables> {
    let kept = session.kept();
    let (shape, all) = tokio::join!(
        biased;
        Shape::read(&**session, &kept, &end.schema),
        shape::Tables::read(&**session, &kept),
    );
    Ok(Tables {
        shape: shape.at(&end.site, DOING)?,
        all: all.at(&end.site, DOING)?,
    })
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
