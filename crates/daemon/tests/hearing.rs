//! What daemons of two sites say to each other, and who hears it.

mod support;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use daemon::{AskError, Daemon, Hears, Link, Settings, Soon, Topic, Unheard, ask, notify};
use link::{NewKey, Peer, PeerSettings, Pins, RequestError, TransferId, WAITING_MAX};
use support::{PATIENCE, Running, Site};
use testbed::wait_until;
use tokio::sync::{Semaphore, watch};

const ECHO: Topic = Topic(200);
const NOBODYS: Topic = Topic(201);
const BAD: Topic = Topic(202);
const SLOW: Topic = Topic(203);
const TRANSFER: Topic = Topic(204);

/// Hears as its topic says, and notes what it was told.
struct Ears {
    topic: Topic,
    /// Lets the slow ones go.
    gate: Arc<Semaphore>,
    noted: watch::Sender<Vec<(String, Bytes)>>,
    /// How many are heard at this moment.
    hearing: watch::Sender<usize>,
}

struct Hearing<'a>(&'a watch::Sender<usize>);

impl Drop for Hearing<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Ears {
    fn new(topic: Topic) -> Arc<Ears> {
        Arc::new(Ears {
            topic,
            gate: Arc::new(Semaphore::new(0)),
            noted: watch::Sender::default(),
            hearing: watch::Sender::default(),
        })
    }
}

impl Hears for Ears {
    fn topic(&self) -> Topic {
        self.topic
    }

    fn hear(&self, from: Peer, body: Bytes) -> Soon<'_, Result<Bytes, Unheard>> {
        Box::pin(async move {
            self.hearing.send_modify(|count| *count += 1);
            let _hearing = Hearing(&self.hearing);
            match self.topic {
                BAD if body.is_empty() => Err(Unheard),
                BAD => panic!("a hearer's own mistake"),
                SLOW => {
                    let passed = self.gate.acquire().await;
                    passed.map_err(|_| Unheard)?.forget();
                    Ok(body)
                }
                TRANSFER => {
                    let id = u64::from_be_bytes(body[..].try_into().map_err(|_| Unheard)?);
                    let mut coming = from.receive(TransferId(id)).map_err(|_| Unheard)?;
                    let mut bytes = 0_u64;
                    while let Some(part) = coming.next().await.map_err(|_| Unheard)? {
                        bytes += part.len() as u64;
                    }
                    Ok(Bytes::copy_from_slice(&bytes.to_be_bytes()))
                }
                _ => Ok(body),
            }
        })
    }

    fn note(&self, from: Peer, body: Bytes) -> Soon<'_, ()> {
        Box::pin(async move {
            self.noted
                .send_modify(|all| all.push((from.site().to_string(), body)));
        })
    }
}

/// Beijing, which dials, and Singapore, which has the ears; both lead.
struct Pair {
    sites: [Site; 2],
    beijing: Running,
    singapore: Running,
    ears: Vec<Arc<Ears>>,
    settings: [Settings; 2],
}

impl Pair {
    async fn new(service: &str) -> Result<Pair> {
        let sites = [
            Site::new("beijing", &[service]).await?,
            Site::new("singapore", &[service]).await?,
        ];
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        let mut pins = Vec::new();
        for site in &sites {
            let identity = NewKey::draw()?.write(&site.folder.path().join("site.key"))?;
            pins.push(Pins::new(vec![identity.pin()])?);
        }
        let settings = [0, 1].map(|n| {
            let other = 1 - n;
            Settings {
                link: Some(Link {
                    key: sites[n].folder.path().join("site.key"),
                    listen: (n == 1).then(|| address.clone()),
                    flows: 2,
                    peers: vec![PeerSettings {
                        site: sites[other].name.into(),
                        pins: pins[other].clone(),
                        dial: (n == 0).then(|| address.clone()),
                    }],
                }),
                ..sites[n].settings("a.sock")
            }
        });
        let ears: Vec<_> = [ECHO, BAD, SLOW, TRANSFER].map(Ears::new).into();
        let mut daemon = Daemon::new(settings[1].clone());
        for one in &ears {
            daemon = daemon.hears(one.clone());
        }
        let singapore = Running::start(daemon, settings[1].admin.socket.clone());
        let daemon = Daemon::new(settings[0].clone());
        let beijing = Running::start(daemon, settings[0].admin.socket.clone());
        let pair = Pair {
            sites,
            beijing,
            singapore,
            ears,
            settings,
        };
        pair.connected().await?;
        Ok(pair)
    }

    /// Singapore as Beijing has it, once it is connected.
    async fn connected(&self) -> Result<Peer> {
        let peer = wait_for_peer(&self.beijing, "singapore").await?;
        tokio::time::timeout(PATIENCE, peer.connected()).await?;
        Ok(peer)
    }

    fn ear(&self, topic: Topic) -> &Arc<Ears> {
        self.ears
            .iter()
            .find(|one| one.topic == topic)
            .expect("it has ears")
    }
}

async fn wait_for_peer(running: &Running, site: &str) -> Result<Peer> {
    let mut found = None;
    wait_until("the link is up", PATIENCE, async || {
        found = running.view.peer(&site.into());
        Ok(found.is_some())
    })
    .await?;
    found.context("it was found")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_answered_by_whoever_hears_the_topic() -> Result<()> {
    let pair = Pair::new("answers").await?;
    let peer = pair.connected().await?;
    for body in [&b""[..], b"text", &[7; 100_000]] {
        ensure!(ask(&peer, ECHO, body, PATIENCE).await?[..] == *body);
    }
    ensure!(ask(&peer, NOBODYS, b"x", PATIENCE).await == Err(AskError::Unknown(NOBODYS)));
    ensure!(ask(&peer, BAD, b"", PATIENCE).await == Err(AskError::Unheard));
    // A hearer that panics answers, and takes nobody with it.
    ensure!(ask(&peer, BAD, b"x", PATIENCE).await == Err(AskError::Unheard));
    // A request without a topic is nobody's.
    let bare = peer.request(Bytes::new(), PATIENCE).await?;
    ensure!(bare[..] == [1], "{bare:?}");
    // The daemon's own topic takes a card and nothing else.
    ensure!(ask(&peer, Topic(0), &[255; 40], PATIENCE).await == Err(AskError::Unheard));
    ensure!(ask(&peer, ECHO, b"still", PATIENCE).await?[..] == *b"still");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notices_reach_their_hearer_with_the_site_that_sent_them() -> Result<()> {
    let pair = Pair::new("notes").await?;
    let peer = pair.connected().await?;
    notify(&peer, NOBODYS, b"lost").await?;
    notify(&peer, ECHO, b"one").await?;
    notify(&peer, ECHO, b"two").await?;
    let mut noted = pair.ear(ECHO).noted.subscribe();
    let both = tokio::time::timeout(PATIENCE, noted.wait_for(|all| all.len() == 2)).await??;
    let mut both = both.clone();
    both.sort();
    let from = "beijing".to_owned();
    ensure!(
        both == [(from.clone(), "one".into()), (from, "two".into())],
        "{both:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hearer_receives_the_transfer_that_a_request_names() -> Result<()> {
    let pair = Pair::new("transfers").await?;
    let peer = pair.connected().await?;
    let mut sending = peer.send()?;
    let named = sending.id().0.to_be_bytes();
    let sent = async {
        for _ in 0..20 {
            sending.write(Bytes::from(vec![5; 100_000])).await?;
        }
        sending.finish().await?;
        anyhow::Ok(())
    };
    let (answer, sent) = tokio::join!(ask(&peer, TRANSFER, &named, PATIENCE), sent);
    sent?;
    ensure!(answer?[..] == 2_000_000_u64.to_be_bytes());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_are_heard_at_a_time_and_so_many_wait_and_the_others_are_told() -> Result<()> {
    let pair = Pair::new("busy").await?;
    let peer = pair.connected().await?;
    let slow = pair.ear(SLOW).clone();
    let mut asked = tokio::task::JoinSet::new();
    for n in 0..2 * WAITING_MAX + 10 {
        let peer = peer.clone();
        asked.spawn(async move { ask(&peer, SLOW, &[n as u8], PATIENCE).await });
    }
    // At least ten too many.
    let mut busy = 0;
    while busy < 10 {
        let ended = asked.join_next().await.context("the others wait")??;
        ensure!(
            ended == Err(AskError::Link(RequestError::Busy)),
            "{ended:?}"
        );
        busy += 1;
    }
    ensure!(
        *slow.hearing.borrow() == WAITING_MAX,
        "{}",
        *slow.hearing.borrow()
    );
    slow.gate.add_permits(2 * WAITING_MAX);
    let mut answered = 0;
    while let Some(ended) = asked.join_next().await {
        match ended? {
            Ok(_) => answered += 1,
            Err(AskError::Link(RequestError::Busy)) => busy += 1,
            other => anyhow::bail!("{other:?}"),
        }
    }
    // How many of those in between waited is the reader's luck; whoever was heard was answered, and nobody was forgotten.
    ensure!(answered + busy == 2 * WAITING_MAX + 10, "{answered} {busy}");
    ensure!(answered > WAITING_MAX, "{answered} {busy}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_lead_go_the_link_and_what_is_being_heard() -> Result<()> {
    let pair = Pair::new("steps").await?;
    let peer = pair.connected().await?;
    let slow = pair.ear(SLOW);
    let asked = ask(&peer, SLOW, b"x", PATIENCE);
    let lost = async {
        let mut hearing = slow.hearing.subscribe();
        hearing.wait_for(|count| *count == 1).await?;
        pair.sites[1].end_session(0).await?;
        hearing.wait_for(|count| *count == 0).await?;
        anyhow::Ok(())
    };
    let (answer, lost) = tokio::join!(asked, lost);
    lost?;
    ensure!(
        answer == Err(AskError::Link(RequestError::OutcomeUnknown)),
        "{answer:?}"
    );
    // It leads again, and is dialled again.
    pair.singapore.until_it_leads(&["steps"], &[]).await?;
    tokio::time::timeout(PATIENCE, peer.connected()).await?;
    wait_until("it hears again", PATIENCE, async || {
        Ok(ask(&peer, ECHO, b"x", Duration::from_secs(5)).await.is_ok())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_whose_settings_contradict_each_other_does_not_begin() -> Result<()> {
    let pair = Pair::new("contradict").await?;
    let folder = tempfile::tempdir()?;
    let mut settings = pair.settings[1].clone();
    settings.admin.socket = folder.path().join("b.sock");
    let begin = async |settings: Settings| {
        let socket = settings.admin.socket.clone();
        let began = Running::start(Daemon::new(settings), socket.clone())
            .end()
            .await?;
        ensure!(!socket.exists(), "it began");
        Ok(format!("{:?}", began.expect_err("it begins")))
    };
    let mut itself = settings.clone();
    itself.link.as_mut().context("a link")?.peers[0].site = "singapore".into();
    ensure!(begin(itself).await?.contains("Itself"));
    let mut keyless = settings.clone();
    keyless.link.as_mut().context("a link")?.key = folder.path().join("nothing");
    ensure!(begin(keyless).await?.contains("Unreadable"));
    let twice = Daemon::new(settings.clone())
        .hears(Ears::new(ECHO))
        .hears(Ears::new(ECHO));
    let socket = settings.admin.socket;
    ensure!(Running::start(twice, socket).end().await?.is_err());
    Ok(())
}
