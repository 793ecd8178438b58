//! Where a user lives, as one home database knows it: for showing.

use handoff::record::{Resident, State};
use model::{Epoch, KeyKind, SiteName, UserKey};
use tokio_postgres::Client;

use crate::Result;
use crate::records;

/// What one site says of a user.
#[derive(Clone, Debug)]
pub struct Whereabouts {
    /// The site that says it.
    pub site: SiteName,
    /// Its record; `None`: he does not live there and never did.
    pub resident: Option<Resident>,
}

/// What the site at the other end of `session` says of `user`.
pub async fn ask(
    session: &Client,
    site: &SiteName,
    kind: KeyKind,
    user: &UserKey,
) -> Result<Whereabouts> {
    let mut found = records::look(session, kind, std::slice::from_ref(user)).await?;
    Ok(Whereabouts {
        site: site.clone(),
        resident: found.pop().flatten(),
    })
}

/// The home among what all sites say: the one that is home, else the one that the highest epoch points at.
pub fn home(said: &[Whereabouts]) -> Option<(SiteName, Epoch, &'static str)> {
    let living = said.iter().filter_map(|w| {
        let resident = w.resident.as_ref()?;
        resident
            .state
            .is_home()
            .then(|| (w.site.clone(), resident.seen, resident.state.name()))
    });
    if let Some(home) = living.max_by_key(|(_, epoch, _)| *epoch) {
        return Some(home);
    }
    let pointed = said
        .iter()
        .filter_map(|w| match &w.resident.as_ref()?.state {
            State::Departed { to, epoch, .. } => Some((to.clone(), *epoch, "departed")),
            _ => None,
        });
    pointed.max_by_key(|(_, epoch, _)| *epoch)
}
