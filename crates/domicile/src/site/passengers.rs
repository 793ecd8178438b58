//! Who went with a move and can be taken home: the source's journal says who went, the target's records who is there.

use ::daemon::View;
use model::{MoveId, ServiceName, SiteName, UserKey};
use remote::{Asker, Passengers};
use residency::{audit, journal, records};

use crate::commands::apply::failure;
use crate::commands::homes::Home;
use crate::commands::rollback::left_at;
use crate::exit::{Exit, Failure, OrFail, Outcome};

/// Bytes of keys in one answer, with what stands around each: well below what the link takes.
const ANSWER_MAX: usize = 256 << 10;

/// Users who are looked up together.
const PAGE: usize = 2_000;

/// What the site `source` knows of its move `of` to this site: whether it is at its end, and who has not come back.
///
/// # Errors
/// 3 where it does not say.
pub(super) async fn known(
    view: &View,
    service: &ServiceName,
    source: &SiteName,
    of: &MoveId,
) -> Outcome<Option<(bool, Vec<UserKey>)>> {
    let Some(peer) = view.peer(source) else {
        return Err(Failure::new(
            Exit::Unreached,
            anyhow::anyhow!("{service}: this daemon has no link to {source}"),
        )
        .mend("ask the daemon that leads: `GET /status` of each says which"));
    };
    let asked = Asker::new(peer, service.clone()).passengers(of).await;
    asked.map_err(|error| {
        failure(
            error,
            format!("{service}: asking {source} who went with {of}"),
        )
    })
}

/// Those of `users` whose home this is.
pub(super) async fn living(
    service: &ServiceName,
    home: &Home,
    users: Vec<UserKey>,
) -> Outcome<Vec<UserKey>> {
    let kind = home.schema()?.users.kind;
    let mut living = Vec::new();
    for page in users.chunks(PAGE) {
        let records = records::look(&*home.session, kind, page).await;
        let records = records.or_fail(Exit::Unreached, || {
            format!("{service}: cannot read the records at {}", home.site)
        })?;
        let there = page.iter().zip(records);
        let there =
            there.filter(|(_, record)| record.as_ref().is_some_and(|one| one.state.is_home()));
        living.extend(there.map(|(user, _)| user.clone()));
    }
    Ok(living)
}

/// What this site tells `asker` of the passengers of `of`, from `from` on.
pub(super) async fn told(
    service: &ServiceName,
    home: &Home,
    asker: &SiteName,
    of: &MoveId,
    from: (u32, u32),
) -> Outcome<Option<Passengers>> {
    let failed = || format!("{service}: cannot read who went with {of}");
    let session = &*home.session;
    let row = journal::find_move(session, of).await;
    let Some(row) = row.or_fail(Exit::Unreached, failed)? else {
        return Ok(None);
    };
    // Of those who went elsewhere the asker hears nothing.
    if row.target != *asker || row.service != *service {
        return Ok(None);
    }
    let kind = home.schema()?.users.kind;
    let mut told = Passengers {
        ended: row.state != "running",
        ..Passengers::default()
    };
    let batches = audit::departed(session, kind, Some(of), None).await;
    let batches = batches.or_fail(Exit::Unreached, failed)?;
    let (first, mut skip) = (from.0 as usize, from.1 as usize);
    let mut bytes = 0;
    for (n, departed) in batches.iter().enumerate().skip(first) {
        let batch = audit::batch(session, &departed.batch).await;
        let batch = batch.or_fail(Exit::Unreached, failed)?;
        let went = batch.map(|batch| batch.users).unwrap_or_default();
        let keys: Vec<UserKey> = went.iter().map(|(user, _)| user.clone()).collect();
        let records = records::look(session, kind, &keys).await;
        let records = records.or_fail(Exit::Unreached, failed)?;
        let passengers = went.into_iter().zip(records).enumerate();
        for (at, ((user, epoch), record)) in passengers.skip(std::mem::take(&mut skip)) {
            if bytes > ANSWER_MAX {
                told.next = u32::try_from(n).ok().zip(u32::try_from(at).ok());
                return Ok(Some(told));
            }
            if record.is_some_and(|record| left_at(&record) == Some(epoch)) {
                bytes += user.as_str().len() + 8;
                told.users.push(user);
            }
        }
    }
    Ok(Some(told))
}
