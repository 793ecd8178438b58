//! Where this site's applications claim names, release them, and find whose they are. What they send stays in this process: a hash goes on.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use model::UserKey;
use residency::claims::Answer as Answered;
use residency::gateways::Stand;
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::http::{self, Answer};
use super::word::{Located, Said, Text, What};
use super::{Claims, Service};

/// The longest request: a name and a key of 512 bytes each, however they are escaped.
const BODY_MAX: usize = 16 << 10;

/// The longest name, in bytes.
const NAME_MAX: usize = 512;

/// The longest id of an operation.
const OPERATION_MAX: usize = 64;

/// Connections of applications at one time; more wait. An application keeps some open.
const CONNECTIONS: usize = 512;

/// The verbs, as metrics name them.
const VERBS: [&str; 3] = ["claim", "release", "locate"];

/// What an application asks.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    kind: String,
    name: String,
    user: Option<Key>,
    operation: Option<String>,
}

/// A user's key, as applications have it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Key {
    Number(i64),
    Text(String),
}

/// Takes connections of applications until `end`.
pub(super) async fn listen(
    claims: Arc<Claims>,
    listener: std::net::TcpListener,
    end: CancellationToken,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(why) => return tracing::error!(%why, "applications cannot claim names"),
    };
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            break;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = end.cancelled() => break,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (claims, end) = (Arc::clone(&claims), end.clone());
        connections.spawn(async move {
            let answer = |head, body| one(&claims, head, body);
            http::serve(stream, BODY_MAX, end, answer).await;
            drop(permit);
        });
    }
    connections.close();
    connections.wait().await;
}

async fn one(claims: &Claims, head: Parts, body: Bytes) -> Answer {
    let not_found = || {
        Answer::error(
            StatusCode::NOT_FOUND,
            "POST /v1/SERVICE/claim, release or locate",
        )
    };
    let mut path = head.uri.path().split('/').skip(1);
    let place = (path.next(), path.next(), path.next(), path.next());
    let (Some("v1"), Some(service), Some(verb), None) = place else {
        return not_found();
    };
    let service = claims.services.get(&service.into());
    let verb = VERBS.into_iter().find(|known| *known == verb);
    let (Some(service), Some(verb)) = (service, verb) else {
        return not_found();
    };
    let answer = claims.asked(service, verb, &head, &body).await;
    let status = answer.status.as_u16();
    claims.tally.answered(&service.name, verb, status);
    answer
}

// === impl Claims ===

impl Claims {
    async fn asked(&self, service: &Service, verb: &str, head: &Parts, body: &[u8]) -> Answer {
        let wrong = |what: &str| Answer::error(StatusCode::BAD_REQUEST, what);
        if head.method != Method::POST {
            return Answer::error(StatusCode::METHOD_NOT_ALLOWED, "only POST");
        }
        // A page in a browser of this machine cannot send that without being asked first.
        let form = head.headers.get(CONTENT_TYPE).map(|form| form.as_bytes());
        let is_json =
            |form: &[u8]| form.split(|byte| *byte == b';').next() == Some(b"application/json");
        if !form.is_some_and(is_json) {
            return Answer::error(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "the body is application/json",
            );
        }
        let Ok(body) = serde_json::from_slice::<Body>(body) else {
            return wrong(
                "the body is no object with kind, name and, but for locate, user and operation",
            );
        };
        if !service.kinds.columns.contains_key(&body.kind) {
            return wrong("the service has no such kind of name");
        }
        if body.name.is_empty() || body.name.len() > NAME_MAX {
            return wrong("a name has 1 to 512 bytes");
        }
        let name = Text(
            service
                .hasher
                .name(service.name.as_str(), &body.kind, &body.name),
        );
        let what = match (verb, body.user, body.operation) {
            ("locate", None, None) => What::Locate { name },
            ("locate", _, _) | (_, None, _) | (_, _, None) => {
                return wrong("user and operation belong to claim and release, and to these alone");
            }
            (verb, Some(user), Some(operation)) => {
                let printable = operation.bytes().all(|byte| (b' '..=b'~').contains(&byte));
                if operation.is_empty() || operation.len() > OPERATION_MAX || !printable {
                    return wrong("an operation's id is 1 to 64 printable ASCII characters");
                }
                let operation = service.hasher.operation(service.name.as_str(), &operation);
                let (operation, kind, user) = (Text(operation), body.kind, user.into());
                match verb {
                    "claim" => What::Claim {
                        operation,
                        kind,
                        name,
                        user,
                    },
                    _ => What::Release {
                        operation,
                        kind,
                        name,
                        user,
                    },
                }
            }
        };
        match self.ask_registry(service, what).await {
            Said::Located {
                located: Some(located),
            } => answer(Said::Located {
                located: Some(self.nearer(service, located).await),
            }),
            said => answer(said),
        }
    }

    /// Where this site's own records know better than the registry's where he lives.
    async fn nearer(&self, service: &Service, located: Located) -> Located {
        let Some(home) = service.home.as_ref().filter(|_| service.at != self.here) else {
            return located;
        };
        let stand = home.look(&located.user).await;
        let site = match stand {
            Ok(Stand::Here { .. } | Stand::Closed { .. }) => self.here.clone(),
            Ok(Stand::Elsewhere { home, epoch }) if epoch.0 > located.epoch => home,
            _ => return located,
        };
        Located { site, ..located }
    }
}

/// What an application is told.
fn answer(said: Said) -> Answer {
    let (status, body) = match said {
        Said::Answer { answer, lease_ms } => match answer {
            Answered::Claimed { until_ms } => (
                StatusCode::OK,
                json!({ "state": "claimed", "until": moment(until_ms), "lease_ms": lease_ms }),
            ),
            Answered::Held { until_ms } => (
                StatusCode::OK,
                json!({ "state": "held", "until": moment(until_ms), "lease_ms": lease_ms }),
            ),
            Answered::Released => (StatusCode::OK, json!({ "state": "released" })),
            Answered::Releasing => (StatusCode::OK, json!({ "state": "releasing" })),
            Answered::Taken => return Answer::error(StatusCode::CONFLICT, "taken"),
            Answered::StillHeld => return Answer::error(StatusCode::CONFLICT, "held"),
        },
        Said::Located {
            located: Some(located),
        } => {
            let state = if located.held { "held" } else { "claimed" };
            (
                StatusCode::OK,
                json!({ "user": located.user, "site": located.site, "state": state }),
            )
        }
        Said::Located { located: None } => return Answer::error(StatusCode::NOT_FOUND, "nobody"),
        Said::Reused => {
            return Answer::error(StatusCode::UNPROCESSABLE_ENTITY, residency::claims::OTHER);
        }
        Said::Refused { why } => return Answer::error(StatusCode::BAD_REQUEST, &why),
        Said::OtherKey => {
            return Answer::error(
                StatusCode::SERVICE_UNAVAILABLE,
                "the keys of this site and of the registry differ",
            );
        }
        Said::Filling => {
            return Answer::error(
                StatusCode::SERVICE_UNAVAILABLE,
                "not every site has told its names yet",
            );
        }
        Said::Unreached
        | Said::Told { .. }
        | Said::Ended { .. }
        | Said::Done
        | Said::Words { .. } => {
            return Answer::error(
                StatusCode::SERVICE_UNAVAILABLE,
                "the registry is not reached; ask again with the same operation",
            );
        }
    };
    Answer { status, body }
}

fn moment(ms: i64) -> String {
    let since = Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    let moment: SystemTime = UNIX_EPOCH + since;
    humantime::format_rfc3339_millis(moment).to_string()
}

// === impl Key ===

impl From<Key> for UserKey {
    fn from(key: Key) -> Self {
        match key {
            Key::Number(number) => Self::new(number.to_string()),
            Key::Text(text) => Self::new(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(answered: Answered) -> Said {
        Said::Answer {
            answer: answered,
            lease_ms: 600_000,
        }
    }

    #[test]
    fn answers_have_the_form_that_the_documentation_says() {
        let until_ms = 1_700_000_000_123;
        for (said, status, body) in [
            (
                said(Answered::Claimed { until_ms }),
                200,
                r#"{"lease_ms":600000,"state":"claimed","until":"2023-11-14T22:13:20.123Z"}"#,
            ),
            (
                said(Answered::Held { until_ms }),
                200,
                r#"{"lease_ms":600000,"state":"held","until":"2023-11-14T22:13:20.123Z"}"#,
            ),
            (said(Answered::Taken), 409, r#"{"error":"taken"}"#),
            (said(Answered::StillHeld), 409, r#"{"error":"held"}"#),
            (said(Answered::Released), 200, r#"{"state":"released"}"#),
            (said(Answered::Releasing), 200, r#"{"state":"releasing"}"#),
            (
                Said::Located {
                    located: Some(Located {
                        user: "7".into(),
                        site: "beijing".into(),
                        epoch: 3,
                        held: true,
                    }),
                },
                200,
                r#"{"site":"beijing","state":"held","user":"7"}"#,
            ),
            (
                Said::Located { located: None },
                404,
                r#"{"error":"nobody"}"#,
            ),
            (
                Said::Filling,
                503,
                r#"{"error":"not every site has told its names yet"}"#,
            ),
        ] {
            let answer = answer(said);
            assert_eq!(answer.status.as_u16(), status);
            assert_eq!(answer.body.to_string(), body);
        }
        assert_eq!(answer(Said::Unreached).status.as_u16(), 503);
        assert_eq!(answer(Said::Reused).status.as_u16(), 422);
    }
}
