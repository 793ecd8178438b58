//! The registry of claims, as PostgreSQL keeps it: one winner, one turn at a time, and nothing decided that homes did not say.

mod support;

use std::time::Duration;

use anyhow::{Context as _, Result};
use model::{KeyKind, SiteName, UserKey};
use postgres::connect::{Session, connect};
use residency::claims::{self, Answer, Entry, Finding, Hash, Operation};
use support::{Site, here, there};

const LEASE: Duration = Duration::from_secs(600);
const OVER: Duration = Duration::ZERO;

async fn session(site: &Site) -> Result<Session> {
    let url = site.cluster.url(&site.mover, &site.database);
    Ok(connect(&url, "test").await?)
}

fn hash(n: u8) -> Hash {
    Hash([n; 32])
}

fn operation<'a>(id: u8, user: &'a UserKey, name: u8) -> Operation<'a> {
    Operation {
        id: hash(id),
        user,
        keys: KeyKind::Integer,
        kind: "email",
        name: hash(name),
    }
}

async fn entry(session: &Session, name: u8) -> Result<Entry> {
    let found = claims::locate(&**session, hash(name)).await?;
    found.context("an entry")
}

#[tokio::test]
async fn of_two_who_claim_at_once_one_wins_and_an_operation_is_answered_once() -> Result<()> {
    let site = Site::new().await?;
    let (mut one, mut two) = (session(&site).await?, session(&site).await?);
    let (ann, bob) = (UserKey::from("1000001"), UserKey::from("1000002"));
    for round in 0..100_u8 {
        let (first, second) = (
            operation(2 * round, &ann, round),
            operation(2 * round + 1, &bob, round),
        );
        let (place, other) = (here(), there());
        let (a, b) = tokio::join!(
            claims::claim(&mut one, &first, &place, LEASE),
            claims::claim(&mut two, &second, &other, LEASE)
        );
        let (a, b) = (a?, b?);
        let wins = [a, b].map(|answer| matches!(answer, Answer::Claimed { .. }));
        assert!(wins[0] != wins[1], "{round}: {a:?} {b:?}");
        // Again, at once and by both sessions.
        let (c, d) = tokio::join!(
            claims::claim(&mut one, &second, &place, OVER),
            claims::claim(&mut two, &second, &other, LEASE)
        );
        assert_eq!((c?, d?), (b, b), "{round}");
    }
    let reused = claims::claim(&mut one, &operation(0, &bob, 0), &here(), LEASE).await;
    assert_eq!(reused.expect_err("another's").to_string(), claims::OTHER);
    let reused = claims::release(&mut one, &operation(0, &ann, 0), None, &Finding::Free).await;
    assert_eq!(reused.expect_err("another verb").to_string(), claims::OTHER);
    Ok(())
}

#[tokio::test]
async fn what_was_found_of_one_turn_does_nothing_to_the_next() -> Result<()> {
    let site = Site::new().await?;
    let mut session = session(&site).await?;
    let ann = UserKey::from("1000001");
    claims::claim(&mut session, &operation(1, &ann, 1), &here(), OVER).await?;
    let due = claims::due(&*session, false, 10).await?;
    assert_eq!(due.len(), 1, "its lease is over");
    // While the homes are asked she claims it again: she writes within that lease.
    claims::claim(&mut session, &operation(2, &ann, 1), &here(), LEASE).await?;
    let turn = due[0].1.turn;
    assert!(!claims::settle(&*session, hash(1), turn, &Finding::Free).await?);
    assert_eq!(entry(&session, 1).await?.user, ann);
    assert!(claims::due(&*session, false, 10).await?.is_empty());
    // Nor is a claim that stands taken away by what is found of itself.
    let turn = entry(&session, 1).await?.turn;
    assert!(!claims::settle(&*session, hash(1), turn, &Finding::Free).await?);
    // A release of what changed meanwhile is to be asked again.
    let old = due[0].1.clone();
    let release = operation(3, &ann, 1);
    let released = claims::release(&mut session, &release, Some(&old), &Finding::Free).await?;
    assert_eq!(released, None);
    let now = entry(&session, 1).await?;
    let unsure = claims::release(&mut session, &release, Some(&now), &Finding::Unsure).await?;
    assert_eq!(unsure, None, "nothing is done where nobody is sure");
    assert!(claims::due(&*session, false, 10).await?.is_empty());
    let released = claims::release(&mut session, &release, Some(&now), &Finding::Waits).await?;
    assert_eq!(released, Some(Answer::Releasing));
    assert_eq!(claims::due(&*session, false, 10).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn what_homes_tell_is_held_and_what_contradicts_is_handed_back() -> Result<()> {
    let site = Site::new().await?;
    let mut session = session(&site).await?;
    let users = ["1000001", "1000002", "1000003"].map(UserKey::from);
    let [ann, bob, cid] = &users;
    claims::claim(&mut session, &operation(1, ann, 1), &here(), LEASE).await?;
    let told = [
        (ann.clone(), hash(1)),
        (bob.clone(), hash(2)),
        (cid.clone(), hash(2)),
    ];
    let keys = KeyKind::Integer;
    let turned = claims::tell(&*session, keys, &there(), "email", &told).await?;
    assert_eq!(turned.changed, 2);
    assert_eq!(turned.conflicts, [(hash(2), cid.clone(), bob.clone())]);
    let held = entry(&session, 1).await?;
    assert!(held.held && held.site == there());
    let again = claims::tell(&*session, keys, &there(), "email", &told[..2]).await?;
    assert_eq!(again, claims::Turned::default());
    let mine = claims::claim(&mut session, &operation(2, bob, 2), &here(), LEASE).await?;
    assert!(matches!(mine, Answer::Held { .. }), "{mine:?}");
    let stolen = claims::tell(&*session, keys, &here(), "email", &[(bob.clone(), hash(1))]).await?;
    assert_eq!(stolen.conflicts, [(hash(1), bob.clone(), ann.clone())]);
    assert_eq!(entry(&session, 1).await?.user, *ann);
    Ok(())
}

#[tokio::test]
async fn nothing_is_claimed_before_all_sites_told_twice_also_after_a_restart_where_the_site_is_closed()
-> Result<()> {
    let site = Site::new().await?;
    let session = session(&site).await?;
    let sites: [SiteName; 2] = [here(), there()];
    let filled = async || claims::is_filled(&*session, "email", &sites).await;
    let tell = async |who: &SiteName| {
        claims::begins(&*session, who, "email").await?;
        claims::ends(&*session, who, "email").await
    };
    assert!(!filled().await?);
    tell(&here()).await?;
    tell(&here()).await?;
    assert!(!filled().await?, "the other one has told nothing");
    tell(&there()).await?;
    assert!(
        !filled().await?,
        "whoever moved meanwhile may have been missed"
    );
    tell(&here()).await?;
    assert!(!filled().await?);
    tell(&there()).await?;
    assert!(filled().await?);
    assert!(!claims::is_filled(&*session, "phone", &sites).await?);
    // Told before the server started: for a site that is closed after restarts that is not enough.
    let admin = support::connect(&site.cluster, "postgres", &site.database).await?;
    admin
        .batch_execute(
            "UPDATE domicile.claim_told SET first_at = 'epoch', began_at = timestamptz 'epoch' + interval '1 s'",
        )
        .await?;
    assert!(filled().await?);
    admin
        .batch_execute("UPDATE domicile.home SET after_restart = 'closed'")
        .await?;
    assert!(!filled().await?);
    tell(&here()).await?;
    tell(&there()).await?;
    assert!(filled().await?);
    Ok(())
}

#[tokio::test]
async fn a_home_is_quiet_when_all_that_began_before_have_ended() -> Result<()> {
    let site = Site::new().await?;
    let session = session(&site).await?;
    let calm = claims::activity(&*session).await?;
    assert!(calm.is_quiet_since(calm.now_us), "{calm:?}");
    let app = support::connect(&site.cluster, &site.app, &site.database).await?;
    app.batch_execute("BEGIN").await?;
    let before = claims::activity(&*session).await?;
    // It has drawn no id and no snapshot, and may write yet.
    assert!(!before.is_quiet_since(before.now_us), "{before:?}");
    let later = support::connect(&site.cluster, &site.app, &site.database).await?;
    later.batch_execute("BEGIN").await?;
    app.batch_execute("COMMIT").await?;
    let after = claims::activity(&*session).await?;
    assert!(after.is_quiet_since(before.now_us), "{after:?}");
    assert!(!after.is_quiet_since(after.now_us), "{after:?}");
    later.batch_execute("ROLLBACK").await?;
    let calm = claims::activity(&*session).await?;
    assert!(calm.is_quiet_since(after.now_us), "{calm:?}");
    Ok(())
}
