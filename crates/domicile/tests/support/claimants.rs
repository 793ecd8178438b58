//! Two linked sites whose applications claim e-mail addresses.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use testbed::wait_until;
use tokio_postgres::Client;

use super::linked::{Linked, met};
use super::served::{Served, free_port, post_at};
use super::visitors::Gateways;
use super::{PATIENCE, SITES, World};

/// 40 bytes in base64.
const KEY: &str = "dG9wIHNlY3JldCB0b3Agc2VjcmV0IHRvcCBzZWNyZXQgdG9wIHNlY3JldA==";

/// Two linked sites with claims; the registry is at the first.
pub struct Claimed {
    pub gateways: Gateways,
    /// Where each site's applications claim.
    pub ports: [u16; 2],
    /// Who moves, if anybody does.
    pub movers: Vec<i32>,
}

// === impl Claimed ===

impl Claimed {
    /// A shop of `customers` at the first site, whose claims have that lease.
    pub async fn shop(name: &str, customers: u32, lease: &str) -> Result<Claimed> {
        let (linked, movers) = Linked::shop(name, customers).await?;
        let gateways = Gateways::new(linked).await?;
        let ports = [free_port().await?, free_port().await?];
        let world = &gateways.linked.world;
        let key = world.path("claims.key");
        std::fs::write(&key, KEY)?;
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600))?;
        for own in SITES {
            let path = world.path(&format!("{own}.toml"));
            let mut text = std::fs::read_to_string(&path)?;
            for (clients, port) in gateways.clients.iter().zip(ports) {
                let listen = format!("gateway = {{ listen = \"{clients}\", ");
                ensure!(text.contains(&listen), "no gateway in {text}");
                let claims = format!("{listen}claims = \"127.0.0.1:{port}\", ");
                text = text.replace(&listen, &claims);
            }
            let head = format!("[service.{}]\n", world.name);
            let claims = format!(
                "claims = {{ key = {{ file = \"claims.key\" }}, lease = \"{lease}\", names = {{ email = \"customer.email\" }} }}\n"
            );
            text = text.replace(&head, &format!("{head}{claims}"));
            std::fs::write(&path, text)?;
        }
        Ok(Claimed {
            gateways,
            ports,
            movers,
        })
    }

    pub fn world(&self) -> &World {
        &self.gateways.linked.world
    }

    /// Starts both daemons, and waits until names can be claimed.
    pub async fn serve(&self) -> Result<[Served; 2]> {
        let linked = &self.gateways.linked;
        let both = [linked.serve(0).await?, linked.serve(1).await?];
        met(&both).await?;
        let probe = self.world().path("probe");
        std::fs::write(probe, "")?;
        self.claim_until(1, "nobody@probe.example", 999_999, "probe")
            .await
            .with_context(|| format!("{}\n{}", both[0].log(), both[1].log()))?;
        Ok(both)
    }

    /// What the site's gateway answers; an error where it is not there, or breaks off.
    pub async fn ask(&self, site: usize, verb: &str, body: &Value) -> Result<(u16, Value)> {
        let path = format!("/v1/{}/{verb}", self.world().name);
        post_at(self.ports[site], &path, body).await
    }

    async fn wish(
        &self,
        site: usize,
        verb: &str,
        name: &str,
        user: i32,
        operation: &str,
    ) -> Result<(u16, Value)> {
        let body = json!({ "kind": "email", "name": name, "user": user, "operation": operation });
        self.ask(site, verb, &body).await
    }

    pub async fn claim(
        &self,
        site: usize,
        name: &str,
        user: i32,
        operation: &str,
    ) -> Result<(u16, Value)> {
        self.wish(site, "claim", name, user, operation).await
    }

    /// Claims, with the same operation as long as nobody answers or it is told to come again.
    pub async fn claim_until(
        &self,
        site: usize,
        name: &str,
        user: i32,
        operation: &str,
    ) -> Result<(u16, Value)> {
        let mut answer = (0, Value::Null);
        let waited = wait_until("a claim is answered", PATIENCE, async || {
            let Ok(answered) = self.claim(site, name, user, operation).await else {
                return Ok(false);
            };
            answer = answered;
            Ok(answer.0 != 503)
        });
        waited.await.with_context(|| format!("{answer:?}"))?;
        Ok(answer)
    }

    pub async fn release(
        &self,
        site: usize,
        name: &str,
        user: i32,
        operation: &str,
    ) -> Result<(u16, Value)> {
        self.wish(site, "release", name, user, operation).await
    }

    /// Whose the name is: user, site and state; `None` where it is nobody's.
    pub async fn locate(
        &self,
        site: usize,
        name: &str,
    ) -> Result<Option<(String, String, String)>> {
        let body = json!({ "kind": "email", "name": name });
        let (code, body) = self.ask(site, "locate", &body).await?;
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        match code {
            200 => Ok(Some((text("user"), text("site"), text("state")))),
            404 => Ok(None),
            other => anyhow::bail!("{other}: {body}"),
        }
    }

    /// Waits until the name is located so.
    pub async fn until(
        &self,
        site: usize,
        name: &str,
        wanted: Option<(i32, &str, &str)>,
    ) -> Result<()> {
        let wanted = wanted.map(|(user, at, state)| (user.to_string(), at.into(), state.into()));
        let mut last = None;
        let waited = wait_until("a name is located so", PATIENCE, async || {
            last = self.locate(site, name).await?;
            Ok(last == wanted)
        });
        waited
            .await
            .with_context(|| format!("{name}: {last:?} and not {wanted:?}"))
    }
}

/// Creates `user`, of the market that goes to the second site, with that address.
pub async fn create(application: &Client, user: i32, email: &str) -> Result<()> {
    let sql = "INSERT INTO customer (customer_id, first_name, last_name, country, email) VALUES ($1, 'A', 'B', 'IN', $2)";
    application.execute(sql, &[&user, &email]).await?;
    Ok(())
}
