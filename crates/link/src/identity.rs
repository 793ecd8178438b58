//! A site's key: an Ed25519 key in a PKCS#8 PEM file that nobody else may read.
//!
//! The file is PKCS#8 version 1 (RFC 8410, section 7), which `openssl genpkey -algorithm ed25519` writes as well and
//! every library reads; version 2, with the public key in it, is read too.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::TryRng as _;
use rcgen::{KeyPair, PKCS_ED25519};
use rustls::crypto::ring::sign::any_eddsa_type;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::SigningKey;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::Pin;

/// A key file is some 120 bytes; whatever is longer than this is none.
const FILE_MAX: u64 = 16 << 10;

/// A site's key, and what follows from it. Neither `Debug` nor any error shows a part of it.
pub struct Identity {
    /// Signs the handshakes.
    pub(crate) signer: Arc<dyn SigningKey>,
    /// Signs the certificates.
    pub(crate) issuer: KeyPair,
    pin: Pin,
}

/// A fresh key that stands nowhere yet.
pub struct NewKey {
    pem: Zeroizing<String>,
}

/// Why there is no identity. Never carries a part of the key.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The file cannot be read.
    #[error("cannot read the key file {}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write the key file {}", file.display())]
    Unwritable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others than the owner may read or change the file.
    #[error(
        "the key file {} can be read or changed by others (mode {mode:04o}); take that away with `chmod 600 {}`, \
         and where somebody may have read it, make a new key (`domicile keys rotate`)",
        file.display(), file.display()
    )]
    Exposed {
        /// The file.
        file: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The text is no Ed25519 key.
    #[error(
        "{place} holds no Ed25519 private key in PKCS#8 PEM form (`-----BEGIN PRIVATE KEY-----`)"
    )]
    NotAKey {
        /// Where it stands.
        place: String,
    },
    /// The system has no randomness to give.
    #[error("the system gives no random bytes")]
    NoRandomness,
}

/// The text of a key file, which must be a file with mode 0600 or less; wiped where it is dropped.
///
/// # Errors
/// [`IdentityError::Unreadable`] and [`IdentityError::Exposed`].
pub fn key_text(file: &Path) -> Result<Zeroizing<String>, IdentityError> {
    let unreadable = |source| IdentityError::Unreadable {
        file: file.to_owned(),
        source,
    };
    let opened = File::open(file).map_err(unreadable)?;
    // Asked of what was opened: between two looks at a path another file can come to stand there.
    let mode = opened.metadata().map_err(unreadable)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Exposed {
            file: file.to_owned(),
            mode,
        });
    }
    let mut text = Zeroizing::new(String::with_capacity(1 << 10));
    opened
        .take(FILE_MAX)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    Ok(text)
}

// === impl Identity ===

impl Identity {
    /// Reads the key in `file`, which must be a file with mode 0600 or less.
    pub fn load(file: &Path) -> Result<Self, IdentityError> {
        let text = key_text(file)?;
        Self::read(&text, || format!("the key file {}", file.display()))
    }

    /// The identity of a key in PEM form.
    pub fn from_pem(text: &str) -> Result<Self, IdentityError> {
        Self::read(text, || "the text".to_owned())
    }

    fn read(text: &str, place: impl Fn() -> String) -> Result<Self, IdentityError> {
        // What the libraries say about a key that they refuse is left out: it may quote it.
        let refused = || IdentityError::NotAKey { place: place() };
        let der = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(|_| refused())?;
        let signer = any_eddsa_type(&der).map_err(|_| refused())?;
        let issuer =
            KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ED25519).map_err(|_| refused())?;
        let spki = signer.public_key().ok_or_else(refused)?;
        let pin = Pin::of_spki(&spki);
        Ok(Self {
            signer,
            issuer,
            pin,
        })
    }

    /// The pin by which peers know this key.
    pub fn pin(&self) -> Pin {
        self.pin
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("pin", &self.pin)
            .finish_non_exhaustive()
    }
}

// === impl NewKey ===

impl NewKey {
    /// Draws a key from the system's randomness.
    pub fn draw() -> Result<Self, IdentityError> {
        /// RFC 8410: a PKCS#8 of version 1, of Ed25519, whose 32 bytes follow.
        const BEFORE: [u8; 16] = [
            0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22,
            0x04, 0x20,
        ];
        let mut der = Zeroizing::new([0_u8; 48]);
        let (before, key) = der.split_at_mut(BEFORE.len());
        before.copy_from_slice(&BEFORE);
        rand::rngs::SysRng
            .try_fill_bytes(key)
            .map_err(|_| IdentityError::NoRandomness)?;
        let base64 = Zeroizing::new(STANDARD.encode(der.as_slice()));
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            *base64
        );
        Ok(Self {
            pem: Zeroizing::new(pem),
        })
    }

    /// The key as text, to be kept secret.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Writes it to `file`, readable by the owner alone and safe on disk when this returns. Never writes over a file.
    pub fn write(&self, file: &Path) -> Result<Identity, IdentityError> {
        let unwritable = |source| IdentityError::Unwritable {
            file: file.to_owned(),
            source,
        };
        let mut written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(file)
            .map_err(unwritable)?;
        let whole = written
            .write_all(self.pem.as_bytes())
            .and_then(|()| written.sync_all());
        if let Err(why) = whole {
            // Half a key would stand in the way of the next attempt. If it stays, that says so.
            let _ = std::fs::remove_file(file);
            return Err(unwritable(why));
        }
        Identity::load(file)
    }
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewKey(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePublicKey as _};

    use super::*;

    #[test]
    fn a_key_is_read_alike_by_both_libraries_that_sign_with_it() {
        let key = NewKey::draw().unwrap();
        let identity = Identity::from_pem(key.pem()).unwrap();
        let dalek = ed25519_dalek::SigningKey::from_pkcs8_pem(key.pem()).unwrap();
        let spki = dalek.verifying_key().to_public_key_der().unwrap();
        assert_eq!(identity.pin(), Pin::of_spki(spki.as_bytes()));
        assert_eq!(
            identity.issuer.public_key_raw(),
            dalek.verifying_key().as_bytes()
        );
    }

    #[test]
    fn a_written_key_is_the_owners_alone_and_is_never_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("site.key");
        let identity = NewKey::draw().unwrap().write(&file).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
        let again = NewKey::draw().unwrap().write(&file).unwrap_err();
        assert!(again.to_string().contains("site.key"), "{again}");
        assert_eq!(Identity::load(&file).unwrap().pin(), identity.pin());
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_with_the_mend() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("site.key");
        NewKey::draw().unwrap().write(&file).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o610, 0o666] {
            std::fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            let refused = Identity::load(&file).unwrap_err().to_string();
            assert!(
                refused.contains("chmod 600") && refused.contains("site.key"),
                "{refused}"
            );
        }
        std::fs::set_permissions(&file, Permissions::from_mode(0o400)).unwrap();
        Identity::load(&file).unwrap();
    }

    #[test]
    fn no_key_appears_in_debug_or_errors() {
        let key = NewKey::draw().unwrap();
        let secret = key.pem().lines().nth(1).unwrap().to_owned();
        let tail = &secret[22..];
        let identity = Identity::from_pem(key.pem()).unwrap();
        // Cut and bent keys are where a parser might quote what it read.
        let cut = key.pem().replace(&secret, &secret[..60]);
        let renamed = key.pem().replace("PRIVATE", "PUBLIC");
        let other = key.pem().replace("MC4CAQAwBQYDK2Vw", "MC4CAQAwBQYDK2Vx");
        let mut shown = format!("{key:?} {identity:?}");
        for text in [cut, renamed, other, secret.clone(), String::new()] {
            let error = Identity::from_pem(&text).unwrap_err();
            shown += &format!(" {error} {error:?}");
        }
        assert!(
            !shown.contains(tail) && !shown.contains(&tail[..12]),
            "{shown}"
        );
    }
}
