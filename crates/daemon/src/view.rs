//! What this daemon knows of its site, its offices and its peers. Everything that is told outside is told from here.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use link::Peer;
use model::{ServiceName, SiteName};
use residency::office::Office;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::settings::Settings;

/// A handle on what is known. Clones are the same knowledge. Parts that are plugged in ask it before they act; none of it
/// stands in for the database: an office is checked in the transaction that needs it.
#[derive(Clone, Debug)]
pub struct View(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    site: SiteName,
    version: String,
    started: u64,
    stopping: CancellationToken,
    state: Mutex<State>,
    lacks: OnceLock<Lacks>,
}

/// Why a part that is plugged in is not ready, if it is not.
struct Lacks(Box<dyn Fn() -> Option<String> + Send + Sync>);

impl fmt::Debug for Lacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lacks")
    }
}

/// What changes.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// By the order of their names.
    pub services: BTreeMap<ServiceName, ServiceState>,
    pub link: LinkState,
    pub peers: BTreeMap<SiteName, PeerState>,
}

/// A service at this site.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServiceState {
    /// Why its database is not reached; `None` where it is.
    pub unreached: Option<String>,
    /// The office, where this daemon leads, and since when.
    pub leads: Option<(Office, u64)>,
    /// Whoever else leads, as the database says.
    pub other: Option<String>,
    /// The version of the policy that is installed there.
    pub policy: Option<String>,
    /// How often this daemon began to lead it.
    pub taken: u64,
    /// What parts that are plugged in say of it.
    pub reports: BTreeMap<&'static str, serde_json::Value>,
}

/// This site's end of the link.
#[derive(Debug, Default)]
pub(crate) enum LinkState {
    /// No site is linked to this one.
    #[default]
    Alone,
    /// The daemon does not lead.
    Down,
    /// It should be there, and is not.
    Failing(String),
    /// It is there.
    Up {
        /// Where it listens.
        listening: Option<SocketAddr>,
        /// Its peers.
        peers: BTreeMap<SiteName, Peer>,
        /// Callers that were refused since it is up.
        refused: u64,
    },
}

/// What is known of a peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeerState {
    /// Since when it is connected (seconds since 1970); `None`: it is not.
    pub since: Option<u64>,
    /// What it said last in this connection.
    pub said: Option<Said>,
}

/// What a peer said of itself.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    /// Its program version.
    pub version: String,
    /// How far its clock is before ours, in milliseconds; wrong by at most half of the round trip.
    pub clock_offset_ms: i64,
    /// The round trip of that question, in milliseconds.
    pub round_trip_ms: u64,
    /// The versions of the policies installed at its services.
    pub policies: BTreeMap<ServiceName, String>,
}

/// Whether this daemon can do what it is there for, and what it says about it. Names services and nothing that only an
/// operator should read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Readiness {
    pub ready: bool,
    pub says: String,
}

/// `GET /status`. Times are seconds since 1970.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    site: SiteName,
    version: String,
    role: &'static str,
    ready: bool,
    says: String,
    started: u64,
    services: Vec<ServiceStatus>,
    link: LinkStatus,
    peers: Vec<PeerStatus>,
}

#[derive(Debug, Serialize)]
struct ServiceStatus {
    service: ServiceName,
    reached: bool,
    why: Option<String>,
    leads: bool,
    term: Option<i64>,
    since: Option<u64>,
    led_by: Option<String>,
    policy: Option<String>,
    #[serde(flatten)]
    reports: BTreeMap<&'static str, serde_json::Value>,
}

#[derive(Debug, Serialize)]
struct LinkStatus {
    state: &'static str,
    listening: Option<String>,
    why: Option<String>,
    refused: u64,
}

#[derive(Debug, Serialize)]
struct PeerStatus {
    peer: SiteName,
    connected: bool,
    since: Option<u64>,
    version: Option<String>,
    clock_offset_ms: Option<i64>,
    round_trip_ms: Option<u64>,
    /// Of each service that both have: whether the same policy is installed at both.
    same_policy: BTreeMap<ServiceName, bool>,
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    milliseconds() / 1_000
}

/// Milliseconds since 1970.
pub(crate) fn milliseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

// === impl View ===

impl View {
    pub(crate) fn new(settings: &Settings) -> Self {
        let unreached = |why: &str| ServiceState {
            unreached: Some(why.to_owned()),
            ..ServiceState::default()
        };
        let services = settings.services.iter();
        let peers = settings.link.iter().flat_map(|link| &link.peers);
        let state = State {
            services: services
                .map(|one| (one.name.clone(), unreached("not asked yet")))
                .collect(),
            link: match settings.link {
                None => LinkState::Alone,
                Some(_) => LinkState::Down,
            },
            peers: peers
                .map(|peer| (peer.site.clone(), PeerState::default()))
                .collect(),
        };
        Self(Arc::new(Inner {
            site: settings.site.clone(),
            version: settings.version.clone(),
            started: now(),
            stopping: CancellationToken::new(),
            state: Mutex::new(state),
            lacks: OnceLock::new(),
        }))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // Plain values; a panic half-way leaves nothing that would be worse than no view at all.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This site.
    pub fn site(&self) -> &SiteName {
        &self.0.site
    }

    /// The program's version.
    pub fn version(&self) -> &str {
        &self.0.version
    }

    /// When the daemon began, in seconds since 1970.
    pub fn started(&self) -> u64 {
        self.0.started
    }

    /// Cancelled when the daemon ends: begin nothing new then.
    pub fn stopping(&self) -> &CancellationToken {
        &self.0.stopping
    }

    /// The office of `service`, where this daemon leads it now.
    pub fn office(&self, service: &ServiceName) -> Option<Office> {
        let state = self.lock();
        let leads = state.services.get(service)?.leads.as_ref();
        leads.map(|(office, _)| office.clone())
    }

    /// The version of the policy installed at `service`'s database here, as last read.
    pub fn policy(&self, service: &ServiceName) -> Option<String> {
        self.lock().services.get(service)?.policy.clone()
    }

    /// Says of `service` what a plugged-in part knows, as the field `part` in `GET /status`, until it says otherwise. Nothing
    /// of a user's and no secret.
    pub fn report(&self, service: &ServiceName, part: &'static str, what: serde_json::Value) {
        if let Some(known) = self.lock().services.get_mut(service) {
            known.reports.insert(part, what);
        }
    }

    /// A peer, where this daemon has the link. It may be out of reach.
    pub fn peer(&self, site: &SiteName) -> Option<Peer> {
        match &self.lock().link {
            LinkState::Up { peers, .. } => peers.get(site).cloned(),
            LinkState::Alone | LinkState::Down | LinkState::Failing(_) => None,
        }
    }

    /// The versions of all policies installed here.
    pub(crate) fn policies(&self) -> BTreeMap<ServiceName, String> {
        let state = self.lock();
        let known = state.services.iter();
        known
            .filter_map(|(name, one)| Some((name.clone(), one.policy.clone()?)))
            .collect()
    }

    pub(crate) fn readiness(&self) -> Readiness {
        match self.0.stopping.is_cancelled() {
            true => Readiness {
                ready: false,
                says: "ending".to_owned(),
            },
            false => {
                let lacks = self.0.lacks.get().and_then(|lacks| lacks.0());
                match lacks {
                    Some(says) => Readiness { ready: false, says },
                    None => self.lock().readiness(),
                }
            }
        }
    }

    /// Adds a part without which the process is not ready: it says what it lacks. The first one counts.
    pub fn wants(&self, lacks: impl Fn() -> Option<String> + Send + Sync + 'static) {
        let _ = self.0.lacks.set(Lacks(Box::new(lacks)));
    }

    pub(crate) fn status(&self) -> Status {
        let Readiness { ready, says } = self.readiness();
        let state = self.lock();
        let services: Vec<_> = state.services.iter().map(ServiceState::status).collect();
        let peers = state.peers.iter();
        let leads = services.iter().any(|one| one.leads);
        Status {
            site: self.0.site.clone(),
            version: self.0.version.clone(),
            role: if leads { "leader" } else { "standby" },
            ready,
            says,
            started: self.0.started,
            peers: peers.map(|(name, peer)| state.peer(name, peer)).collect(),
            link: state.link.status(),
            services,
        }
    }
}

// === impl State ===

impl State {
    fn readiness(&self) -> Readiness {
        let not = |says: String| Readiness { ready: false, says };
        let services = || self.services.iter();
        if self.services.is_empty() {
            // It leads nothing, and wants to: a gateway alone.
            return Readiness {
                ready: true,
                says: "it leads no service".to_owned(),
            };
        }
        if let Some((name, _)) = services().find(|(_, one)| one.unreached.is_some()) {
            return not(format!("{name}: database not reached"));
        }
        let leads = services().filter(|(_, one)| one.leads.is_some());
        let leads: Vec<_> = leads.map(|(name, _)| name.as_str()).collect();
        let others = services().any(|(_, one)| one.other.is_some());
        match (leads.as_slice(), &self.link) {
            ([], _) if others => Readiness {
                ready: true,
                says: "standby".to_owned(),
            },
            ([], _) => not("nobody leads yet".to_owned()),
            (_, LinkState::Down | LinkState::Failing(_)) => not("the link is not up".to_owned()),
            (leads, LinkState::Alone | LinkState::Up { .. }) => Readiness {
                ready: true,
                says: format!("leader of {}", leads.join(", ")),
            },
        }
    }

    /// Whether `peer` has the same policy as this site, for each service that both have.
    pub fn same_policy(&self, peer: &PeerState) -> BTreeMap<ServiceName, bool> {
        let theirs = peer.said.iter().flat_map(|said| &said.policies);
        theirs
            .filter_map(|(service, theirs)| {
                let ours = self.services.get(service)?.policy.as_ref()?;
                Some((service.clone(), ours == theirs))
            })
            .collect()
    }

    fn peer(&self, name: &SiteName, peer: &PeerState) -> PeerStatus {
        let said = peer.said.as_ref();
        PeerStatus {
            peer: name.clone(),
            connected: peer.since.is_some(),
            since: peer.since,
            version: said.map(|said| said.version.clone()),
            clock_offset_ms: said.map(|said| said.clock_offset_ms),
            round_trip_ms: said.map(|said| said.round_trip_ms),
            same_policy: self.same_policy(peer),
        }
    }
}

// === impl ServiceState ===

impl ServiceState {
    fn status((name, state): (&ServiceName, &Self)) -> ServiceStatus {
        let leads = state.leads.as_ref();
        ServiceStatus {
            service: name.clone(),
            reached: state.unreached.is_none(),
            why: state.unreached.clone(),
            leads: leads.is_some(),
            term: leads.map(|(office, _)| office.term()),
            since: leads.map(|(_, since)| *since),
            led_by: state.other.clone(),
            policy: state.policy.clone(),
            reports: state.reports.clone(),
        }
    }
}

// === impl LinkState ===

impl LinkState {
    fn status(&self) -> LinkStatus {
        let state = |state| LinkStatus {
            state,
            listening: None,
            why: None,
            refused: 0,
        };
        match self {
            Self::Alone => state("alone"),
            Self::Down => state("down"),
            Self::Failing(why) => LinkStatus {
                why: Some(why.clone()),
                ..state("failing")
            },
            Self::Up {
                listening, refused, ..
            } => LinkStatus {
                listening: listening.map(|address| address.to_string()),
                refused: *refused,
                ..state("up")
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(reached: [bool; 2], link: LinkState) -> State {
        let service = |reached: bool| ServiceState {
            unreached: (!reached).then(|| "host db.example".to_owned()),
            ..ServiceState::default()
        };
        State {
            services: [
                ("accounts".into(), service(reached[0])),
                ("shop".into(), service(reached[1])),
            ]
            .into(),
            link,
            peers: BTreeMap::new(),
        }
    }

    #[test]
    fn a_standby_is_ready_without_the_link() {
        let mut known = state([true, true], LinkState::Down);
        let found = known.readiness();
        assert_eq!((found.ready, &*found.says), (false, "nobody leads yet"));
        let first = known.services.values_mut().next().expect("two");
        first.other = Some("process 7".to_owned());
        let found = known.readiness();
        assert_eq!((found.ready, &*found.says), (true, "standby"));
    }

    #[test]
    fn a_database_out_of_reach_is_named_without_its_place() {
        let found = state([true, false], LinkState::Alone).readiness();
        assert!(!found.ready);
        assert_eq!(found.says, "shop: database not reached");
    }

    #[test]
    fn the_same_policy_is_told_for_what_both_have() {
        let mut known = state([true, true], LinkState::Alone);
        for (name, version) in [("accounts", "a"), ("shop", "b")] {
            let service = known.services.get_mut(&ServiceName::from(name));
            service.expect("it is there").policy = Some(version.to_owned());
        }
        let theirs = [("accounts", "a"), ("shop", "c"), ("cloud", "d")];
        let peer = PeerState {
            since: Some(1),
            said: Some(Said {
                version: "1".to_owned(),
                clock_offset_ms: 0,
                round_trip_ms: 0,
                policies: theirs.map(|(n, v)| (n.into(), v.to_owned())).into(),
            }),
        };
        let expected = [("accounts".into(), true), ("shop".into(), false)];
        assert_eq!(known.same_policy(&peer), expected.into());
    }
}
