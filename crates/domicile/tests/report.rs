//! What gateways counted, kept as history: before and after a market moved, and where another one would be served faster.

#![cfg(feature = "planted-faults")]

mod support;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use support::linked::{Linked, met};
use support::program::Program;
use support::served::Served;
use support::visitors::{Gateways, Visitor};
use support::{Clusters, SITES, World};
use tokio::task::JoinSet;

/// Clients at the same time.
const CLIENTS: usize = 8;

/// A shop of which India is to move, Germany named and to stay, and China not spoken of; requests name their market.
async fn shop(name: &str) -> Result<Gateways> {
    let markets = [("IN", 5), ("DE", 4), ("CN", 1)];
    let world = World::shop(Clusters::shared().await?, name, 80, &markets).await?;
    let homes = [("IN", "singapore"), ("DE", "beijing")];
    world.configure("domicile.toml", "out", &homes)?;
    world.install().await?;
    let gateways = Gateways::new(Linked::new(world).await?).await?;
    for site in SITES {
        let file = gateways.linked.world.path(&format!("{site}.toml"));
        let text = std::fs::read_to_string(&file)?;
        let user = "user = { segment = 2 }\n";
        let market = format!("{user}market = {{ header = \"x-market\" }}\n");
        std::fs::write(&file, text.replace(user, &market))?;
    }
    Ok(gateways)
}

async fn serve(gateways: &Gateways, user: i32) -> Result<[Served; 2]> {
    let linked = &gateways.linked;
    let both = [linked.serve(0).await?, linked.serve(1).await?];
    met(&both).await?;
    gateways.ready(user).await?;
    Ok(both)
}

/// Ends them as a service manager does; by then they have told what they counted.
async fn end(both: [Served; 2]) -> Result<()> {
    for served in both {
        let (ran, log, _) = served.terminate().await?;
        ran.expect(0)?;
        ensure!(!log.contains("history of requests"), "{log}");
    }
    Ok(())
}

/// So many requests of `users`, who name `market`, at the gateway of `site`; each is answered 200.
async fn come(
    gateways: &Gateways,
    site: usize,
    users: &[i32],
    market: &'static str,
    requests: usize,
) -> Result<()> {
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let place = gateways.clients[site].clone();
        let users: Vec<i32> = (client..requests)
            .step_by(CLIENTS)
            .map(|n| users[n % users.len()])
            .collect();
        clients.spawn(async move {
            let mut visitor = Visitor::new(place).of(market);
            for user in users {
                let (status, _) = visitor.account(user).await?;
                ensure!(status == 200, "{market} {user}: {status}");
            }
            Ok(())
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    Ok(())
}

async fn execute(gateways: &Gateways, site: usize, sql: &str) -> Result<()> {
    let admin = gateways.linked.world.admin(site).await?;
    Ok(admin.batch_execute(sql).await?)
}

async fn json(program: Program) -> Result<Value> {
    Ok(serde_json::from_str(
        &program.run().await?.expect(0)?.stdout,
    )?)
}

fn market<'a>(shown: &'a Value, market: &str) -> Result<&'a Value> {
    let all = shown["markets"].as_array().context("markets")?;
    let found = all.iter().find(|one| one["market"] == market);
    found.with_context(|| format!("{market}: {shown:#}"))
}

/// The windows of a market, with their requests.
fn windows(shown: &Value) -> Vec<(String, u64)> {
    let windows = shown["windows"].as_array().into_iter().flatten();
    let read = |window: &Value| {
        let name = window["window"].as_str().unwrap_or_default();
        (name.to_owned(), window["requests"].as_u64().unwrap_or(0))
    };
    windows.map(read).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_shows_a_move_and_suggests_another() -> Result<()> {
    let gateways = shop("reported").await?;
    let linked = &gateways.linked;
    let world = &linked.world;
    let india = world.users_of(0, "IN").await?;
    let germany = world.users_of(0, "DE").await?;
    let china = world.users_of(0, "CN").await?;

    let suggest = ["plan", "--suggest", "--json"];
    let nothing = linked.everywhere(&suggest).run().await?.expect(2)?;
    let error =
        "error: no request is in the history of the home databases that are known here\nmend: ";
    ensure!(nothing.stderr.contains(error), "{}", nothing.stderr);

    let both = serve(&gateways, india[0]).await?;
    come(&gateways, 0, &india, "IN", 200).await?;
    come(&gateways, 1, &india, "IN", 250).await?;
    come(&gateways, 1, &germany, "DE", 1000).await?;
    come(&gateways, 0, &china, "CN", 30).await?;
    end(both).await?;
    // Beijing lies behind a sea, and all that was an hour ago.
    let sea = "UPDATE domicile.traffic SET within = ARRAY[0, 0, 0, 0, 0, 0, 0, requests, 0, 0, 0, 0, 0] WHERE home = 'beijing'";
    execute(&gateways, 1, sea).await?;
    for site in [0, 1] {
        let ago = "UPDATE domicile.traffic SET at = at - interval '1 hour'";
        execute(&gateways, site, ago).await?;
    }
    // Whoever came in at singapore was served by beijing: what singapore would cost is not known.
    let early = json(linked.everywhere(&suggest)).await?;
    let germans = market(&early, "DE")?;
    ensure!(
        germans["proposed"].is_null() && early["toml"].is_null(),
        "{early:#}"
    );
    ensure!(
        germans["candidates"][1]["estimate_ms"].is_null(),
        "{early:#}"
    );

    let both = serve(&gateways, india[0]).await?;
    let ran = linked.apply(0).run().await?.expect(0)?;
    assert_eq!(ran.summary()?["moved"], india.len());
    let ago = "UPDATE domicile.batch_log SET departed_at = departed_at - interval '30 minutes'";
    execute(&gateways, 0, ago).await?;
    come(&gateways, 1, &india, "IN", 1100).await?;
    end(both).await?;

    let shown = json(linked.everywhere(&["report", "--json", "--out", "report.html"])).await?;
    let indians = market(&shown, "IN")?;
    let expected = [("before", 450), ("during", 0), ("after", 1100)];
    let expected = expected.map(|(window, requests)| (window.to_owned(), requests));
    assert_eq!(windows(indians), expected, "{shown:#}");
    assert_eq!(indians["moves"][0]["users"], india.len(), "{shown:#}");
    assert_eq!(indians["moves"][0]["from"], "beijing");
    assert_eq!(indians["moves"][0]["to"], "singapore");
    assert_eq!(indians["moves"][0]["phase"], "out");
    assert_eq!(indians["windows"][2]["failures"], 0);
    ensure!(indians["windows"][2]["p50"]["ms"].is_f64(), "{shown:#}");
    let stayed = |requests| [("throughout".to_owned(), requests)];
    assert_eq!(windows(market(&shown, "DE")?), stayed(1000), "{shown:#}");
    assert_eq!(windows(market(&shown, "other")?), stayed(30), "{shown:#}");
    ensure!(shown["not_read"].is_null(), "{shown:#}");
    let page = std::fs::read_to_string(world.path("report.html"))?;
    ensure!(page.contains(", IN</h2>"), "{page}");

    let recent = json(linked.everywhere(&["report", "--json", "--since", "45min"])).await?;
    assert_eq!(windows(market(&recent, "IN")?)[0], ("before".to_owned(), 0));

    let found = json(linked.everywhere(&suggest)).await?;
    let germans = market(&found, "DE")?;
    assert_eq!(germans["home"], "beijing");
    assert_eq!(germans["proposed"], "singapore", "{found:#}");
    assert_eq!(germans["requests"], 1000);
    // Behind the sea, but for the few that came in while gateways began.
    let now = germans["estimate_ms"].as_f64().context("a figure")?;
    ensure!((170.0..=175.0).contains(&now), "{found:#}");
    assert_eq!(germans["candidates"][0]["samples"], 1100, "{found:#}");
    let toml = found["toml"].as_str().context("what to write")?;
    ensure!(toml.contains("home = { \"DE\" = \"singapore\" }"), "{toml}");
    let people = linked.everywhere(&suggest[..2]).run().await?.expect(0)?;
    let text = "Nothing was changed.";
    ensure!(people.stdout.contains(text), "{}", people.stdout);

    // At a site the daemons ask each other, and say the same.
    let both = serve(&gateways, india[0]).await?;
    for site in [0, 1] {
        let told = json(linked.at(site, &["report", "--json"])).await?;
        assert_eq!(market(&told, "IN")?, indians);
        let told = json(linked.at(site, &suggest)).await?;
        assert_eq!(market(&told, "DE")?["proposed"], "singapore", "{told:#}");
    }
    end(both).await?;
    // One alone shows what came in there, and names the other.
    let alone = linked.at(0, &["report", "--json"]).run().await?.expect(3)?;
    let alone: Value = serde_json::from_str(&alone.stdout)?;
    assert_eq!(alone["not_read"][0]["site"], "singapore");
    let before = ("before".to_owned(), 200);
    assert_eq!(windows(market(&alone, "IN")?)[0], before);
    Ok(())
}
