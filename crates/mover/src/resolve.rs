//! Asks the target about batches in doubt, and does nothing else.

use crate::abort::take_offices;
use crate::desk::Desk;
use crate::error::Result;
use crate::recover::batches_in_doubt;
use crate::rest;
use crate::route::Route;

/// Asks about every batch in doubt on `route`, and acts on the answers.
///
/// # Errors
/// [`residency::Error::Office`], under [`crate::Error::Residency`], where a process carries a move there, which asks by itself;
/// otherwise where the target does not answer: then they stay in doubt.
pub async fn in_doubt(route: &Route) -> Result<()> {
    let (offices, _held) = take_offices(route).await?;
    let mut desk = Desk::open(route, &offices, "mover").await?;
    batches_in_doubt(route, &offices, &mut desk).await?;
    rest::at_both(route).await;
    Ok(())
}
