//! How a command finds the daemon of its machine, and asks it.

use std::path::{Path, PathBuf};

use axum::body::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use model::plan::Plan;
use model::{MoveId, SiteName, UserKey};
use mover::event::Observer;
use mover::reclaim::Reclaimed;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::admin::{Back, Wanted};
use super::departures::{Ended, Failed, Told};
use super::{outlook, reclaiming};
use crate::commands::homes::known_site;
use crate::commands::plan::Measure;
use crate::commands::serve::socket_of;
use crate::config::Config;
use crate::exit::{Exit, Failure, OrFail, Outcome};
use crate::render::plan::Between;

/// The daemon of a site, on this machine.
#[derive(Debug)]
pub struct Asked {
    site: SiteName,
    socket: PathBuf,
}

/// The site whose daemon has to be asked; `None` where no site is linked, and all is done by this process.
///
/// # Errors
/// 2 where it cannot be told which.
pub fn of_daemon(config: &Config, named: Option<&str>) -> Outcome<Option<SiteName>> {
    let linked = config.is_linked();
    if let Some(named) = named {
        let site = known_site(config, named)?;
        return match linked {
            true => Ok(Some(site)),
            false => Err(Failure::usage(
                "--site: no site of the configuration has a link address, so no daemon carries users",
            )),
        };
    }
    if !linked {
        return Ok(None);
    }
    let here = config.sites.keys();
    let mut here = here.filter(|site| socket_of(config, site, None).exists());
    match (here.next(), here.next()) {
        (Some(site), None) => Ok(Some(site.clone())),
        (None, _) => Err(Failure::usage("no daemon of a site runs on this machine")
            .mend("start it with `domicile serve --site SITE`, or run the command where it runs")),
        (Some(one), Some(other)) => Err(Failure::usage(format_args!(
            "{one}, {other} have daemons on this machine"
        ))
        .mend("name the site whose users are to go with --site")),
    }
}

/// The daemon of `site`.
pub fn reach(config: &Config, site: &SiteName) -> Outcome<Asked> {
    let socket = socket_of(config, site, None);
    Ok(Asked {
        site: site.clone(),
        socket,
    })
}

// === impl Asked ===

impl Asked {
    /// What it would do.
    pub async fn plan(&self, phase: Option<&str>, measure: Measure) -> Outcome<Plan> {
        let wanted = Wanted {
            phase: phase.map(str::to_owned),
            users: None,
            rows: measure == Measure::Rows,
        };
        self.question("/plan", &wanted).await
    }

    /// What its peers say of `planned`: what would stop it, and who comes here, in the phase that was `asked` for.
    pub async fn between(&self, planned: &Plan, asked: Option<&str>) -> Outcome<Between> {
        let ways = planned.moves.iter();
        let wanted = outlook::Wanted {
            phase: planned.phase.clone(),
            asked: asked.map(str::to_owned),
            ways: ways
                .map(|planned| (planned.service.clone(), planned.to.clone()))
                .collect(),
        };
        self.question("/plan/peers", &wanted).await
    }

    /// Its answer to a question.
    pub(super) async fn question<T: DeserializeOwned>(
        &self,
        path: &str,
        wanted: &impl Serialize,
    ) -> Outcome<T> {
        let answer = self.post(path, wanted).await?;
        let body = answer.into_body().collect().await;
        let body = body.or_fail(Exit::Unreached, || self.lost())?.to_bytes();
        serde_json::from_slice(&body).or_fail(Exit::Unreached, || self.unread())
    }

    /// Has it take a batch back by a `statement` of operators.
    pub async fn reclaim(&self, statement: &str) -> Outcome<Reclaimed> {
        let wanted = reclaiming::Wanted {
            statement: statement.to_owned(),
        };
        self.question("/reclaim", &wanted).await
    }

    /// Has it done, and passes on what it tells until it has ended. The daemon goes on where this process ends.
    pub async fn apply(
        &self,
        phase: Option<&str>,
        users: Option<Vec<UserKey>>,
        observer: &dyn Observer,
    ) -> Outcome<Ended> {
        let wanted = Wanted {
            phase: phase.map(str::to_owned),
            users,
            rows: false,
        };
        self.told("/apply", &wanted, observer).await
    }

    /// Has the users of `moves` taken home from here, the last move first; as [`apply`](Self::apply).
    pub async fn rollback(&self, moves: Vec<MoveId>, observer: &dyn Observer) -> Outcome<Ended> {
        self.told("/rollback", &Back { moves }, observer).await
    }

    async fn told(
        &self,
        path: &str,
        wanted: &impl Serialize,
        observer: &dyn Observer,
    ) -> Outcome<Ended> {
        let mut body = self.post(path, wanted).await?.into_body();
        let mut come = Vec::new();
        loop {
            let lost = || format!("{}; it goes on with the move all the same", self.lost());
            let Some(frame) = body.frame().await else {
                return Err(Failure::new(Exit::Unreached, anyhow::Error::msg(lost()))
                    .mend("`domicile status` shows how it does"));
            };
            let frame = frame.or_fail(Exit::Unreached, lost)?;
            come.extend_from_slice(&frame.into_data().unwrap_or_default());
            while let Some(end) = come.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = come.drain(..=end).collect();
                let told = serde_json::from_slice(&line);
                match told.or_fail(Exit::Unreached, || self.unread())? {
                    Told::Event(event) => observer.note(&event),
                    Told::Ended(ended) => return Ok(ended),
                }
            }
        }
    }

    async fn post(&self, path: &str, wanted: &impl Serialize) -> Outcome<Response<Incoming>> {
        let failed = || {
            format!(
                "cannot ask the daemon of {} at {}",
                self.site,
                shown(&self.socket)
            )
        };
        let stream = UnixStream::connect(&self.socket).await;
        let stream = stream.or_fail(Exit::Unreached, failed).map_err(|failure| {
            failure.mend(format!(
                "start it with `domicile serve --site {}`",
                self.site
            ))
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .or_fail(Exit::Unreached, failed)?;
        tokio::spawn(connection);
        let body = serde_json::to_vec(wanted).or_fail(Exit::Unreached, failed)?;
        let request = Request::post(path)
            .header("host", "domicile")
            .header("content-type", "application/json")
            .body(Full::<Bytes>::from(body))
            .or_fail(Exit::Unreached, failed)?;
        let answer = sender.send_request(request).await;
        let answer = answer.or_fail(Exit::Unreached, failed)?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let code = answer.status();
        let body = answer.into_body().collect().await;
        let body = body.or_fail(Exit::Unreached, failed)?.to_bytes();
        match serde_json::from_slice::<Failed>(&body) {
            Ok(refused) => Err(refused.into()),
            Err(_) => Err(Failure::new(
                Exit::Unreached,
                anyhow::anyhow!("the daemon of {} answers {code} to {path}", self.site),
            )),
        }
    }

    fn lost(&self) -> String {
        format!("the daemon of {} does not answer any more", self.site)
    }

    fn unread(&self) -> String {
        format!("the daemon of {} is of another version", self.site)
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
