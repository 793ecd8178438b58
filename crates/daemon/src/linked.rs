//! This site's end of the link, which is there for as long as this daemon leads.

use std::time::Duration;

use link::{Endpoint, Identity, Inbox, Peer, PeerSettings, StartError};
use model::{SiteName, causes};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::acquaintance::keep_acquainted;
use crate::dispatch::{Hearers, dispatch};
use crate::settings::Link;
use crate::view::{LinkState, PeerState, View};
use crate::{DaemonError, settings};

/// How long the listening address may be taken: a daemon that led before may need a moment to notice that it does not any
/// more. After that this one ends, so that another, perhaps of another machine, can lead.
const TAKEN_MAX: Duration = Duration::from_secs(5);

/// The link, or its absence.
pub(crate) struct Linked {
    settings: Option<settings::Link>,
    view: View,
    hearers: Hearers,
    running: Option<Running>,
    failing_since: Option<Instant>,
}

/// Dropped, all of it ends.
struct Running {
    endpoint: Endpoint,
    /// For each peer, who hands on what it says, and who asks it how it is.
    _tasks: JoinSet<()>,
}

// === impl Linked ===

impl Linked {
    /// Not up yet. Looks at everything that can be wrong without a network: at the key and the peers.
    pub async fn new(
        settings: Option<Link>,
        view: View,
        hearers: Hearers,
    ) -> Result<Self, DaemonError> {
        if let Some(link) = &settings {
            let nowhere = |peer: &PeerSettings| PeerSettings {
                dial: None,
                ..peer.clone()
            };
            let mute = Link {
                listen: None,
                peers: link.peers.iter().map(nowhere).collect(),
                ..link.clone()
            };
            drop(start(&mute, view.site()).await?);
        }
        Ok(Self {
            settings,
            view,
            hearers,
            running: None,
            failing_since: None,
        })
    }

    /// Sees to it that the link is there; says so to the view.
    ///
    /// # Errors
    /// Where it cannot be, for long enough.
    pub async fn up(&mut self) -> Result<(), DaemonError> {
        let Some(link) = self.settings.as_ref().filter(|_| self.running.is_none()) else {
            self.count();
            return Ok(());
        };
        let error = match start(link, self.view.site()).await {
            Ok(endpoint) => {
                self.failing_since = None;
                self.run(endpoint);
                return Ok(());
            }
            Err(error) => error,
        };
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        let taken = matches!(error, DaemonError::Link(StartError::Listen { .. }));
        if !taken || since.elapsed() > TAKEN_MAX {
            return Err(error);
        }
        let why = causes(&error);
        tracing::warn!(error = why, "the link is not up; it is tried again");
        self.view.lock().link = LinkState::Failing(why);
        Ok(())
    }

    /// Sees to it that the link is not there.
    pub fn down(&mut self) {
        self.failing_since = None;
        if self.settings.is_none() {
            return;
        }
        if self.running.take().is_some() {
            tracing::info!("the link is down");
        }
        let mut state = self.view.lock();
        state.link = LinkState::Down;
        for peer in state.peers.values_mut() {
            *peer = PeerState::default();
        }
    }

    fn run(&mut self, mut endpoint: Endpoint) {
        let sites = self.settings.iter().flat_map(|link| &link.peers);
        let met: Vec<(Peer, Inbox)> = sites
            .filter_map(|PeerSettings { site, .. }| {
                Some((endpoint.peer(site)?.clone(), endpoint.take_inbox(site)?))
            })
            .collect();
        let listening = endpoint.listening();
        tracing::info!(
            listening = listening.map(tracing::field::display),
            peers = met.len(),
            "the link is up"
        );
        let named = met
            .iter()
            .map(|(peer, _)| (peer.site().clone(), peer.clone()));
        // Before the tasks, which say nothing of a link that is not up.
        self.view.lock().link = LinkState::Up {
            listening,
            peers: named.collect(),
            refused: 0,
        };
        let mut tasks = JoinSet::new();
        for (peer, inbox) in met {
            tasks.spawn(dispatch(peer.clone(), inbox, self.hearers.clone()));
            tasks.spawn(keep_acquainted(peer, self.view.clone()));
        }
        self.running = Some(Running {
            endpoint,
            _tasks: tasks,
        });
    }

    /// Tells the view how many callers were refused.
    fn count(&self) {
        let Some(running) = &self.running else {
            return;
        };
        if let LinkState::Up { refused, .. } = &mut self.view.lock().link {
            *refused = running.endpoint.refused();
        }
    }
}

async fn start(link: &Link, site: &SiteName) -> Result<Endpoint, DaemonError> {
    let settings = link::Settings {
        site: site.clone(),
        identity: Identity::load(&link.key)?,
        listen: link.listen.clone(),
        flows: link.flows,
        window: link::Settings::WINDOW,
        silence: link::Settings::SILENCE,
        peers: link.peers.clone(),
    };
    Ok(Endpoint::start(settings).await?)
}
