//! `serve`, as a service manager runs it: daemons of two sites, several of one, their health and their ends.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use support::program::Ran;
use support::refusal::{SECRET, refusal};
use support::served::{Served, free_port, get_at, leads, sees};
use support::{Clusters, PATIENCE, SITES, World, linked};
use testbed::wait_until;

/// Two sites with keys and addresses, each with a configuration of its own that knows of its own database alone.
struct Linked {
    world: World,
    /// What stands in the key files: nobody may print it.
    keys: [String; 2],
}

impl Linked {
    async fn new(clusters: Arc<Clusters>, name: &str) -> Result<Linked> {
        let world = World::small_installed(clusters, name).await?;
        let pins = linked::keys(&world).await?;
        let mut keys = Vec::new();
        for site in SITES {
            let text = std::fs::read_to_string(world.path(&format!("{site}.key")))?;
            keys.push(text.lines().nth(1).context("a key")?.to_owned());
        }
        let ports = [free_port().await?, free_port().await?];
        let addresses = ports.map(|port| format!("127.0.0.1:{port}"));
        for (n, site) in SITES.into_iter().enumerate() {
            let text = world.small_configuration();
            let text = linked::with_link(&text, n, &ports, &addresses, &pins);
            // Beijing knows that Singapore has a database, and not where; Singapore does not even know of Beijing's,
            // which is the origin.
            let lines = text.lines().filter_map(|line| match line {
                other if n == 0 && other.starts_with("database.singapore") => {
                    Some("database.singapore = { env = \"NOBODY_SETS_THIS\" }")
                }
                other if n == 1 && other.starts_with("database.beijing") => None,
                other => Some(other),
            });
            let text: Vec<&str> = lines.collect();
            world.write(&format!("{site}.toml"), &text.join("\n"))?;
        }
        let keys = [keys[0].clone(), keys[1].clone()];
        Ok(Linked { world, keys })
    }

    /// Starts a daemon of a site that logs all that it can.
    async fn serve(&self, site: &str, name: &str) -> Result<Served> {
        let program = self.world.serving(&format!("{site}.toml"), site, name);
        self.world
            .served(program.env("RUST_LOG", "trace"), name)
            .await
    }

    /// No secret stands in `text`.
    fn expect_discreet(&self, text: &str) -> Result<()> {
        ensure!(!text.contains(SECRET), "a password was told");
        for key in &self.keys {
            ensure!(!text.contains(&key[20..50]), "a key was told");
        }
        Ok(())
    }
}

/// The number of the server's process that holds the leader's office.
const LEADER: &str = "SELECT a.pid FROM pg_stat_activity AS a JOIN pg_locks AS l USING (pid)
    WHERE a.datname = current_database() AND a.application_name = 'domicile daemon' AND l.locktype = 'advisory'";

/// Ends the session that holds the leader's office.
async fn end_session(world: &World, site: usize) -> Result<()> {
    let ended = world
        .value(site, &format!("SELECT pg_terminate_backend(({LEADER}))"))
        .await?;
    ensure!(ended == "true", "there was no session to end: {ended:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemons_of_two_sites_see_each_other_and_tell_no_secret() -> Result<()> {
    let linked = Linked::new(Clusters::shared().await?, "see").await?;
    let world = &linked.world;
    let beijing = linked.serve("beijing", "b").await?;
    let singapore = linked.serve("singapore", "s").await?;
    let mut told = String::new();
    for (one, peer) in [(&beijing, "singapore"), (&singapore, "beijing")] {
        let status = one
            .until("the peer is seen, with its policy", |status| {
                leads(status)
                    && sees(status, peer)
                    && status["peers"][0]["same_policy"]["see"] == true
            })
            .await?;
        let seen = &status["peers"][0];
        ensure!(seen["version"] == env!("CARGO_PKG_VERSION"), "{seen:#}");
        let offset = seen["clock_offset_ms"].as_i64().context("an offset")?;
        let trip = seen["round_trip_ms"].as_i64().context("a round trip")?;
        ensure!(
            offset.abs() <= trip + 2,
            "one clock, and {offset} ms between"
        );
        one.until_ready(200, "ready: leader of see").await?;
        let (code, metrics) = one.get("/metrics").await?;
        ensure!(code == 200);
        expect_metrics(&metrics)?;
        ensure!(
            metrics.contains(&format!("peer=\"{peer}\"}} 1.0")),
            "{metrics}"
        );
        told += &format!("{status}{metrics}");
    }

    // Another policy at one of them is seen by both.
    let another = "home = { SG = \"singapore\", IN = ";
    world.reconfigure("home = { IN = ", another)?;
    world.install_small_at(1).await?.expect(0)?;
    for one in [&beijing, &singapore] {
        one.until("the policies differ", |status| {
            status["peers"][0]["same_policy"]["see"] == false
        })
        .await?;
    }

    let (ran, log, _) = singapore.terminate().await?;
    ran.expect(0)?;
    beijing
        .until("the peer is gone", |status| {
            status["peers"][0]["connected"] == false
        })
        .await?;
    told += &log;
    let (ran, log, _) = beijing.terminate().await?;
    ran.expect(0)?;
    told += &log;
    ensure!(
        log.contains("\"level\":\"DEBUG\""),
        "it was to log everything"
    );
    linked.expect_discreet(&told)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_leader_is_killed_another_daemon_of_the_site_takes_over() -> Result<()> {
    let linked = Linked::new(Clusters::shared().await?, "change").await?;
    let beijing = linked.serve("beijing", "b").await?;
    let mut first = linked.serve("singapore", "s1").await?;
    first.until("the first leads", leads).await?;
    let mut second = linked.serve("singapore", "s2").await?;
    for time in 0..3 {
        second.until_ready(200, "ready: standby").await?;
        let status = second.status().await?;
        ensure!(
            !leads(&status) && status["link"]["state"] == "down",
            "{status:#}"
        );
        ensure!(status["services"][0]["led_by"].is_string(), "{status:#}");
        beijing
            .until("the leader is seen", |status| sees(status, "singapore"))
            .await?;
        let term = linked
            .world
            .value(1, "SELECT term FROM domicile.office WHERE name = 'daemon'")
            .await?;
        ensure!(
            term == (time + 1).to_string(),
            "one leader took the office at a time: {term}"
        );

        let began = Instant::now();
        first.running.kill().await?;
        second.until("the other leads", leads).await?;
        let took = began.elapsed();
        println!("taken over after {} ms", took.as_millis());
        ensure!(took < Duration::from_secs(10), "{took:?}");
        beijing
            .until("the new leader is seen", |status| sees(status, "singapore"))
            .await?;
        // The one that died is started again, under the same socket: what it left there is replaced.
        let name = if time % 2 == 0 { "s1" } else { "s2" };
        first = std::mem::replace(&mut second, linked.serve("singapore", name).await?);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_session_is_lost_steps_down_and_comes_back() -> Result<()> {
    let linked = Linked::new(Clusters::shared().await?, "session").await?;
    let beijing = linked.serve("beijing", "b").await?;
    let singapore = linked.serve("singapore", "s").await?;
    singapore.until("it leads", leads).await?;
    for _ in 0..3 {
        let before = singapore
            .until("it leads and is seen", |status| {
                leads(status) && sees(status, "beijing")
            })
            .await?;
        let term = before["services"][0]["term"].as_i64();
        end_session(&linked.world, 1).await?;
        singapore
            .until("it leads again, under a later term", |status| {
                leads(status) && status["services"][0]["term"].as_i64() > term
            })
            .await?;
    }
    beijing
        .until("they see each other again", |status| {
            sees(status, "singapore")
        })
        .await?;
    let (ran, log, _) = singapore.terminate().await?;
    ran.expect(0)?;
    ensure!(log.matches("steps down").count() == 3, "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_alive_without_its_database_and_ready_with_it() -> Result<()> {
    let clusters = Clusters::own("health").await?;
    let world = World::small_installed(clusters, "health").await?;
    let database = &world.clusters.0[0];
    database.stop_immediate().await?;
    let beijing = world.serve("domicile.toml", "beijing", "b").await?;
    for _ in 0..2 {
        beijing
            .until_ready(503, "not ready: health: database not reached")
            .await?;
        ensure!(beijing.get("/healthz").await?.0 == 200);
        database.start_again().await?;
        beijing.until_ready(200, "ready: leader of health").await?;
        database.stop_immediate().await?;
    }
    let status = beijing
        .until("it does not lead", |status| !leads(status))
        .await?;
    ensure!(!status.to_string().contains(SECRET), "{status:#}");
    let (ran, _, took) = beijing.terminate().await?;
    ran.expect(0)?;
    ensure!(took < Duration::from_secs(10), "{took:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_it_in_order() -> Result<()> {
    let world = World::small_installed(Clusters::shared().await?, "ends").await?;
    // As systemd starts it: it is told of readiness, life and end.
    let manager = tokio::net::UnixDatagram::bind(world.path("notify"))?;
    let program = world
        .serving("domicile.toml", "beijing", "b")
        .env("NOTIFY_SOCKET", world.path("notify"));
    let beijing = world.served(program, "b").await?;
    beijing.until("it leads", leads).await?;
    let socket = beijing.socket.clone();
    ensure!(socket.exists());
    let mut said = String::new();
    let hear = |said: &mut String| {
        let mut buffer = [0; 1024];
        while let Ok(length) = manager.try_recv(&mut buffer) {
            *said += &String::from_utf8_lossy(&buffer[..length]);
            *said += "\n";
        }
    };
    wait_until("it gives a sign of life", PATIENCE, async || {
        hear(&mut said);
        Ok(said.contains("WATCHDOG=1"))
    })
    .await?;
    let (ran, log, took) = beijing.terminate().await?;
    let ran = ran.expect(0)?;
    println!("ended after {} ms", took.as_millis());
    ensure!(took < Duration::from_secs(10), "{took:?}");
    ensure!(!socket.exists(), "the socket is left");
    ensure!(ran.stdout.is_empty(), "{ran}");
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        ensure!(
            line["level"].is_string() && line["timestamp"].is_string(),
            "{line}"
        );
    }
    // The office is free: nothing of the process is left at the server.
    world.wait_for(0, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'domicile daemon'", "0").await?;
    hear(&mut said);
    for wanted in [
        "READY=1",
        "STATUS=leader of ends",
        "WATCHDOG=1",
        "STOPPING=1",
    ] {
        ensure!(said.contains(wanted), "{wanted} was not said: {said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_metrics_are_served_over_tcp_and_nothing_else() -> Result<()> {
    let world = World::small_installed(Clusters::shared().await?, "tcp").await?;
    let port = free_port().await?;
    let admin = format!("[site.beijing]\nadmin = {{ listen = \"127.0.0.1:{port}\" }}\n");
    world.reconfigure("[site.beijing]\n", &admin)?;
    let beijing = world.serve("domicile.toml", "beijing", "b").await?;
    beijing.until_ready(200, "ready: leader of tcp").await?;
    for path in ["/healthz", "/readyz", "/metrics"] {
        ensure!(get_at(port, path).await?.0 == 200, "{path}");
    }
    let (_, metrics) = get_at(port, "/metrics").await?;
    expect_metrics(&metrics)?;
    for wanted in [
        "domicile_leader{site=\"beijing\",service=\"tcp\"} 1.0",
        "domicile_database_reached{site=\"beijing\",service=\"tcp\"} 1.0",
        "domicile_terms_total{site=\"beijing\",service=\"tcp\"} 1",
        &format!(
            "domicile_build_info{{version=\"{}\"}} 1",
            env!("CARGO_PKG_VERSION")
        ),
    ] {
        ensure!(metrics.contains(wanted), "{wanted}: {metrics}");
    }
    for path in ["/status", "/", "/apply"] {
        ensure!(get_at(port, path).await?.0 == 404, "{path}");
    }
    ensure!(beijing.get("/status").await?.0 == 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_not_the_sites_home_is_not_led() -> Result<()> {
    let world = World::small_installed(Clusters::shared().await?, "other").await?;
    // Beijing's daemon with Singapore's database.
    let text = world.small_configuration();
    let (own, wrong) = (world.mover_url(0), world.mover_url(1));
    let secret = |url: &str| url.replace('@', &format!(":{SECRET}@"));
    world.write("wrong.toml", &text.replace(&secret(&own), &secret(&wrong)))?;
    let beijing = world.serve("wrong.toml", "beijing", "b").await?;
    let status = beijing
        .until("it says what is wrong", |status| {
            let why = status["services"][0]["why"].as_str();
            why.is_some_and(|why| why.contains("installed as the home of other at singapore"))
        })
        .await?;
    ensure!(!leads(&status), "{status:#}");
    ensure!(
        world
            .value(
                1,
                "SELECT count(*) FROM domicile.office WHERE name = 'daemon'"
            )
            .await?
            == "0"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_use_and_wrong_settings_are_refused_at_once() -> Result<()> {
    let linked = Linked::new(Clusters::shared().await?, "wrong").await?;
    let world = &linked.world;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let busy = taken.local_addr()?;
    let text = std::fs::read_to_string(world.path("beijing.toml"))?;
    let own = "[site.beijing]\n";
    let admin = |what: &str| text.replace(own, &format!("{own}admin = {{ {what} }}\n"));
    world.write("admin.toml", &admin(&format!("listen = \"{busy}\"")))?;
    world.write("folder.toml", &admin("socket = \"nowhere/a.sock\""))?;
    world.write("file.toml", &admin("socket = \"beijing.toml\""))?;
    world.write("unknown.toml", &admin("sokket = \"a.sock\""))?;
    world.write(
        "keyless.toml",
        &text.replace("key = { file = \"beijing.key\" }\n", ""),
    )?;
    world.write("gone.toml", &text.replace("beijing.key", "gone.key"))?;
    world.write("exposed.toml", &text.replace("beijing.key", "exposed.key"))?;
    std::fs::copy(world.path("beijing.key"), world.path("exposed.key"))?;
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(world.path("exposed.key"), open)?;
    // Beijing dials; where it has no address it is dialled, and where it listens nowhere that cannot be.
    let singapore = std::fs::read_to_string(world.path("singapore.toml"))?;
    let line = singapore
        .lines()
        .filter(|line| line.starts_with("link = "))
        .nth(1);
    let line = line.context("the link of singapore")?;
    let (_, rest) = line.split_once("address").context("an address")?;
    world.write(
        "deaf.toml",
        &singapore.replace(line, &format!("link = {{ address{rest}")),
    )?;
    let place = &line["link = { ".len()..line.len() - rest.len() - "address".len()];
    let busy_link = singapore.replace(place, &format!("listen = \"{busy}\", "));
    world.write("link.toml", &busy_link)?;

    let answering = world.serve("beijing.toml", "beijing", "b").await?;
    let at = |file: &'static str, site: &'static str| async move {
        let args = ["--config", file, "serve", "--site", site];
        world.program(&args).run().await
    };
    let hold = |ran: &Ran, says: &[&str]| -> Result<()> {
        linked.expect_discreet(&ran.stderr)?;
        refusal(2, says).hold(ran)
    };
    hold(
        &at("beijing.toml", "tokyo").await?,
        &["tokyo", "beijing, mumbai, singapore"],
    )?;
    hold(
        &at("beijing.toml", "mumbai").await?,
        &["no service has a database at mumbai"],
    )?;
    hold(
        &at("beijing.toml", "singapore").await?,
        &["NOBODY_SETS_THIS is not set"],
    )?;
    hold(&at("absent.toml", "beijing").await?, &["absent.toml"])?;
    hold(
        &at("admin.toml", "beijing").await?,
        &["cannot listen on", "in use", "admin = {"],
    )?;
    hold(
        &at("folder.toml", "beijing").await?,
        &["nowhere/a.sock", "--socket"],
    )?;
    hold(
        &at("file.toml", "beijing").await?,
        &["beijing.toml", "no socket stands there"],
    )?;
    hold(
        &at("unknown.toml", "beijing").await?,
        &["unknown key `sokket`", "`socket`"],
    )?;
    hold(
        &at("keyless.toml", "beijing").await?,
        &["names no key file of beijing", "keys new"],
    )?;
    hold(
        &at("gone.toml", "beijing").await?,
        &["gone.key cannot be read"],
    )?;
    hold(
        &at("exposed.toml", "beijing").await?,
        &["exposed.key", "chmod 600"],
    )?;
    hold(
        &at("deaf.toml", "singapore").await?,
        &["listens nowhere", "listen = "],
    )?;
    hold(
        &at("link.toml", "singapore").await?,
        &["cannot listen on", "in use", "link = {"],
    )?;
    let second = world.serving("beijing.toml", "beijing", "b").run().await?;
    hold(&second, &["another daemon", "--socket PATH"])?;
    let gateway = world.program(&["serve", "--site", "beijing", "--role", "gateway"]);
    hold(
        &gateway.run().await?,
        &["no gateway of beijing", "gateway = { listen"],
    )?;
    let wordy = world.program(&["serve", "--site", "beijing", "--log", "a=b=c"]);
    hold(&wordy.run().await?, &["--log takes a level"])?;
    // Whatever was refused left the one that runs alone.
    wait_until("it answers", PATIENCE, async || {
        Ok(answering.get("/healthz").await?.0 == 200)
    })
    .await
}

/// The text is what Prometheus reads (OpenMetrics 1.0): families with type and help, samples of them with a number, the end.
fn expect_metrics(text: &str) -> Result<()> {
    let mut family = String::new();
    let (mut help, mut samples) = (std::collections::BTreeSet::new(), 0);
    let (body, end) = text.split_at(text.len().saturating_sub("# EOF\n".len()));
    ensure!(end == "# EOF\n", "{text}");
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.split(' ');
            let (kind, name) = (words.next(), words.next().context("a name")?);
            ensure!(name.starts_with("domicile_"), "{line}");
            family = name.to_owned();
            if kind == Some("HELP") {
                ensure!(help.insert(name.to_owned()), "twice: {line}");
            }
            continue;
        }
        let (name, value) = line.rsplit_once(' ').context("a sample")?;
        let (name, labels) = name.split_once('{').unwrap_or((name, ""));
        ensure!(
            name.starts_with(&family) && help.contains(&family),
            "{line}"
        );
        let keys = labels
            .trim_end_matches('}')
            .split(',')
            .filter(|one| !one.is_empty());
        for key in keys.filter_map(|one| one.split('=').next()) {
            ensure!(
                [
                    "site", "service", "peer", "version", "alert", "home", "market", "le"
                ]
                .contains(&key),
                "{line}"
            );
        }
        value.parse::<f64>().with_context(|| line.to_owned())?;
        samples += 1;
    }
    ensure!(samples > 3, "{text}");
    Ok(())
}
