//! A site's private key: where it stands, and that nobody else can read it.

use std::path::{Path, PathBuf};

use ::link::IdentityError;
use ledger::key::{Pin, SiteKey};

use super::ConfigError;
use super::reader::Node;
use super::site::Site;

/// Where a site's private key stands: PKCS#8 PEM, Ed25519.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile {
    /// The file; a relative path is relative to the configuration.
    pub name: PathBuf,
    /// What it is called in messages: `site.beijing.key`.
    path: String,
    /// The configuration.
    file: PathBuf,
    /// The line in it.
    line: usize,
}

// === impl KeyFile ===

impl KeyFile {
    pub(super) fn read(node: &Node<'_>) -> Result<Self, ConfigError> {
        let mut table = node.table()?;
        let named = table.need("file")?;
        let name = named.string()?.to_owned();
        // Whoever writes the key itself here should not find it in an error again.
        if name.is_empty() || name.contains('\n') || name.contains("PRIVATE KEY") {
            return Err(named.error("expected the path of the site's key file"));
        }
        table.finish()?;
        Ok(Self {
            name: PathBuf::from(name),
            path: node.path.clone(),
            file: node.file().to_owned(),
            line: node.line,
        })
    }

    /// The file's whole path.
    pub fn place(&self) -> PathBuf {
        let folder = self.file.parent().unwrap_or(Path::new("."));
        folder.join(&self.name)
    }

    /// The key. Looks at the file now, so that that of a site which a command does not touch may be missing.
    ///
    /// # Errors
    /// Where it cannot be read, is no key, or others than its owner may read or write it.
    pub fn key(&self) -> Result<SiteKey, ConfigError> {
        let name = self.place();
        let place = format!("{}: the file {}", self.path, name.display());
        let refuse = |what: String, source| ConfigError::Secret {
            file: self.file.clone(),
            line: self.line,
            what,
            source,
        };
        let text = ::link::key_text(&name).map_err(|error| match error {
            IdentityError::Unreadable { source, .. } => {
                refuse(format!("{place} cannot be read"), Some(source))
            }
            IdentityError::Exposed { .. } => refuse(
                format!("{place} may be read by others than its owner: chmod 600 it"),
                None,
            ),
            other => refuse(other.to_string(), None),
        })?;
        SiteKey::from_pem(&text).map_err(|why| refuse(format!("{place} is {why}"), None))
    }
}

impl Site {
    /// The pins by which its key is known: the configured ones; without any, that of the configured key.
    ///
    /// # Errors
    /// A key that cannot be read where no pins are configured.
    pub fn pins(&self) -> Result<Vec<Pin>, ConfigError> {
        if let Some(pins) = self.link.as_ref().and_then(|link| link.pins.as_ref()) {
            return Ok(pins.iter().copied().collect());
        }
        let key = self.key.as_ref().map(KeyFile::key).transpose()?;
        Ok(key.iter().map(|key| key.public().pin()).collect())
    }
}
