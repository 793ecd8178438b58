//! A place where the shop runs, as the application's own configuration knows it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls};

/// Longer than a loaded machine needs, shorter than a test's patience.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A site: its name, as Domicile's answers give it, and its home database.
#[derive(Clone, Debug)]
pub struct Site {
    /// `beijing`
    pub name: String,
    /// Connection URL of the application's role.
    pub url: String,
}

impl Site {
    /// A site called `name` whose database is at `url`.
    pub fn new(name: impl Into<String>, url: impl Into<String>) -> Site {
        Site {
            name: name.into(),
            url: url.into(),
        }
    }
}

/// A client together with the task that drives its connection; the task ends with it.
pub(crate) struct Connection {
    pub(crate) client: Client,
    driver: JoinHandle<()>,
}

impl Connection {
    pub(crate) async fn open(site: &Site) -> Result<Connection> {
        let mut config: Config = site
            .url
            .parse()
            .with_context(|| format!("the database URL of {} is wrong", site.name))?;
        config.connect_timeout(CONNECT_TIMEOUT);
        let (client, connection) = config
            .connect(NoTls)
            .await
            .with_context(|| format!("cannot connect to {}", site.name))?;
        let driver = tokio::spawn(async move {
            // Every error of the connection also reaches the client's calls.
            let _ = connection.await;
        });
        Ok(Connection { client, driver })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
