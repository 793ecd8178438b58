//! `admin` of a site: where its daemon is asked how it is, and told what to do.

use std::path::{Path, PathBuf};

use super::ConfigError;
use super::link::host_and_port;
use super::reader::Node;

/// The admin API of a site's daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admin {
    /// The unix socket's path, whole; `None`: where `serve` puts it.
    pub socket: Option<PathBuf>,
    /// A TCP address, `host:port`, for health and metrics alone; `None`: nowhere.
    pub listen: Option<String>,
}

// === impl Admin ===

impl Admin {
    pub(super) fn read(node: &Node<'_>) -> Result<Self, ConfigError> {
        let mut table = node.table()?;
        let socket = table.take("socket").map(|node| {
            let name = node.read("a path", |text| (!text.is_empty()).then(|| text.to_owned()))?;
            // Relative to the configuration, as every path in it.
            let folder = node.file().parent().unwrap_or(Path::new("."));
            Ok(folder.join(name))
        });
        let listen = table.take("listen").map(|node| {
            let form = "HOST:PORT, as in \"127.0.0.1:9100\"";
            node.read(form, |text| host_and_port(text, 0).then(|| text.to_owned()))
        });
        let admin = Self {
            socket: socket.transpose()?,
            listen: listen.transpose()?,
        };
        table.finish()?;
        Ok(admin)
    }
}
