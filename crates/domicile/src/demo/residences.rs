//! Where every user lives and lived, as the residency records at all sites say, independently of the
//! process that moved them.

use std::collections::{BTreeSet, HashMap};

use handoff::record::{Resident, State};
use model::{KeyKind, UserKey};
use postgres::connect::connect;
use residency::records;
use shop::check::Residence;
use tokio_postgres::NoTls;

use super::programme::ORIGIN;
use super::stage::Stage;
use crate::exit::{Exit, OrFail, Outcome};

/// The sites of every user, in turn; the last one is his home.
#[derive(Clone, Debug)]
pub(super) struct Residences {
    ways: HashMap<i32, Vec<String>>,
    /// Users who are at home nowhere, or at more than one site.
    pub(super) unclear: Vec<i32>,
}

// === impl Residences ===

impl Residences {
    /// Reads the records of every user at every site.
    pub(super) async fn read(stage: &Stage) -> Outcome<Residences> {
        let users: Vec<i32> = stage.users().iter().map(|(key, _)| *key).collect();
        let keys: Vec<UserKey> = users.iter().map(|key| key.to_string().into()).collect();
        let mut records: HashMap<&str, Vec<Option<Resident>>> = HashMap::new();
        for (site, url) in stage.movers() {
            let failed = || format!("cannot read who lives at {site}");
            let session = connect(&url, "demo")
                .await
                .or_fail(Exit::Unreached, failed)?;
            let found = records::look(&*session, KeyKind::Integer, &keys)
                .await
                .or_fail(Exit::Unreached, failed)?;
            records.insert(site, found);
        }
        let mut residences = Residences {
            ways: HashMap::with_capacity(users.len()),
            unclear: Vec::new(),
        };
        for (index, user) in users.into_iter().enumerate() {
            let state = |site: &str| Some(&records.get(site)?[index].as_ref()?.state);
            let homes = records
                .keys()
                .filter(|site| state(site).is_some_and(State::is_home));
            let homes: Vec<&&str> = homes.collect();
            let way = follow(state);
            if homes.len() != 1 || way.last().map(String::as_str) != Some(*homes[0]) {
                residences.unclear.push(user);
            }
            residences.ways.insert(user, way);
        }
        Ok(residences)
    }

    /// For the checker.
    pub(super) fn residence(&self, user: i32) -> Residence {
        let mut sites = self.way(user).iter();
        let first = sites.next().map_or(ORIGIN, String::as_str);
        sites.fold(Residence::at(first), |residence, site| residence.then(site))
    }

    /// Where he lives.
    pub(super) fn home(&self, user: i32) -> &str {
        self.way(user).last().map_or(ORIGIN, String::as_str)
    }

    /// Those of `users` who live, or ever lived, anywhere but at `site`.
    pub(super) fn elsewhere(&self, users: &[i32], site: &str) -> BTreeSet<i32> {
        let stayed = |user: i32| self.way(user).iter().all(|lived| lived == site);
        users
            .iter()
            .copied()
            .filter(|user| !stayed(*user))
            .collect()
    }

    /// How many users live elsewhere than in `before`.
    pub(super) fn moved_since(&self, before: &Residences) -> u64 {
        let moved = self
            .ways
            .keys()
            .filter(|user| self.home(**user) != before.home(**user));
        moved.count() as u64
    }

    fn way(&self, user: i32) -> &[String] {
        self.ways.get(&user).map_or(&[], Vec::as_slice)
    }
}

/// The way that the forwarding pointers show, from the origin on. Nobody comes back in the demo: a
/// pointer to a site passed before ends it.
fn follow<'a>(state: impl Fn(&str) -> Option<&'a State>) -> Vec<String> {
    let mut way = vec![ORIGIN.to_owned()];
    while let Some(last) = way.last()
        && let Some(State::Departed { to, .. }) = state(last)
        && !way.iter().any(|passed| passed == to.as_str())
    {
        way.push(to.to_string());
    }
    way
}

/// Those of `users` of whom any row stands at `site`.
pub(super) async fn with_rows_at(site: &shop::Site, users: &[i32]) -> Outcome<BTreeSet<i32>> {
    let failed = || format!("cannot look for rows at {}", site.name);
    let (client, connection) = tokio_postgres::connect(&site.url, NoTls)
        .await
        .or_fail(Exit::Unreached, failed)?;
    let looking = async move {
        // Chinook's foreign keys hang every line to an invoice.
        let sql = "SELECT customer_id FROM customer WHERE customer_id = ANY ($1)
                   UNION SELECT customer_id FROM invoice WHERE customer_id = ANY ($1)";
        client.query(sql, &[&users]).await
    };
    // The connection ends when the client is dropped, with `looking`.
    let (found, _) = tokio::join!(looking, connection);
    let rows = found.or_fail(Exit::Unreached, failed)?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

#[cfg(test)]
mod tests {
    use model::Epoch;

    use super::*;

    #[test]
    fn the_way_follows_the_pointers_and_ends() {
        let departed = |to: &str| State::Departed {
            to: to.into(),
            epoch: Epoch(2),
            erased: false,
        };
        let to_singapore = departed("singapore");
        let to_mumbai = departed("mumbai");
        let back = departed("beijing");
        let home = State::Settled { epoch: Epoch(3) };
        let way = follow(|site| match site {
            "beijing" => Some(&to_singapore),
            "singapore" => Some(&to_mumbai),
            _ => Some(&home),
        });
        assert_eq!(way, ["beijing", "singapore", "mumbai"]);
        let circle = follow(|site| match site {
            "beijing" => Some(&to_singapore),
            _ => Some(&back),
        });
        assert_eq!(circle, ["beijing", "singapore"]);
        assert_eq!(follow(|_| None), ["beijing"]);
    }
}
