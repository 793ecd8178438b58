//! The door before a home database, as mover and gateways see it through PostgreSQL: nobody is overlooked, nobody stays closed.

mod support;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use handoff::record::{Event, State};
use model::{BatchId, Epoch, SiteName, UserKey};
use postgres::connect::{Session, connect};
use residency::closings::{self, Opening};
use residency::fence::{self, Gate};
use residency::gateways::{self, Closing, Opened, Stand};
use residency::kept::Kept;
use residency::office::Office;
use residency::records::{self, Change};
use residency::{Error, tidings};
use support::{ATTEMPT, Shape, Site, here, number, outcome, refusal, states, there, until};
use tokio_postgres::Client;

const LEASE: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_millis(500);
/// How often two who could overlook each other are set loose.
const ROUNDS: i64 = 400;

/// The user that moves.
const USER: i64 = 1;

async fn session(site: &Site) -> Result<Session> {
    let url = site.cluster.url(&site.mover, &site.database);
    Ok(connect(&url, "test").await?)
}

async fn close(site: &Site, mover: &Client, batch: &str, longest: Duration) -> Result<BatchId> {
    let (batch, users) = (BatchId::from(batch), [site.user(USER), site.user(2)]);
    closings::close(mover, site.kind(), &batch, &users, longest).await?;
    Ok(batch)
}

async fn awaited(mover: &Client, batch: &BatchId) -> Result<Vec<(String, bool)>> {
    let awaited = closings::not_yet(mover, batch).await?;
    Ok(awaited.into_iter().map(|g| (g.name, g.ended)).collect())
}

/// Lets the moving user be fenced as the mover does; false where the door does not stand as it says.
async fn raise(
    site: &Site,
    mover: &mut Client,
    kept: &Kept,
    office: &Office,
    batch: &BatchId,
    gate: Gate,
) -> Result<bool> {
    let users = [site.user(USER)];
    let closed = fence::Closed {
        users: &users,
        attempt: ATTEMPT,
        batch,
        gate,
    };
    match fence::raise(mover, kept, office, site.kind(), closed, PATIENCE).await {
        Ok(_) => Ok(true),
        Err(Error::DoorOpen) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn lift(site: &Site, mover: &mut Client, batch: &BatchId) -> Result<()> {
    let change = Change {
        user: site.user(USER),
        event: Event::Reopen {
            batch: batch.clone(),
        },
    };
    let tx = mover.transaction().await?;
    records::change(&tx, site.kind(), &[change], None).await?;
    Ok(tx.commit().await?)
}

async fn enrol(site: &Site, mover: &mut Client) -> Result<()> {
    let tx = mover.transaction().await?;
    site.enrol(&tx, &[USER]).await?;
    Ok(tx.commit().await?)
}

/// One user's stand.
async fn stand(site: &Site, gateway: &Client) -> Result<Stand> {
    let mut found = gateways::look(gateway, site.kind(), &[site.user(USER)]).await?;
    Ok(found.pop().context("one answer for one user")?.1)
}

/// Lets the other side get ahead by a little, more or less: `n` picks by how much.
async fn stagger(n: i64) {
    for _ in 0..(n * 7919 % 23) {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_micros((n * 104_729 % 1500) as u64)).await;
}

#[tokio::test]
async fn a_closing_is_heard_said_and_opened() -> Result<()> {
    let site = Site::new().await?;
    let (mover, gateway) = (session(&site).await?, session(&site).await?);
    assert!(!closings::attended(&*mover).await?);
    let mut to_mover = mover.listen(closings::TO_MOVERS).await?;
    let mut to_gateway = gateway.listen(closings::TO_GATEWAYS).await?;
    assert!(!gateways::register(&*gateway, "a", LEASE).await?);
    assert!(gateways::register(&*gateway, "a", LEASE).await?, "known");
    assert!(closings::attended(&*mover).await?);

    let batch = close(&site, &mover, "m/1", Duration::from_secs(10)).await?;
    to_gateway.rung().await?;
    let closed = gateways::closings(&*gateway, &[]).await?;
    let [
        Closing {
            batch: found,
            users,
            left,
            opened: None,
        },
    ] = closed.as_slice()
    else {
        anyhow::bail!("{closed:?}");
    };
    assert_eq!(
        (found, users),
        (&batch, &vec![site.user(USER), site.user(2)])
    );
    ensure!(*left > Duration::from_secs(5) && *left <= Duration::from_secs(10));
    assert_eq!(awaited(&mover, &batch).await?, [("a".to_owned(), false)]);
    for undrained in [2, 0] {
        gateways::acknowledge(&*gateway, "a", &batch, undrained).await?;
    }
    to_mover.rung().await?;
    assert_eq!(awaited(&mover, &batch).await?, []);
    let said = "SELECT string_agg(gateway || undrained, ',') FROM domicile.closed";
    let said: String = mover.query_one(said, &[]).await?.get(0);
    assert_eq!(said, "a2", "the first word stands");
    assert!(
        !gateways::reopen(&*gateway, &batch).await?,
        "its time is not over"
    );

    let epochs = vec![(site.user(2), Epoch(9)), (site.user(USER), Epoch(8))];
    let opening = Opening::There {
        home: there(),
        epochs,
    };
    to_gateway.hush();
    closings::open(&*mover, site.kind(), &batch, &opening).await?;
    to_gateway.rung().await?;
    assert_eq!(gateways::closings(&*gateway, &[]).await?, []);
    for told in [
        gateways::all_closings(&*gateway).await?,
        gateways::closings(&*gateway, std::slice::from_ref(&batch)).await?,
    ] {
        let opened = Opened::At {
            home: there(),
            epochs: vec![Epoch(8), Epoch(9)],
        };
        assert_eq!(told[0].opened, Some(opened));
    }
    // What was told stays; what was left open may still be told.
    closings::open(&*mover, site.kind(), &batch, &Opening::Look).await?;
    let told = gateways::all_closings(&*gateway).await?;
    assert!(matches!(told[0].opened, Some(Opened::At { .. })));

    // The same users again, under another batch, while the old row stands; here, under their records' epochs.
    site.become_one(USER, State::Settled { epoch: Epoch(7) })
        .await?;
    let batch = close(&site, &mover, "m/2", Duration::ZERO).await?;
    assert!(gateways::reopen(&*gateway, &batch).await?);
    let told = gateways::closings(&*gateway, std::slice::from_ref(&batch)).await?;
    assert_eq!(told[0].opened, Some(Opened::Look));
    closings::open(&*mover, site.kind(), &batch, &Opening::Here).await?;
    let told = gateways::closings(&*gateway, std::slice::from_ref(&batch)).await?;
    let opened = Opened::At {
        home: here(),
        epochs: vec![Epoch(7), Epoch(0)],
    };
    assert_eq!(told[0].opened, Some(opened));

    // Nothing is left when all is over, but the closing of whoever is fenced.
    let fenced = states().swap_remove(2);
    site.become_one(USER, fenced).await?;
    mover
        .execute(
            "UPDATE domicile.closing SET opened_at = now() - interval '1 hour', until = now() - interval '1 hour'",
            &[],
        )
        .await?;
    closings::tidy(&*mover).await?;
    assert_eq!(gateways::all_closings(&*gateway).await?.len(), 2);
    assert_eq!(gateways::fenced(&*gateway).await?, [site.user(USER)]);
    site.become_one(USER, State::Settled { epoch: Epoch(8) })
        .await?;
    closings::tidy(&*mover).await?;
    let rows =
        "SELECT (SELECT count(*) FROM domicile.closing) + (SELECT count(*) FROM domicile.closed)";
    assert_eq!(number(&mover, rows).await?, 0);
    gateways::leave(&*gateway, "a").await?;
    assert!(!closings::attended(&*mover).await?);
    Ok(())
}

#[tokio::test]
async fn whoever_waits_wakes_when_the_session_is_lost() -> Result<()> {
    let site = Site::new().await?;
    let gateway = session(&site).await?;
    let mut bell = gateway.listen(closings::TO_GATEWAYS).await?;
    let pid: i32 = gateway
        .query_one("SELECT pg_backend_pid()", &[])
        .await?
        .get(0);
    let admin = site.session("postgres").await?;
    let end = format!("SELECT pg_terminate_backend({pid})");
    let (ended, rung) = tokio::join!(
        admin.query_one(&end, &[]),
        tokio::time::timeout(Duration::from_secs(20), bell.rung()),
    );
    ended?;
    assert!(rung.context("it was not woken")?.is_err());
    Ok(())
}

#[tokio::test]
async fn who_has_renewed_in_time_is_not_silent() -> Result<()> {
    let site = Site::new().await?;
    let (mover, gateway) = (site.mover().await?, site.mover().await?);
    let silent = async || {
        let silent = closings::silent(&mover).await?;
        let silent = silent.into_iter();
        anyhow::Ok(silent.map(|g| (g.name, g.ended)).collect::<Vec<_>>())
    };
    gateways::register(&gateway, "a", gateways::LEASE_MAX).await?;
    gateways::register(&gateway, "b", gateways::LEASE_MAX).await?;
    assert_eq!(silent().await?, []);
    let ago = |seconds: u64, name: &str| {
        format!(
            "UPDATE domicile.gateway SET renewed_at = renewed_at - interval '{seconds} s', \
                    lease_until = lease_until - interval '{seconds} s' WHERE name = '{name}'"
        )
    };
    gateway.batch_execute(&ago(25, "a")).await?;
    gateway.batch_execute(&ago(35, "b")).await?;
    assert_eq!(silent().await?, [("b".to_owned(), false)]);
    assert!(gateways::renew(&gateway, "b", gateways::LEASE_MAX).await?);
    assert_eq!(silent().await?, []);
    gateway.batch_execute(&ago(61, "a")).await?;
    assert_eq!(silent().await?, [("a".to_owned(), true)]);
    closings::pass(&mover, &["a"]).await?;
    assert_eq!(silent().await?, []);
    Ok(())
}

#[tokio::test]
async fn a_lease_that_is_over_is_passed_unless_it_is_renewed_at_that_moment() -> Result<()> {
    let site = Site::new().await?;
    let (mover, mut gateway) = (site.mover().await?, site.mover().await?);
    gateways::register(&gateway, "a", Duration::ZERO).await?;
    let batch = close(&site, &mover, "m/1", LEASE).await?;
    assert_eq!(awaited(&mover, &batch).await?, [("a".to_owned(), true)]);
    // Over by the clock, passed by nobody: it may go on.
    assert!(gateways::renew(&gateway, "a", LEASE).await?);
    closings::pass(&mover, &["a"]).await?;
    assert_eq!(awaited(&mover, &batch).await?, [("a".to_owned(), false)]);

    gateways::leave(&gateway, "a").await?;
    gateways::register(&gateway, "a", Duration::ZERO).await?;
    closings::pass(&mover, &["a"]).await?;
    assert_eq!(awaited(&mover, &batch).await?, []);
    assert!(
        !gateways::renew(&gateway, "a", LEASE).await?,
        "a fence went past it"
    );
    // Whoever registers anew is waited for again.
    assert!(gateways::register(&gateway, "a", LEASE).await?);
    assert_eq!(awaited(&mover, &batch).await?, [("a".to_owned(), false)]);

    // A renewal that is just being committed keeps the mover waiting, and wins.
    gateways::leave(&gateway, "a").await?;
    gateways::register(&gateway, "a", Duration::ZERO).await?;
    let tx = gateway.transaction().await?;
    assert!(gateways::renew(&tx, "a", LEASE).await?);
    let watch = site.session("postgres").await?;
    let passing = async { Ok::<_, anyhow::Error>(closings::pass(&mover, &["a"]).await?) };
    let committing = async {
        let waiting = "SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
                       WHERE NOT l.granted AND a.datname = current_database()";
        until(&watch, "the mover waits for the renewal", waiting).await?;
        Ok(tx.commit().await?)
    };
    tokio::try_join!(passing, committing)?;
    assert_eq!(awaited(&mover, &batch).await?, [("a".to_owned(), false)]);
    assert!(gateways::renew(&gateway, "a", LEASE).await?);
    let longer = gateways::register(&gateway, "a", 2 * gateways::LEASE_MAX).await;
    assert!(matches!(longer, Err(Error::Refused(_))));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_closing_and_a_registration_one_sees_the_other() -> Result<()> {
    let site = Site::new().await?;
    let (mover, gateway) = (session(&site).await?, session(&site).await?);
    let (mut saw, mut waited) = (0, 0);
    for n in 0..ROUNDS {
        gateways::leave(&*gateway, "a").await?;
        let batch = BatchId::new(format!("m/{n}"));
        let closing = async {
            stagger(n).await;
            close(&site, &mover, batch.as_str(), LEASE).await?;
            awaited(&mover, &batch).await
        };
        let registering = async {
            stagger(n / 2).await;
            gateways::register(&*gateway, "a", LEASE).await?;
            Ok(gateways::closings(&*gateway, &[]).await?)
        };
        let (awaited, closed) = tokio::try_join!(closing, registering)?;
        let sees = closed.iter().any(|closing| closing.batch == batch);
        ensure!(
            sees || !awaited.is_empty(),
            "in round {n} both overlooked each other"
        );
        (saw, waited) = (
            saw + usize::from(sees),
            waited + usize::from(!awaited.is_empty()),
        );
        closings::open(&*mover, site.kind(), &batch, &Opening::Look).await?;
    }
    println!("{ROUNDS} rounds: {saw} closings seen, {waited} gateways waited for");
    ensure!(saw > 0 && waited > 0, "{saw} and {waited}: no race");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_registers_where_none_was_finds_the_fence_or_stops_it() -> Result<()> {
    let site = Site::new().await?;
    let (mut mover, gateway) = (site.mover().await?, site.mover().await?);
    enrol(&site, &mut mover).await?;
    let office = site.office(&mover).await?;
    let kept = Kept::default();
    let (mut raised, mut stopped) = (0, 0);
    for n in 0..ROUNDS {
        gateways::leave(&gateway, "a").await?;
        assert!(!closings::attended(&gateway).await?);
        let batch = BatchId::new(format!("m/{n}"));
        let fencing = async {
            stagger(n).await;
            raise(&site, &mut mover, &kept, &office, &batch, Gate::Unattended).await
        };
        let registering = async {
            stagger(n / 2).await;
            gateways::register(&gateway, "a", LEASE).await?;
            stand(&site, &gateway).await
        };
        let (fenced, stand) = tokio::try_join!(fencing, registering)?;
        ensure!(
            !(fenced && matches!(stand, Stand::Here { .. })),
            "in round {n} a gateway took a user for open whom a fence closed behind it"
        );
        match fenced {
            true => {
                raised += 1;
                lift(&site, &mut mover, &batch).await?;
            }
            false => stopped += 1,
        }
    }
    println!("{ROUNDS} rounds: {raised} fences found, {stopped} stopped");
    ensure!(raised > 0 && stopped > 0, "{raised} and {stopped}: no race");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fence_is_raised_behind_a_door_that_a_gateway_opened() -> Result<()> {
    let site = Site::new().await?;
    let (mut mover, gateway) = (site.mover().await?, site.mover().await?);
    enrol(&site, &mut mover).await?;
    let office = site.office(&mover).await?;
    let kept = Kept::default();
    gateways::register(&gateway, "a", LEASE).await?;
    let (mut raised, mut stopped) = (0, 0);
    for n in 0..ROUNDS {
        let batch = close(&site, &mover, &format!("m/{n}"), Duration::ZERO).await?;
        gateways::acknowledge(&gateway, "a", &batch, 0).await?;
        let fencing = async {
            stagger(n).await;
            raise(&site, &mut mover, &kept, &office, &batch, Gate::Closed).await
        };
        let opening = async {
            stagger(n / 2).await;
            ensure!(gateways::reopen(&gateway, &batch).await?);
            stand(&site, &gateway).await
        };
        let (fenced, stand) = tokio::try_join!(fencing, opening)?;
        ensure!(
            !(fenced && matches!(stand, Stand::Here { .. })),
            "in round {n} a user was fenced behind an open door"
        );
        match fenced {
            true => {
                raised += 1;
                lift(&site, &mut mover, &batch).await?;
            }
            false => stopped += 1,
        }
    }
    println!("{ROUNDS} rounds: {raised} fences before the opening, {stopped} stopped by it");
    ensure!(raised > 0 && stopped > 0, "{raised} and {stopped}: no race");
    // Of a closing that is not there, as after a crash, nothing is raised either.
    let gone = BatchId::from("gone/1");
    assert!(!raise(&site, &mut mover, &kept, &office, &gone, Gate::Closed).await?);
    Ok(())
}

/// What `look` must say of a user in `state`.
fn expected(state: &State) -> Stand {
    let epoch = Epoch(7);
    match state {
        State::Settled { .. } | State::Moving { .. } => Stand::Here { epoch },
        State::Fenced { to, .. } | State::Offered { to, .. } => Stand::Closed {
            epoch,
            to: to.clone(),
        },
        State::Departed { to, .. } => Stand::Elsewhere {
            home: to.clone(),
            epoch,
        },
        State::Arriving { from, .. } | State::Clearing { from, .. } => Stand::Arriving {
            from: from.clone(),
            epoch,
        },
        State::Lost { .. } => Stand::Lost { epoch },
    }
}

#[tokio::test]
async fn a_look_tells_how_every_user_stands() -> Result<()> {
    for key in ["bigint", "uuid", "text"] {
        let site = Site::shaped(Shape {
            key,
            ..Shape::default()
        })
        .await?;
        let (mut users, mut wanted) = (Vec::new(), Vec::new());
        for (n, state) in (1..).zip(states()) {
            wanted.push(expected(&state));
            users.push(site.user(n));
            site.become_one(n, state).await?;
        }
        let unknown = Stand::Unknown { origin: here() };
        users.extend([site.user(12), site.user(4711)]);
        wanted.extend([Stand::Here { epoch: Epoch(0) }, unknown.clone()]);
        if key != "text" {
            users.push(UserKey::from("nobody's"));
            wanted.push(unknown);
        }
        let gateway = site.mover().await?;
        let found = gateways::look(&gateway, site.kind(), &users).await?;
        let expected: Vec<(UserKey, Stand)> = users.into_iter().zip(wanted).collect();
        assert_eq!(found, expected, "{key}");
    }
    let site = Site::shaped(Shape {
        is_origin: false,
        mark: Some(12),
        ..Shape::default()
    })
    .await?;
    let gateway = site.mover().await?;
    let origin = SiteName::from("shanghai");
    assert_eq!(stand(&site, &gateway).await?, Stand::Unknown { origin });
    let facts = gateways::facts(&gateway).await?;
    assert_eq!(
        (facts.site, facts.origin.as_str(), facts.mark, facts.kind),
        (here(), "shanghai", Some(12), site.kind())
    );
    Ok(())
}

/// The DETAIL of what refuses a write for user number `n`.
async fn refused(app: &Client, n: i64) -> Result<(String, serde_json::Value)> {
    let sql = format!("UPDATE customer SET name = 'm' WHERE id = {n}");
    let error = app.batch_execute(&sql).await.err();
    let (code, detail) = refusal(&error.context("must be refused")?);
    Ok((code, serde_json::from_str(&detail.context("a DETAIL")?)?))
}

#[tokio::test]
async fn the_nonce_is_in_every_refusal_and_stays() -> Result<()> {
    let mut site = Site::new().await?;
    for (n, state) in (1..).zip(states()) {
        site.become_one(n, state).await?;
    }
    let (app, mover) = (site.app().await?, site.mover().await?);
    let nonce = gateways::nonce(&mover).await?;
    ensure!(nonce.len() == 32 && nonce.bytes().all(|b| b.is_ascii_hexdigit()));
    for n in [3, 4] {
        let only = serde_json::json!({"nonce": nonce});
        assert_eq!(refused(&app, n).await?, ("40001".to_owned(), only));
    }
    let (code, detail) = refused(&app, 5).await?;
    let gone = serde_json::json!({"home": there(), "epoch": 7, "nonce": nonce});
    assert_eq!((code.as_str(), detail), ("DM421", gone));
    for n in [1_i64, 5, 4711] {
        let sql = "SELECT domicile.where_is($1) ->> 'nonce'";
        let said: String = app.query_one(sql, &[&n]).await?.get(0);
        assert_eq!(said, nonce);
    }
    let taken = "SELECT nonce FROM domicile.home";
    assert_eq!(
        outcome(&app, taken).await,
        "42501",
        "to be had with a refusal alone"
    );

    site.install().await?;
    assert_eq!(gateways::nonce(&mover).await?, nonce, "installed again");
    let another = gateways::nonce(&Site::new().await?.mover().await?).await?;
    assert_ne!(another, nonce);

    // An installation of version 6 is upgraded by another `install`.
    let admin = site.session("postgres").await?;
    admin
        .batch_execute(
            "DROP TABLE domicile.gateway, domicile.closing, domicile.closed;
             ALTER TABLE domicile.home DROP COLUMN nonce; UPDATE domicile.home SET version = 6",
        )
        .await?;
    site.install().await?;
    let made = gateways::nonce(&mover).await?;
    ensure!(made.len() == 32 && made != nonce);
    let batch = close(&site, &mover, "m/1", LEASE).await?;
    assert_eq!(awaited(&mover, &batch).await?, []);
    closings::tidy(&mover).await?;
    Ok(())
}

#[tokio::test]
async fn a_gateway_reads_all_changes_of_home_in_large_pages() -> Result<()> {
    const USERS: i64 = 10_000;
    let site = Site::new().await?;
    let mut gateway = site.mover().await?;
    gateway
        .execute(
            "INSERT INTO domicile.resident (user_key, state, epoch, seen, peer, told) \
             SELECT n, 'departed', 7, 7, 'singapore', -1 FROM generate_series(1001, 1000 + $1::bigint) AS n",
            &[&USERS],
        )
        .await?;
    // The first time somebody numbers them; after that it is reading alone.
    for _ in 0..2 {
        let (mut place, mut all, mut pages) = (None, Vec::new(), 0);
        loop {
            let page = tidings::tell_pages(&mut gateway, place.as_ref(), 4000).await?;
            ensure!(page.from == place && page.users.len() <= 4000);
            all.extend(page.users);
            (place, pages) = (page.to, pages + 1);
            if !page.more {
                break;
            }
        }
        ensure!(pages == 3, "{pages} pages");
        all.sort();
        all.dedup();
        assert_eq!(all.len() as i64, USERS);
    }
    // It must not read who is beyond the page, however many there are.
    let admin = site.session("postgres").await?;
    admin.batch_execute("ANALYZE domicile.resident").await?;
    let plan = admin
        .query(
            "EXPLAIN SELECT r.user_key FROM domicile.resident AS r, domicile.home AS h
              WHERE r.told <> 0 AND r.told > 4000 AND r.told <= 4400 ORDER BY r.told",
            &[],
        )
        .await?;
    let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
    ensure!(
        plan.iter().any(|line| line.contains("resident_told")),
        "{plan:#?}"
    );
    Ok(())
}
