//! Somebody on the way between two daemons who ends TLS, with a certificate that the system trusts.

#![cfg(feature = "planted-faults")]

#[allow(dead_code, missing_docs, reason = "a part of it is used here")]
#[path = "../../link/tests/support/forger.rs"]
mod forger;
mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use forger::{Form, Papers, greet, hello};
use link::NewKey;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use support::linked::{Linked, met};
use support::{PATIENCE, SITES};
use testbed::wait_until;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

/// A name that the world's clients would find in the forged certificate.
const HOST: &str = "singapore.example";

/// What the one in the middle got.
#[derive(Debug, Default)]
struct Booty {
    /// Handshakes that came to an end with whoever dialled.
    believed: AtomicU64,
    /// Those that whoever dialled broke off.
    refused: AtomicU64,
    /// Bytes heard from whoever dialled, inside TLS.
    heard: AtomicU64,
    /// Attempts at the site behind.
    knocked: AtomicU64,
    /// Those that were answered, inside TLS.
    answered: AtomicU64,
}

/// Who ends TLS on the way: a site's name and a host's in a certificate of an authority, at both sides.
struct Middle {
    address: String,
    booty: Arc<Booty>,
    _tasks: JoinSet<()>,
}

fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::SeqCst);
}

fn got(count: &AtomicU64) -> u64 {
    count.load(Ordering::SeqCst)
}

// === impl Middle ===

impl Middle {
    /// Before `behind`. Writes the certificate of its authority to `trusted`.
    async fn start(behind: String, trusted: &Path) -> Result<Middle> {
        let named = |site: &str| Form {
            hosts: vec![HOST],
            ..Form::of(site)
        };
        let mut as_singapore = Papers::vouched(&NewKey::draw()?, &named(SITES[1]), true);
        // Not shown: who trusts the authority has its certificate. One certificate is what the link wants.
        let authority = as_singapore.chain.pop().context("an authority")?;
        let as_beijing = Papers::vouched(&NewKey::draw()?, &named(SITES[0]), false);
        let pem = format!(
            "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
            BASE64_STANDARD.encode(&authority)
        );
        std::fs::write(trusted, pem)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let booty = Arc::new(Booty::default());
        let mut tasks = JoinSet::new();
        let gets = Arc::clone(&booty);
        tasks.spawn(async move {
            loop {
                match as_singapore.accept(&listener).await {
                    Ok(near) => {
                        add(&gets.believed, 1);
                        let mut heard = Vec::new();
                        // Up to the end, or an error: what came before that counts.
                        let _ = near.into_inner().read_to_end(&mut heard).await;
                        add(&gets.heard, heard.len() as u64);
                    }
                    Err(_) => add(&gets.refused, 1),
                }
                add(&gets.knocked, 1);
                // Under TLS 1.3 whoever dials learns on his first read that he was refused.
                if let Ok(mut far) = as_beijing.connect(&behind).await
                    && greet(&mut far, hello(SITES[0], SITES[1], 1, None))
                        .await
                        .is_some()
                {
                    add(&gets.answered, 1);
                }
            }
        });
        Ok(Middle {
            address,
            booty,
            _tasks: tasks,
        })
    }
}

/// Connects as everybody's client does who believes what the system trusts, and says something.
async fn as_everybody(address: &str, trusted: &Path) -> Result<()> {
    let system = rustls_native_certs::load_certs_from_paths(Some(trusted), None);
    ensure!(system.errors.is_empty(), "{:?}", system.errors);
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(system.certs);
    ensure!(added == 1, "{added} authorities");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![forger::ALPN.into()];
    let stream = TcpStream::connect(address).await?;
    let host = ServerName::try_from(HOST)?;
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(host, stream)
        .await?;
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"a secret").await?;
    tokio::io::AsyncWriteExt::shutdown(&mut stream).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_ends_tls_on_the_way_with_a_certificate_that_the_system_trusts_gets_nothing()
-> Result<()> {
    let (linked, movers) = Linked::shop("middle", 300).await?;
    let world = &linked.world;
    let trusted = world.path("trusted.pem");
    let middle = Middle::start(linked.behind.clone(), &trusted).await?;
    // The certificate is no bad one: everybody who asks the system's authorities believes it, and talks.
    as_everybody(&middle.address, &trusted).await?;
    let booty = &middle.booty;
    wait_until("the middle has heard a secret", PATIENCE, async || {
        Ok(got(&booty.heard) == 8 && got(&booty.knocked) == 1)
    })
    .await?;
    ensure!(got(&booty.believed) == 1, "{booty:?}");

    let serve = async |site: usize| {
        let program = linked.serving(site).env("SSL_CERT_FILE", &trusted);
        let program = program.env("SSL_CERT_DIR", world.path(""));
        linked.serve_as(site, program).await
    };
    let mut both = [serve(0).await?, serve(1).await?];
    met(&both).await?;
    let workload = linked.writers().await?;
    let apply = linked.apply(0).start()?;
    let departed = "SELECT count(*) > 0 FROM domicile.resident WHERE state = 'departed'";
    world.wait_for(0, departed, "true").await?;
    linked.relay.lead_to(middle.address.clone());
    linked.relay.cut().await;
    wait_until(
        "the middle has tried again and again",
        PATIENCE,
        async || Ok(got(&booty.refused) >= 4 && got(&booty.knocked) >= 5),
    )
    .await?;
    // Both are up, know that they do not see each other, and say why.
    for n in [0, 1] {
        both[n]
            .until("the peer is gone", |status| {
                status["peers"][0]["connected"] == false
            })
            .await?;
        ensure!(both[n].running.ended()?.is_none(), "{}", both[n].log());
    }
    let (dials, listens) = (both[0].log(), both[1].log());
    ensure!(dials.contains("cannot connect the link"), "{dials}");
    ensure!(
        listens.contains("a connection to the link was refused"),
        "{listens}"
    );
    let said = |log: &str| {
        let mut lines = log
            .lines()
            .filter(|line| line.contains("certificate"))
            .map(str::to_owned);
        lines.next().unwrap_or_default()
    };
    println!("{}\n{}", said(&dials), said(&listens));
    both[1]
        .until("callers were refused", |status| {
            status["link"]["refused"].as_u64() >= Some(4)
        })
        .await?;
    // The application lives on meanwhile, but for users of a batch whose fate is not known; and nobody moves.
    let stays = world.users_of(0, "CN").await?[0];
    let write = "UPDATE customer SET company = company WHERE customer_id = $1";
    let written = world
        .application(0)
        .await?
        .execute(write, &[&stays])
        .await?;
    ensure!(written == 1, "{written}");
    let moved = world
        .value(
            0,
            "SELECT count(*) FROM domicile.resident WHERE state = 'departed'",
        )
        .await?;
    ensure!(moved.parse::<usize>()? < movers.len(), "it was over before");
    let nothing = got(&booty.believed) == 1 && got(&booty.heard) == 8 && got(&booty.answered) == 0;
    ensure!(nothing, "{booty:?}");

    linked.relay.lead_to(linked.behind.clone());
    linked.relay.cut().await;
    linked.at_rest(workload, &movers).await?;
    let nothing = got(&booty.believed) == 1 && got(&booty.heard) == 8 && got(&booty.answered) == 0;
    ensure!(nothing, "{booty:?}");
    println!("{booty:?}");
    apply.end().await?;
    Ok(())
}
