//! The certificate that clients are shown, read again when its files change.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use ::gateway::site::Gateway;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::{Gateway as Settings, Tls};
use crate::exit::{Failure, Outcome};

/// How often the files are looked at. Certificates are renewed days before they end.
const EVERY: Duration = Duration::from_secs(10);

/// The files, and what was read from them.
pub(super) struct Front {
    files: Option<Tls>,
    read: Option<Arc<ServerConfig>>,
    stamp: Option<Stamp>,
}

/// When both files were written.
type Stamp = [SystemTime; 2];

// === impl Front ===

impl Front {
    /// Reads what `settings` name.
    pub fn new(settings: &Settings) -> Outcome<Self> {
        let Some(files) = &settings.tls else {
            return Ok(Self {
                files: None,
                read: None,
                stamp: None,
            });
        };
        let stamp = stamp(files);
        Ok(Self {
            read: Some(read(files)?),
            files: Some(files.clone()),
            stamp,
        })
    }

    /// What is shown first.
    pub fn shown(&self) -> RwLock<Option<Arc<ServerConfig>>> {
        RwLock::new(self.read.clone())
    }

    /// Looks for new files for ever. Those that cannot be read change nothing: the old certificate is shown on.
    pub async fn renew(mut self, gateway: Arc<Gateway>) {
        let Some(files) = self.files.take() else {
            return;
        };
        loop {
            tokio::time::sleep(EVERY).await;
            let stamp = stamp(&files);
            if stamp == self.stamp {
                continue;
            }
            match read(&files) {
                Ok(read) => {
                    self.stamp = stamp;
                    *gateway
                        .front
                        .write()
                        .unwrap_or_else(PoisonError::into_inner) = Some(read);
                    tracing::info!("the gateway shows a new certificate");
                }
                Err(why) => tracing::warn!(%why, "the gateway's new certificate cannot be used"),
            }
        }
    }
}

fn stamp(files: &Tls) -> Option<Stamp> {
    let written = |file: &Path| file.metadata().and_then(|found| found.modified()).ok();
    Some([written(&files.certificate)?, written(&files.key)?])
}

fn read(files: &Tls) -> Outcome<Arc<ServerConfig>> {
    let wrong = |file: &Path, why: &dyn std::fmt::Display| {
        Failure::usage(format_args!("{}: {why}", file.display()))
            .mend("gateway.tls names a certificate chain and its private key, both PEM")
    };
    let chain = CertificateDer::pem_file_iter(&files.certificate);
    let chain = chain.and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|why| wrong(&files.certificate, &why))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|why| wrong(&files.key, &why))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|why| wrong(&files.certificate, &why))?
        .with_no_client_auth()
        .with_single_cert(chain, key);
    let mut config = config.map_err(|why| wrong(&files.certificate, &why))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
