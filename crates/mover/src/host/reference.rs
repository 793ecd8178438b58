//! Takes catalogue rows that lack here.

use postgres::connect::Session;
use postgres::copy::Piece;
use postgres::references::Bringing;

use super::{Asks, Visit};
use crate::ask::{Answer, Ask};
use crate::error::At;
use crate::far::Asked;

/// Takes what is told until all is there, in one transaction.
pub(super) async fn bring(visit: &Visit, session: &mut Session, first: Piece, asks: &mut Asks) {
    let to = visit.target();
    let doing = "copying reference tables";
    let begun = Bringing::begin(session, &to.schema).await;
    let mut bringing = begun.at(&to.site, doing);
    let mut piece = first;
    let answer = loop {
        // After an error the rest is taken all the same: whoever sends it hears of it at the end.
        if let Ok(open) = &mut bringing
            && let Err(error) = open.write(piece).await.at(&to.site, doing)
        {
            bringing = Err(error);
        }
        match asks.recv().await.map(|Asked { ask, answer }| (ask, answer)) {
            Some((Ask::References(next), _)) => piece = next,
            Some((Ask::Referred, Some(answer))) => break answer,
            _ => return asks.close(),
        }
    };
    let done = match bringing {
        Ok(whole) => whole.finish().await.at(&to.site, doing),
        Err(error) => Err(error),
    };
    // Else whoever asked has gone.
    let _ = answer.send(done.map(|()| Answer::Done));
}
