//! Who is held: by the configuration's `erase.hold`, while it lasts.

use model::{ServiceName, UserKey};
use postgres::users as rows;
use residency::erasures;

use super::super::homes::Home;
use super::super::users;
use crate::config::{Hold, Service};
use crate::exit::{Exit, OrFail, Outcome};
use crate::render::erase::Held;

/// Those of `asked` who are held.
pub(super) async fn among(
    (name, service): (&ServiceName, &Service),
    home: &Home,
    asked: &[UserKey],
) -> Outcome<Vec<Held>> {
    let Some(hold) = &service.erase.hold else {
        return Ok(Vec::new());
    };
    let session = &*home.session;
    let failed = || format!("{name}: cannot look who is held at {}", home.site);
    if let Some(day) = &hold.until {
        let lasts = erasures::is_to_come(session, day).await;
        if !lasts.or_fail(Exit::Unreached, failed)? {
            return Ok(Vec::new());
        }
    }
    let schema = home.schema()?;
    let of_markets = rows::of_markets(session, schema, asked, &hold.markets)
        .await
        .or_fail(Exit::Unreached, failed)?;
    let named = |user: &UserKey| {
        let of = |held: &UserKey| users::canonical(schema.users.kind, held);
        let everybody = hold.markets.is_empty() && hold.users.is_empty();
        everybody
            || of_markets.contains(user)
            || hold
                .users
                .iter()
                .any(|held| of(held).as_ref() == Some(user))
    };
    let held = asked.iter().filter(|user| named(user));
    Ok(held.map(|user| shown(name, home, hold, user)).collect())
}

fn shown(name: &ServiceName, home: &Home, hold: &Hold, user: &UserKey) -> Held {
    Held {
        user: user.to_string(),
        service: name.to_string(),
        site: home.site.to_string(),
        reason: hold.reason.clone(),
        until: hold.until.clone(),
    }
}
