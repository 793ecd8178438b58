//! Nobody but the pinned peer gets in or is spoken with (TESTS X1, X8). Each impostor comes to the door of a site and waits
//! at the address of another; not one byte of the application's may reach it or come from it.
#![allow(missing_docs, reason = "tests")]

mod support;

use std::path::Path;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use link::{Endpoint, NewKey, RequestError, Settings, StartError};
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
use support::forger::{Form, Papers, greet, hello, pair_of};
use support::{AWAY, HOME, address, away, home, identity, key, peer, pin, settings, soon};
use tokio::net::TcpListener;

/// A third site, which is a peer as well.
const THIRD: &str = "mumbai";

struct Keys {
    home: NewKey,
    away: NewKey,
    third: NewKey,
}

impl Keys {
    fn new() -> Self {
        Self {
            home: key(),
            away: key(),
            third: key(),
        }
    }
}

/// The impostors of `site`, whose key is `own`, as seen by `victim`.
fn impostors(
    site: &str,
    own: &NewKey,
    third: &NewKey,
    victim: (&str, &NewKey),
) -> Vec<(&'static str, Papers)> {
    let form = || Form::of(site);
    let changed = |change: fn(&mut Form)| {
        let mut form = form();
        change(&mut form);
        Papers::new(own, &form)
    };
    let with = |alpn| Papers {
        alpn,
        ..Papers::new(own, &form())
    };
    let stranger = key();
    let mut further = Papers::new(own, &form());
    further
        .chain
        .push(Papers::new(&stranger, &form()).chain.remove(0));
    vec![
        ("self-signed, another key", Papers::new(&stranger, &form())),
        ("another peer's key", Papers::new(third, &form())),
        (
            "the right key for another peer's name",
            Papers::new(own, &Form::of(THIRD)),
        ),
        (
            "another peer's key and name",
            Papers::new(third, &Form::of(THIRD)),
        ),
        (
            "the right key for an unknown name",
            Papers::new(own, &Form::of("atlantis")),
        ),
        ("a further certificate", further),
        ("no name", changed(|form| form.uris.clear())),
        (
            "two names",
            changed(|form| form.uris.push("domicile:site:mumbai".into())),
        ),
        ("expired", changed(|form| form.hours = (-48, -1))),
        ("not yet valid", changed(|form| form.hours = (1, 48))),
        ("an authority", changed(|form| form.authority = true)),
        ("another protocol", with(Some("h2"))),
        ("no protocol", with(None)),
        ("TLS 1.2", Papers::new(own, &form()).tls12()),
        (
            "the right certificate with another key",
            Papers {
                key: pair_of(&stranger),
                ..Papers::new(own, &form())
            },
        ),
        (
            "an authority's word for another key",
            Papers::vouched(&stranger, &form(), false),
        ),
        (
            "an authority's word and certificate",
            Papers::vouched(&stranger, &form(), true),
        ),
        (
            "the right key under an authority",
            Papers::vouched(own, &form(), true),
        ),
        (
            "the victim's own name and key",
            Papers::new(victim.1, &Form::of(victim.0)),
        ),
        (
            "the victim's own key, the right name",
            Papers::new(victim.1, &form()),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_impostor_at_the_door_is_refused() {
    let keys = Keys::new();
    let mut door = settings(
        HOME,
        &keys.home,
        vec![peer(AWAY, &keys.away, None), peer(THIRD, &keys.third, None)],
    );
    door.listen = Some("127.0.0.1:0".into());
    let mut end = Endpoint::start(door).await.unwrap();
    let mut inbox = end.take_inbox(&AWAY.into()).unwrap();
    let at = address(&end);

    let mut all = impostors(AWAY, &keys.away, &keys.third, (HOME, &keys.home));
    // Somebody who is a peer may not use another's name inside, which the certificate's check cannot see.
    all.retain(|(what, _)| *what != "another peer's key and name");
    let mut without = Papers::new(&keys.away, &Form::of(AWAY));
    without.chain.clear();
    all.push(("no certificate", without));
    let mut uses = Form::of(AWAY);
    uses.uses = vec![ServerAuth];
    all.push((
        "a certificate for servers alone",
        Papers::new(&keys.away, &uses),
    ));

    let mut expected = 0;
    for (what, papers) in &all {
        expected += 1;
        // The handshake fails, or it seems to succeed and the first read tells: in no case does an answer come.
        if let Ok(mut wire) = soon(papers.connect(&at)).await {
            let _ = wire.send(hello(AWAY, HOME, 1, None)).await;
            let _ = wire
                .send(Bytes::from_static(b"\x04\0\0\0\0\0\0\0\0hostile notice"))
                .await;
            let got = soon(wire.next()).await;
            assert!(
                !matches!(got, Some(Ok(_))),
                "{what}: the site answered {got:?}"
            );
        }
        soon(until(|| end.refused() == expected)).await;
        assert_eq!(end.peer(&AWAY.into()).unwrap().session(), None, "{what}");
    }
    println!("{expected} impostors at the door refused, 0 bytes let in");

    // The door is not merely shut: the same forger with the right papers is let in, and what he says arrives.
    let papers = Papers::new(&keys.away, &Form::of(AWAY));
    let mut wire = soon(papers.connect(&at)).await.unwrap();
    let answer = soon(greet(&mut wire, hello(AWAY, HOME, 1, None)))
        .await
        .unwrap();
    assert!(answer.contains("welcome"), "{answer}");
    wire.send(Bytes::from_static(b"\x04\0\0\0\0\0\0\0\0honest notice"))
        .await
        .unwrap();
    let Some(link::Incoming::Notice(first)) = soon(inbox.next()).await else {
        panic!("a notice was sent");
    };
    assert_eq!(first, "honest notice", "nothing came before it");
    assert_eq!(end.refused(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_impostor_that_is_dialled_gets_nothing() {
    let keys = Keys::new();
    let mut all = impostors(HOME, &keys.home, &keys.third, (AWAY, &keys.away));
    let mut uses = Form::of(HOME);
    uses.uses = vec![ClientAuth];
    all.push((
        "a certificate for clients alone",
        Papers::new(&keys.home, &uses),
    ));
    let count = all.len();
    for (what, papers) in all {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap().to_string();
        let end = away(&keys.away, &keys.home, at).await;
        // Twice: also the second attempt, after the wait, says nothing.
        for _ in 0..2 {
            if let Ok(mut wire) = soon(papers.accept(&listener)).await {
                let got = soon(wire.next()).await;
                assert!(!matches!(got, Some(Ok(_))), "{what}: the site said {got:?}");
            }
        }
        let peer = end.peer(&HOME.into()).unwrap();
        assert_eq!(peer.session(), None, "{what}");
        let asked = peer
            .request(Bytes::from_static(b"secret"), support::PATIENCE)
            .await;
        assert_eq!(asked, Err(RequestError::NotConnected), "{what}");
    }
    println!("{count} impostors that were dialled refused, 0 bytes told");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap().to_string();
    let _end = away(&keys.away, &keys.home, at).await;
    let papers = Papers::new(&keys.home, &Form::of(HOME));
    let mut wire = soon(papers.accept(&listener)).await.unwrap();
    let hello = soon(wire.next()).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&hello).contains(r#""from":"beijing","to":"singapore""#));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_ends_tls_with_a_trusted_authoritys_certificate_gets_nothing() {
    let keys = Keys::new();
    let home = home(&keys.home, &keys.away).await;
    let behind = address(&home);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap().to_string();
    let away = away(&keys.away, &keys.home, at).await;
    // Valid for the name in the eyes of the world, whichever way it looks.
    let (to_away, to_home) = (key(), key());
    let as_home = Papers::vouched(&to_away, &Form::of(HOME), true);
    let as_away = Papers::vouched(&to_home, &Form::of(AWAY), true);
    for _ in 0..3 {
        let near = soon(as_home.accept(&listener)).await;
        assert!(near.is_err(), "the dialling site believed the relay");
        if let Ok(mut far) = soon(as_away.connect(&behind)).await {
            assert_eq!(
                soon(greet(&mut far, hello(AWAY, HOME, 1, None))).await,
                None
            );
        }
    }
    assert_eq!(away.peer(&HOME.into()).unwrap().session(), None);
    assert_eq!(home.peer(&AWAY.into()).unwrap().session(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_is_held_to_its_own_name_and_to_one_session() {
    let keys = Keys::new();
    let end = home(&keys.home, &keys.away).await;
    let at = address(&end);
    let papers = Papers::new(&keys.away, &Form::of(AWAY));
    for (hello, why) in [
        (hello(THIRD, HOME, 1, None), "from"),
        (hello(AWAY, THIRD, 1, None), "to"),
        (hello(AWAY, HOME, 1, Some(0)), "session"),
        (hello(AWAY, HOME, 1, Some(64)), "flows"),
    ] {
        let mut wire = soon(papers.connect(&at)).await.unwrap();
        let answer = soon(greet(&mut wire, hello)).await.unwrap();
        assert_eq!(answer, format!(r#"{{"refused":"{why}"}}"#));
        assert!(!matches!(soon(wire.next()).await, Some(Ok(_))));
    }
    // X8: a hello that names an address is no hello; there is no message in which one could stand.
    let mut wire = soon(papers.connect(&at)).await.unwrap();
    let text = String::from_utf8(hello(AWAY, HOME, 1, None).to_vec()).unwrap();
    let with = text.replacen('{', r#"{"address":"169.254.169.254:80","#, 1);
    assert_eq!(soon(greet(&mut wire, with.into())).await, None);
    // A dialled peer does not come in by the other door.
    let mut both = settings(
        AWAY,
        &keys.away,
        vec![peer(HOME, &keys.home, Some("127.0.0.1:1".into()))],
    );
    both.listen = Some("127.0.0.1:0".into());
    let dialling = Endpoint::start(both).await.unwrap();
    let papers = Papers::new(&keys.home, &Form::of(HOME));
    let mut wire = soon(papers.connect(&address(&dialling))).await.unwrap();
    let answer = soon(greet(&mut wire, hello(HOME, AWAY, 1, None)))
        .await
        .unwrap();
    assert_eq!(answer, r#"{"refused":"dials"}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_in_which_a_key_could_speak_for_two_are_refused() {
    let keys = Keys::new();
    let start = |peers| Endpoint::start(settings(HOME, &keys.home, peers));
    let refused = start(vec![
        peer(AWAY, &keys.away, None),
        peer(THIRD, &keys.away, None),
    ])
    .await;
    assert!(matches!(refused, Err(StartError::SharedPin(..))));
    let refused = start(vec![peer(AWAY, &keys.home, None)]).await;
    assert!(matches!(refused, Err(StartError::Itself(_))));
    let refused = start(vec![peer(HOME, &keys.away, None)]).await;
    assert!(matches!(refused, Err(StartError::Itself(_))));
    let refused = start(vec![
        peer(AWAY, &keys.away, None),
        peer(AWAY, &keys.third, None),
    ])
    .await;
    assert!(matches!(refused, Err(StartError::Twice(_))));
    let flows = |flows| {
        Endpoint::start(Settings {
            flows,
            ..settings(HOME, &keys.home, Vec::new())
        })
    };
    assert!(matches!(flows(0).await, Err(StartError::Flows(0))));
    assert!(matches!(flows(65).await, Err(StartError::Flows(65))));
}

/// The order of `docs/link.md`: at no step is a site without a peer that it believes.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_changes_without_an_hour_in_which_nobody_is_believed() {
    let (home_key, old, next) = (key(), key(), key());
    for (shown, pins, comes) in [
        (&old, vec![pin(&old)], true),
        (&old, vec![pin(&old), pin(&next)], true),
        (&next, vec![pin(&old), pin(&next)], true),
        (&next, vec![pin(&next)], true),
        (&old, vec![pin(&next)], false),
    ] {
        let mut at_home = peer(AWAY, &old, None);
        at_home.pins = link::Pins::new(pins).unwrap();
        let mut listens = settings(HOME, &home_key, vec![at_home]);
        listens.listen = Some("127.0.0.1:0".into());
        let home = Endpoint::start(listens).await.unwrap();
        let away = away(shown, &home_key, address(&home)).await;
        match comes {
            true => drop(soon(home.peer(&AWAY.into()).unwrap().connected()).await),
            false => soon(until(|| home.refused() > 1)).await,
        }
        assert!(comes || away.peer(&HOME.into()).unwrap().session().is_none());
    }
    assert_eq!(identity(&old).pin(), pin(&old));
}

/// X1: there is one place that judges certificates, and no list of authorities among the dependencies.
#[test]
fn there_is_no_way_around_the_check() {
    let manifest = include_str!("../Cargo.toml");
    for store in [
        "native-certs",
        "platform-verifier",
        "webpki-roots",
        "aws-lc",
    ] {
        assert!(!manifest.contains(store), "{store}");
    }
    let text = sources(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")));
    assert_eq!(text.matches(".dangerous()").count(), 1);
    assert_eq!(text.matches("ServerCertVerified::assertion()").count(), 1);
    assert_eq!(text.matches("ClientCertVerified::assertion()").count(), 1);
    for way in [
        "with_no_client_auth",
        "offer_client_auth",
        "client_auth_mandatory",
        "std::env",
    ] {
        assert!(!text.contains(way), "{way}");
    }
}

/// All that stands in a folder and those below.
fn sources(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .map(|path| match path.is_dir() {
            true => sources(&path),
            false => std::fs::read_to_string(path).unwrap(),
        })
        .collect()
}

async fn until(state: impl Fn() -> bool) {
    while !state() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}
