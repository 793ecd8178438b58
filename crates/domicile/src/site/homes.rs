//! This site's home databases, as sources at other sites find them.

use std::sync::Arc;

use ::daemon::{Leading, Soon, Work, WorkError};
use model::table::HomeSchema;
use model::{ServiceName, SiteName};
use mover::failure::Failure as Told;
use mover::host::Host;
use mover::ports::RowsOnly;
use postgres::catalog::Catalog;
use postgres::preflight::Finding;
use remote::{Homes, Reception};
use serde::{Deserialize, Serialize};

use crate::commands::homes::Home;
use crate::commands::routes::{end, inspected};
use crate::config::Config;
use crate::exit::{Failure, Outcome};

/// What a source must know before it begins.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Description {
    /// The classified tables.
    pub schema: HomeSchema,
    /// The catalog.
    pub catalog: Catalog,
    /// What a look at the database finds.
    pub findings: Vec<Finding>,
}

/// The databases that the configuration names.
pub(super) struct SiteHomes {
    config: Arc<Config>,
    site: SiteName,
}

// === impl SiteHomes ===

impl SiteHomes {
    pub(super) fn new(config: Arc<Config>, site: SiteName) -> Self {
        Self { config, site }
    }

    async fn home(&self, name: &ServiceName) -> Outcome<Home> {
        let service = self.config.service(name)?;
        let home = Home::open_installed(name, service, &self.site, "arrivals").await?;
        home.refuse_standby(name)?;
        Ok(home)
    }

    async fn read(&self, name: &ServiceName) -> Outcome<Host> {
        let home = self.home(name).await?;
        Ok(Host {
            service: name.clone(),
            end: end(self.config.service(name)?, &home)?,
            manifests: Arc::new(RowsOnly),
        })
    }

    async fn described(&self, name: &ServiceName) -> Outcome<Vec<u8>> {
        let home = self.home(name).await?;
        let description = Description {
            schema: home.schema()?.clone(),
            findings: inspected(name, self.config.service(name)?, &home).await?,
            catalog: home.catalog,
        };
        postcard::to_stdvec(&description)
            .map_err(|error| Failure::new(crate::exit::Exit::Unreached, error))
    }

    fn told(&self, failure: Failure) -> Told {
        super::failure_of(&self.config, &self.site, &failure)
    }
}

impl Homes for SiteHomes {
    fn host<'a>(&'a self, service: &'a ServiceName) -> Soon<'a, Result<Host, Told>> {
        Box::pin(async move {
            self.read(service)
                .await
                .map_err(|failure| self.told(failure))
        })
    }

    fn describe<'a>(&'a self, service: &'a ServiceName) -> Soon<'a, Result<Vec<u8>, Told>> {
        Box::pin(async move {
            let described = self.described(service).await;
            described.map_err(|failure| self.told(failure))
        })
    }
}

/// Closes the doors of a service when this daemon does not lead it any more: whoever leads next receives.
pub(super) struct Doors(Arc<Reception>);

// === impl Doors ===

impl Doors {
    pub(super) fn new(reception: Arc<Reception>) -> Self {
        Self(reception)
    }
}

impl Work for Doors {
    fn name(&self) -> &'static str {
        "arrivals"
    }

    fn lead(&self, leading: Leading) -> Soon<'_, Result<(), WorkError>> {
        Box::pin(async move {
            leading.stop.cancelled().await;
            self.0.close(&leading.service);
            Ok(())
        })
    }
}
