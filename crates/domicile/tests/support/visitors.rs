//! Two linked sites with gateways before a shop, and visitors who come to either while users move.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use shop::application::{Account, Application, Order};
use testbed::{Relay, wait_until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::linked::Linked;
use super::served::free_port;
use super::{PATIENCE, SITES};

/// The first invoice that visitors write: far above what is generated.
const FIRST: i32 = 10_000_000;

/// Two linked sites with a gateway and an application each.
pub struct Gateways {
    pub linked: Linked,
    pub applications: [Application; 2],
    /// Where clients reach each gateway.
    pub clients: [String; 2],
    /// Before the place where each site's gateway is reached by the other's.
    pub relays: [Relay; 2],
}

/// What visitors saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// Whose invoice it is, by its key: acknowledged.
    pub acknowledged: BTreeMap<i32, i32>,
    /// Answers other than 200, with the request.
    pub failed: Vec<String>,
    /// Answers 503, where nothing was executed, that were tried again.
    pub again: u64,
    /// Answers 502 to writes: whether they were executed was then read.
    pub unknown: u64,
    /// The longest that a request took.
    pub longest: Duration,
}

/// Visitors at work.
pub struct Visitors {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    seen: Arc<Mutex<Seen>>,
    tasks: JoinSet<Result<()>>,
}

// === impl Gateways ===

impl Gateways {
    /// Gives the sites of `linked` gateways and applications; their daemons are to be started after.
    pub async fn new(linked: Linked) -> Result<Self> {
        Self::before(linked, None).await
    }

    /// With another application at the first site, at `first`.
    pub async fn before(linked: Linked, first: Option<SocketAddr>) -> Result<Self> {
        let world = &linked.world;
        let application = async |site: usize| {
            let url = world.clusters.0[site].url("shop", &world.name);
            Application::start(&shop::Site::new(SITES[site], url)).await
        };
        let applications = [application(0).await?, application(1).await?];
        let mut ports = [[0; 2]; 2];
        for port in ports.iter_mut().flatten() {
            *port = free_port().await?;
        }
        let relay = async |site: usize| Relay::start(format!("127.0.0.1:{}", ports[site][1])).await;
        let relays = [relay(0).await?, relay(1).await?];
        for own in SITES {
            let path = world.path(&format!("{own}.toml"));
            let mut text = std::fs::read_to_string(&path)?;
            for (n, site) in SITES.into_iter().enumerate() {
                let ([clients, peers], address) = (ports[n], relays[n].address());
                let gateway = format!(
                    "gateway = {{ listen = \"127.0.0.1:{clients}\", fronts = [\"127.0.0.1\"], threads = 1, \
                     peers = {{ listen = \"127.0.0.1:{peers}\", address = \"{address}\" }} }}\n"
                );
                let head = format!("[site.{site}]\n");
                text = text.replace(&head, &format!("{head}{gateway}"));
            }
            let upstreams: String = SITES
                .iter()
                .zip(&applications)
                .enumerate()
                .map(|(n, (site, application))| {
                    let address = first.filter(|_| n == 0).unwrap_or(application.address);
                    format!("upstream.{site} = \"http://{address}\"\n")
                })
                .collect();
            let head = format!("[service.{}]\n", world.name);
            text = text.replace(&head, &format!("{head}{upstreams}"));
            text.push_str(&format!(
                "\n[[route]]\nservice = \"{}\"\npath = \"/users\"\nuser = {{ segment = 2 }}\n",
                world.name
            ));
            std::fs::write(&path, text)?;
        }
        let clients = [0, 1].map(|site: usize| format!("127.0.0.1:{}", ports[site][0]));
        Ok(Self {
            linked,
            applications,
            clients,
            relays,
        })
    }

    /// Waits until both gateways serve `user`.
    pub async fn ready(&self, user: i32) -> Result<()> {
        for place in &self.clients {
            wait_until("the gateway serves", PATIENCE, async || {
                let mut visitor = Visitor::new(place.clone());
                Ok(matches!(visitor.account(user).await, Ok((200, _))))
            })
            .await?;
        }
        Ok(())
    }

    /// Visitors of `users`, half of whom come to the one gateway and half to the other, and all of them in turn.
    /// With `forgives` they try again what they are told to.
    pub fn visit(&self, users: &[i32], visitors: usize, forgives: bool) -> Visitors {
        let (stop, count) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let seen = Arc::new(Mutex::new(Seen::default()));
        let next = Arc::new(AtomicI32::new(FIRST));
        let mut tasks = JoinSet::new();
        for number in 0..visitors {
            // Each has users of his own: what he reads of them must never be older than what he wrote.
            let own: Vec<i32> = users
                .iter()
                .copied()
                .skip(number)
                .step_by(visitors)
                .collect();
            let visits = Visits {
                visitor: Visitor::new(self.clients[number % 2].clone()),
                stop: Arc::clone(&stop),
                count: Arc::clone(&count),
                seen: Arc::clone(&seen),
                next: Arc::clone(&next),
                forgives,
            };
            tasks.spawn(visits.go(own));
        }
        Visitors {
            stop,
            count,
            seen,
            tasks,
        }
    }

    /// Holds what visitors saw against what the applications did and what the databases hold: each acknowledged invoice stands once, with
    /// its user, at his home; nothing was executed twice; nobody was served by a site that is not his home.
    pub async fn check(&self, seen: &Seen, movers: &[i32]) -> Result<()> {
        ensure!(
            seen.failed.is_empty(),
            "{} failed: {:?}",
            seen.failed.len(),
            &seen.failed[..seen.failed.len().min(10)]
        );
        let mut executed = BTreeSet::new();
        for application in &self.applications {
            for invoice in application.invoices() {
                ensure!(executed.insert(invoice), "{invoice} was executed twice");
            }
            ensure!(
                application.strangers().is_empty(),
                "{:?}",
                application.strangers()
            );
        }
        let rows = format!(
            "SELECT coalesce(string_agg(invoice_id || ':' || customer_id, ','), '') FROM invoice WHERE invoice_id >= {FIRST}"
        );
        for site in [0, 1] {
            let found = self.linked.world.value(site, &rows).await?;
            let found: BTreeMap<i32, i32> = found
                .split(',')
                .filter(|row| !row.is_empty())
                .map(|row| {
                    let (invoice, user) = row.split_once(':').context("a pair")?;
                    Ok((invoice.parse()?, user.parse()?))
                })
                .collect::<Result<_>>()?;
            for (invoice, user) in &seen.acknowledged {
                // The source keeps the rows of those who left, frozen, until they are erased.
                let home = usize::from(movers.contains(user));
                ensure!(
                    site != home || found.get(invoice) == Some(user),
                    "{invoice} of {user} is lost"
                );
            }
            for (invoice, user) in found {
                ensure!(
                    seen.acknowledged.get(&invoice) == Some(&user),
                    "{invoice} of {user} was not acknowledged"
                );
            }
        }
        Ok(())
    }
}

// === impl Visitors ===

impl Visitors {
    /// Waits for so many more visits.
    pub async fn more(&self, visits: u64) -> Result<()> {
        let wanted = self.count.load(Ordering::Relaxed) + visits;
        wait_until("more visits", PATIENCE, async || {
            ensure!(!self.tasks.is_empty(), "nobody visits any more");
            Ok(self.count.load(Ordering::Relaxed) >= wanted)
        })
        .await
    }

    /// Sends them home.
    pub async fn stop(mut self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        let seen = std::mem::take(
            &mut *self
                .seen
                .lock()
                .map_err(|_| anyhow::anyhow!("a visitor panicked"))?,
        );
        Ok(seen)
    }
}

struct Visits {
    visitor: Visitor,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    seen: Arc<Mutex<Seen>>,
    next: Arc<AtomicI32>,
    forgives: bool,
}

impl Visits {
    async fn go(mut self, users: Vec<i32>) -> Result<()> {
        loop {
            for user in &users {
                if self.stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                self.visit(*user).await?;
                self.count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Writes; as a client does that tries again where it is told to, and looks where it is told that nobody knows.
    async fn write(
        &mut self,
        user: i32,
        invoice: i32,
        seen: &mut Seen,
    ) -> Result<(u16, Option<Account>)> {
        let end = Instant::now() + PATIENCE;
        let mut unknown = false;
        loop {
            let wrote = match self.visitor.order(user, invoice).await {
                Ok(wrote) => wrote,
                // The gateway is gone, with what it knew.
                Err(_) if self.forgives => (502, None),
                Err(error) => return Err(error),
            };
            match wrote.0 {
                503 if self.forgives && Instant::now() < end => seen.again += 1,
                502 if self.forgives && Instant::now() < end => {
                    seen.unknown += 1;
                    unknown = true;
                    let read = self.read(user, seen).await?;
                    if read
                        .1
                        .as_ref()
                        .is_some_and(|account| account.last == Some(invoice))
                    {
                        return Ok(read);
                    }
                }
                // It came through the first time, after it was looked for.
                409 if unknown => return self.read(user, seen).await,
                _ => return Ok(wrote),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Reads, and again where it is told to.
    async fn read(&mut self, user: i32, seen: &mut Seen) -> Result<(u16, Option<Account>)> {
        let end = Instant::now() + PATIENCE;
        loop {
            let read = match self.visitor.account(user).await {
                Err(_) if self.forgives => (503, None),
                read => read?,
            };
            if read.0 != 503 || !self.forgives || Instant::now() > end {
                return Ok(read);
            }
            seen.again += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Writes, and reads what was written.
    async fn visit(&mut self, user: i32) -> Result<()> {
        let invoice = self.next.fetch_add(1, Ordering::Relaxed);
        let began = Instant::now();
        let mut seen = Seen::default();
        let wrote = self.write(user, invoice, &mut seen).await;
        match &wrote {
            Ok((200, _)) => drop(seen.acknowledged.insert(invoice, user)),
            other => seen
                .failed
                .push(format!("writing {invoice} of {user}: {other:?}")),
        }
        seen.longest = began.elapsed();
        let began = Instant::now();
        match self.read(user, &mut seen).await {
            Ok((200, Some(account))) if wrote.is_err() || account.last == Some(invoice) => {}
            other => seen
                .failed
                .push(format!("reading of {user} after {invoice}: {other:?}")),
        }
        seen.longest = seen.longest.max(began.elapsed());
        let mut all = self
            .seen
            .lock()
            .map_err(|_| anyhow::anyhow!("a visitor panicked"))?;
        all.acknowledged.append(&mut seen.acknowledged);
        all.failed.append(&mut seen.failed);
        all.again += seen.again;
        all.unknown += seen.unknown;
        all.longest = all.longest.max(seen.longest);
        Ok(())
    }
}

/// A client of one gateway, with one connection.
pub struct Visitor {
    place: String,
    stream: Option<TcpStream>,
    /// The market that he names.
    market: Option<&'static str>,
}

impl Visitor {
    pub fn new(place: String) -> Self {
        Self {
            place,
            stream: None,
            market: None,
        }
    }

    /// Of this market, as `x-market` says.
    pub fn of(mut self, market: &'static str) -> Self {
        self.market = Some(market);
        self
    }

    /// What `user` sees of himself.
    pub async fn account(&mut self, user: i32) -> Result<(u16, Option<Account>)> {
        self.ask(&format!("GET /users/{user} HTTP/1.1\r\nhost: shop\r\n\r\n"))
            .await
    }

    /// Writes an invoice.
    pub async fn order(&mut self, user: i32, invoice: i32) -> Result<(u16, Option<Account>)> {
        let body = serde_json::to_string(&Order { invoice })?;
        let length = body.len();
        self.ask(&format!(
            "POST /users/{user}/invoices HTTP/1.1\r\nhost: shop\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
        .await
    }

    async fn ask(&mut self, request: &str) -> Result<(u16, Option<Account>)> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => TcpStream::connect(&self.place).await?,
        };
        let request = match self.market {
            None => request.to_owned(),
            Some(market) => request.replacen("\r\n", &format!("\r\nx-market: {market}\r\n"), 1),
        };
        stream.write_all(request.as_bytes()).await?;
        let mut read = Vec::new();
        let end = loop {
            let at = read.windows(4).position(|window| window == b"\r\n\r\n");
            if let Some(at) = at {
                break at + 4;
            }
            more(&mut stream, &mut read).await?;
        };
        let head = String::from_utf8(read[..end].to_vec())?.to_ascii_lowercase();
        let length = head
            .split("content-length: ")
            .nth(1)
            .and_then(|rest| rest.split("\r\n").next());
        let length: usize = length.unwrap_or("0").parse()?;
        while read.len() < end + length {
            more(&mut stream, &mut read).await?;
        }
        let status = head.get(9..12).context("a status")?.parse()?;
        if !head.contains("connection: close") {
            self.stream = Some(stream);
        }
        Ok((
            status,
            serde_json::from_slice(&read[end..end + length]).ok(),
        ))
    }
}

async fn more(stream: &mut TcpStream, read: &mut Vec<u8>) -> Result<()> {
    let mut piece = [0; 4096];
    let got = tokio::time::timeout(PATIENCE, stream.read(&mut piece)).await??;
    ensure!(
        got > 0,
        "the connection ended after {:?}",
        String::from_utf8_lossy(read)
    );
    read.extend_from_slice(&piece[..got]);
    Ok(())
}
