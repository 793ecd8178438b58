//! Ends a chunk whose users have all gone or been taken out.

use model::Attempt;
use residency::journal;

use crate::desk::Desk;
use crate::error::{At, Result};
use crate::put_back;
use crate::route::{Offices, Route};

/// Ends the chunk on both sides. Whoever should still be moving in it stays where he is.
pub async fn finish_chunk(
    route: &Route,
    offices: &Offices,
    desk: &mut Desk,
    attempt: Attempt,
) -> Result<()> {
    let (source, target) = (&route.source.site, &route.target.site);
    let left = residency::records::of_attempt(&*desk.source, attempt, &["moving"], target)
        .await
        .at(source, "ending a chunk")?;
    if !left.is_empty() {
        return put_back::cancel(route, offices, desk, attempt).await;
    }
    desk.target.finish(attempt).await?;
    journal::set_chunk(&*desk.source, attempt, "finished")
        .await
        .at(source, "ending a chunk")
}
