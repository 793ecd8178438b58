//! A lane: the sessions along which one batch at a time is handed off. A few batches go side by side, each along its own.

use model::UserKey;
use model::fault::is_held;
use postgres::connect::Session;
use postgres::digest::DigestKey;

use crate::copier::Ready;
use crate::desk::Desk;
use crate::drive::Way;
use crate::error::Result;
use crate::hand_off::{Hands, Outcome};
use crate::queue::Waiting;
use crate::route::{Offices, Route};

/// The sessions of one lane.
pub(crate) struct Lane {
    desk: Desk,
    /// For the second read at the source.
    reader: Session,
}

// === impl Lane ===

impl Lane {
    /// Opens as many as batches may go side by side.
    pub(crate) async fn open_all(route: &Route, offices: &Offices) -> Result<Vec<Self>> {
        let together = match is_held() {
            true => 1,
            false => route.bounds.batches_together.max(1),
        };
        let mut lanes = Vec::new();
        for _ in 0..together {
            lanes.push(Self {
                desk: Desk::open(route, offices, "mover").await?,
                reader: route.source.session("verify").await?,
            });
        }
        Ok(lanes)
    }

    /// Tries once to hand a batch of `chunk` off, and gives the lane and the batch back with what became of it.
    pub(crate) async fn carry(
        mut self,
        way: Way<'_>,
        key: &DigestKey,
        chunk: &Ready,
        batch: Waiting,
    ) -> (Self, Waiting, Result<Outcome>) {
        let went = self.go(way, key, chunk, &batch.users).await;
        (self, batch, went)
    }

    async fn go(
        &mut self,
        way: Way<'_>,
        key: &DigestKey,
        chunk: &Ready,
        users: &[UserKey],
    ) -> Result<Outcome> {
        let mut hands = Hands {
            route: way.route,
            offices: way.offices,
            desk: &mut self.desk,
            reader: &mut self.reader,
            catch_up: way.catch_up,
            shapes: way.shapes,
            key,
        };
        hands.hand_off(&chunk.id, chunk.attempt, users).await
    }
}
