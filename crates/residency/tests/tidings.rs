//! What a site tells its peers of changes of home, and what a peer's word closes.

mod support;

use anyhow::{Context as _, Result, ensure};
use handoff::record::State;
use model::{Epoch, SiteName, UserKey};
use residency::tidings::{self, Heard, Page};
use support::{ATTEMPT, Shape, Site, here, outcome, there};

fn departed() -> State {
    State::Departed {
        to: there(),
        epoch: Epoch(7),
        erased: false,
    }
}

/// User number `n` leaves for singapore.
async fn leave(site: &Site, n: i64) -> Result<()> {
    site.become_one(
        n,
        State::Offered {
            epoch: Epoch(7),
            to: there(),
            batch: "b".into(),
            attempt: ATTEMPT,
        },
    )
    .await?;
    site.become_one(n, departed()).await
}

fn who(page: &Page) -> Vec<&str> {
    page.users.iter().map(|(user, ..)| user.as_str()).collect()
}

#[tokio::test]
async fn everybody_who_left_is_told_once_in_order_and_anew_to_whoever_has_another_history()
-> Result<()> {
    let site = Site::new().await?;
    let mut mover = site.mover().await?;
    let nothing = tidings::tell(&mut mover, None).await?;
    ensure!(nothing.to.is_none() && nothing.users.is_empty() && !nothing.more);

    for n in [3, 1, 2] {
        leave(&site, n).await?;
    }
    let first = tidings::tell(&mut mover, None).await?;
    let mut told = who(&first);
    told.sort_unstable();
    assert_eq!(told, ["1", "2", "3"]);
    assert_eq!(first.users[0].1, there());
    assert_eq!(first.users[0].2, Epoch(7));
    let place = first.to.clone().context("there is a place")?;

    let again = tidings::tell(&mut mover, Some(&place)).await?;
    ensure!(again.users.is_empty() && again.to.as_ref() == Some(&place) && !again.more);
    leave(&site, 4).await?;
    // Who only moves about here is not told of.
    site.become_one(5, State::Settled { epoch: Epoch(7) })
        .await?;
    let more = tidings::tell(&mut mover, Some(&place)).await?;
    assert_eq!(who(&more), ["4"]);

    // The same position of another history.
    let other = tidings::Place {
        mark: "another".to_owned(),
        ..place
    };
    let anew = tidings::tell(&mut mover, Some(&other)).await?;
    ensure!(anew.from.is_none() && anew.users.len() == 4, "{anew:?}");
    Ok(())
}

#[tokio::test]
async fn many_are_told_page_by_page() -> Result<()> {
    let site = Site::new().await?;
    let mut mover = site.mover().await?;
    mover
        .execute(
            "INSERT INTO domicile.resident (user_key, state, epoch, seen, peer, told) \
             SELECT n, 'departed', 7, 7, 'singapore', -1 FROM generate_series(1001, 2001) AS n",
            &[],
        )
        .await?;
    let (mut place, mut all, mut pages) = (None, Vec::new(), 0);
    loop {
        let page = tidings::tell(&mut mover, place.as_ref()).await?;
        ensure!(page.from == place && page.users.len() <= 400);
        all.extend(page.users.iter().map(|(user, ..)| user.clone()));
        (place, pages) = (page.to, pages + 1);
        if !page.more {
            break;
        }
    }
    ensure!(all.len() == 1001 && pages == 3, "{} in {pages}", all.len());
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 1001);
    Ok(())
}

/// A page with one user.
fn one(from: Option<tidings::Place>, user: &str, home: SiteName, epoch: i64) -> Page {
    Page {
        to: Some(tidings::Place {
            position: from.as_ref().map_or(0, |place| place.position) + 1,
            mark: format!("after {user}"),
        }),
        from,
        users: vec![(UserKey::from(user), home, Epoch(epoch))],
        more: false,
        heard: true,
    }
}

#[tokio::test]
async fn a_peers_word_closes_whom_this_site_should_know_better_and_nobody_else() -> Result<()> {
    let site = Site::new().await?;
    let (mut mover, app) = (site.mover().await?, site.app().await?);
    let mut place = None;
    let mut hear = async |user: &str, home: SiteName, epoch: i64| -> Result<Heard> {
        let page = one(place.clone(), user, home, epoch);
        let heard = tidings::hear(&mut mover, site.kind(), &here(), &there(), &page).await?;
        let heard = heard.context("nobody else hears")?;
        // Where somebody is lost, what was let pass counts: it is heard from the beginning.
        ensure!(tidings::again(&mover).await? == (heard.lost > 0));
        place = tidings::place(&mover, &there()).await?;
        ensure!(place == page.to.filter(|_| heard.lost == 0));
        Ok(heard)
    };
    let (lost, overtaken, nothing) = ((1, 0), (0, 1), (0, 0));
    let counts = |heard: Heard| (heard.lost, heard.overtaken);
    // An adopted one, who has no record yet; one who is not known at all; one who is at home, and was.
    assert_eq!(counts(hear("1", there(), 3).await?), overtaken);
    assert_eq!(counts(hear("999999", here(), 3).await?), lost);
    site.become_one(2, State::Settled { epoch: Epoch(7) })
        .await?;
    assert_eq!(counts(hear("2", there(), 6).await?), nothing);
    assert_eq!(counts(hear("2", here(), 7).await?), nothing);
    assert_eq!(counts(hear("2", here(), 8).await?), lost);
    assert_eq!(counts(hear("3", "mumbai".into(), 3).await?), overtaken);

    let refused = |n: i64| {
        let app = &app;
        async move {
            outcome(
                app,
                &format!("UPDATE customer SET name = 'x' WHERE id = {n}"),
            )
            .await
        }
    };
    assert_eq!(refused(1).await, "DM421");
    assert_eq!(refused(2).await, "DM423");
    assert_eq!(refused(3).await, "DM421");
    assert_eq!(refused(4).await, "ok");

    assert_eq!(counts(hear("700000", there(), 9).await?), nothing);
    // Of whoever is not known here a site that is not open keeps where he lives.
    let close = site.mover().await?;
    close.batch_execute("DELETE FROM domicile.open").await?;
    assert_eq!(counts(hear("800000", there(), 9).await?), nothing);
    let unknown = "SELECT count(*) FROM domicile.resident WHERE user_key = 700000";
    assert_eq!(support::number(&mover, unknown).await?, 0);
    let kept = "SELECT count(*) FROM domicile.resident WHERE user_key = 800000 AND state = 'departed' AND seen = 9 \
                AND erased_at IS NOT NULL AND told = 0";
    assert_eq!(support::number(&mover, kept).await?, 1);

    // Each with an entry for the ledger.
    let kinds: Vec<String> = mover
        .query(
            "SELECT kind FROM domicile.entry WHERE kind IN ('lost', 'overtaken') ORDER BY n",
            &[],
        )
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(kinds, ["overtaken", "lost", "lost", "overtaken"]);

    // What follows another place was heard by somebody else.
    let stray = one(
        Some(tidings::Place {
            position: 1,
            mark: "stray".to_owned(),
        }),
        "4",
        there(),
        9,
    );
    let said = tidings::hear(&mut mover, site.kind(), &here(), &there(), &stray).await;
    assert_eq!(said?, None);
    assert_eq!(refused(4).await, "ok");
    // From the beginning is always heard: the peer has another history.
    let anew = one(None, "4", there(), 9);
    let heard = tidings::hear(&mut mover, site.kind(), &here(), &there(), &anew).await?;
    assert_eq!(heard.map(counts), Some(overtaken));
    Ok(())
}

#[tokio::test]
async fn keys_are_told_in_the_spelling_that_the_peer_reads_back() -> Result<()> {
    for key in ["uuid", "text"] {
        let shape = || Shape {
            key,
            ..Shape::default()
        };
        let (teller, hearer) = (Site::shaped(shape()).await?, Site::shaped(shape()).await?);
        leave(&teller, 1).await?;
        let page = tidings::tell(&mut teller.mover().await?, None).await?;
        let mut mover = hearer.mover().await?;
        let heard = tidings::hear(&mut mover, hearer.kind(), &there(), &here(), &page).await?;
        assert_eq!(heard.map(|heard| heard.lost), Some(1));
        let state = hearer.record(1).await?.map(|record| record.state);
        assert_eq!(state, Some(State::Lost { epoch: Epoch(7) }));
    }
    Ok(())
}
