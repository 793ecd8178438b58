//! Issuers' keys. Each is good for one algorithm, which is settled where it is read and never by a token (RFC 8725, 3.1).

use std::fmt;

use ring::{hmac, signature};
use thiserror::Error;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// How tokens are signed: the names of RFC 7518 and RFC 8037. `none` is not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Ed25519.
    EdDsa,
    /// ECDSA over P-256.
    Es256,
    /// ECDSA over P-384.
    Es384,
    /// RSA, PKCS #1 v1.5.
    Rs256,
    /// RSA, PKCS #1 v1.5.
    Rs384,
    /// RSA, PKCS #1 v1.5.
    Rs512,
    /// RSA, PSS.
    Ps256,
    /// RSA, PSS.
    Ps384,
    /// RSA, PSS.
    Ps512,
    /// A secret that the issuer shares.
    Hs256,
    /// A secret that the issuer shares.
    Hs384,
    /// A secret that the issuer shares.
    Hs512,
}

/// A key with the one algorithm that it is good for. `Debug` shows the algorithm alone.
pub struct Key {
    algorithm: Algorithm,
    form: Form,
}

enum Form {
    Secret(hmac::Key),
    /// PKCS #1 of an RSA key, the uncompressed point of a curve, the 32 bytes of Ed25519: as `ring` takes them.
    Public(&'static dyn signature::VerificationAlgorithm, Vec<u8>),
}

/// Why a text is no key for its algorithm. Says what to do; quotes nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadKey {
    /// No PEM, or more than one block.
    #[error("not one PEM block \"PUBLIC KEY\"; `openssl pkey -pubout` writes it")]
    NotPem,
    /// The private half.
    #[error(
        "a private key; a gateway checks tokens and makes none: give it the public half alone, which `openssl pkey -pubout` writes"
    )]
    Private,
    /// A certificate.
    #[error(
        "a certificate, whose dates and issuer nobody would look at; `openssl x509 -pubkey -noout` writes its key"
    )]
    Certificate,
    /// A key of another kind, or on another curve.
    #[error("a key of another kind than the algorithm's")]
    Kind,
    /// An RSA key of a size that is refused.
    #[error("an RSA key of less than 2048 or more than 8192 bits")]
    RsaSize,
    /// A secret that is guessed more easily than the hash.
    #[error("a secret of fewer bytes than its hash has")]
    Short,
    /// A PEM where a secret should be: the mistake behind which public keys become secrets.
    #[error("a PEM, and no secret")]
    PemSecret,
}

// === impl Algorithm ===

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::EdDsa,
        Self::Es256,
        Self::Es384,
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Hs256,
        Self::Hs384,
        Self::Hs512,
    ];

    /// Its name in a token's `alg`.
    pub fn name(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Hs256 => "HS256",
            Self::Hs384 => "HS384",
            Self::Hs512 => "HS512",
        }
    }

    /// The algorithm called `name`, exactly.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name)
    }

    /// Whether its key is a secret that the issuer shares.
    pub fn is_shared(self) -> bool {
        self.shared().is_some()
    }

    fn shared(self) -> Option<hmac::Algorithm> {
        match self {
            Self::Hs256 => Some(hmac::HMAC_SHA256),
            Self::Hs384 => Some(hmac::HMAC_SHA384),
            Self::Hs512 => Some(hmac::HMAC_SHA512),
            _ => None,
        }
    }

    /// How its public key verifies, and the key's algorithm and curve as X.509 names them.
    fn public(self) -> Option<(&'static dyn signature::VerificationAlgorithm, Kind)> {
        Some(match self {
            Self::EdDsa => (&signature::ED25519, Kind::Ed25519),
            Self::Es256 => (&signature::ECDSA_P256_SHA256_FIXED, Kind::P256),
            Self::Es384 => (&signature::ECDSA_P384_SHA384_FIXED, Kind::P384),
            Self::Rs256 => (&signature::RSA_PKCS1_2048_8192_SHA256, Kind::Rsa),
            Self::Rs384 => (&signature::RSA_PKCS1_2048_8192_SHA384, Kind::Rsa),
            Self::Rs512 => (&signature::RSA_PKCS1_2048_8192_SHA512, Kind::Rsa),
            Self::Ps256 => (&signature::RSA_PSS_2048_8192_SHA256, Kind::Rsa),
            Self::Ps384 => (&signature::RSA_PSS_2048_8192_SHA384, Kind::Rsa),
            Self::Ps512 => (&signature::RSA_PSS_2048_8192_SHA512, Kind::Rsa),
            Self::Hs256 | Self::Hs384 | Self::Hs512 => return None,
        })
    }
}

// === impl Key ===

impl Key {
    /// The public key in `pem`, one block `PUBLIC KEY` (X.509's SubjectPublicKeyInfo), for `algorithm`.
    ///
    /// # Errors
    /// Whatever is not such a key of the algorithm's kind, curve and size.
    pub fn from_pem(algorithm: Algorithm, pem: &str) -> Result<Self, BadKey> {
        let (scheme, kind) = algorithm.public().ok_or(BadKey::Kind)?;
        let (rest, block) = parse_x509_pem(pem.as_bytes()).map_err(|_| BadKey::NotPem)?;
        match block.label.as_str() {
            label if label.ends_with("PRIVATE KEY") => return Err(BadKey::Private),
            "CERTIFICATE" => return Err(BadKey::Certificate),
            "PUBLIC KEY" if !rest.windows(5).any(|window| window == b"-----") => {}
            _ => return Err(BadKey::NotPem),
        }
        let (rest, info) =
            SubjectPublicKeyInfo::from_der(&block.contents).map_err(|_| BadKey::NotPem)?;
        if !rest.is_empty() {
            return Err(BadKey::NotPem);
        }
        kind.check(&info)?;
        Ok(Self {
            algorithm,
            form: Form::Public(scheme, info.subject_public_key.data.to_vec()),
        })
    }

    /// The shared `secret`, as it stands, for `algorithm`.
    ///
    /// # Errors
    /// Where the algorithm has no shared secret, or this one is shorter than its hash (RFC 7518, 3.2) or a PEM.
    pub fn from_secret(algorithm: Algorithm, secret: &[u8]) -> Result<Self, BadKey> {
        let shared = algorithm.shared().ok_or(BadKey::Kind)?;
        if secret.windows(10).any(|window| window == b"-----BEGIN") {
            return Err(BadKey::PemSecret);
        }
        if secret.len() < shared.digest_algorithm().output_len() {
            return Err(BadKey::Short);
        }
        Ok(Self {
            algorithm,
            form: Form::Secret(hmac::Key::new(shared, secret)),
        })
    }

    /// What it is good for.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whether `signature` is this key's over `signed`.
    pub(super) fn signed(&self, signed: &[u8], signature: &[u8]) -> bool {
        match &self.form {
            Form::Secret(key) => hmac::verify(key, signed, signature).is_ok(),
            Form::Public(scheme, bytes) => {
                let key = signature::UnparsedPublicKey::new(*scheme, bytes);
                key.verify(signed, signature).is_ok()
            }
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.algorithm.name())
    }
}

/// What a public key is made of.
#[derive(Clone, Copy)]
enum Kind {
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl Kind {
    /// Whether `info` holds a key of this kind, by its object identifiers (RFC 3279, 5480 and 8410) and its size.
    fn check(self, info: &SubjectPublicKeyInfo<'_>) -> Result<(), BadKey> {
        let (name, curve) = match self {
            Self::Rsa => ("1.2.840.113549.1.1.1", None),
            Self::P256 => ("1.2.840.10045.2.1", Some("1.2.840.10045.3.1.7")),
            Self::P384 => ("1.2.840.10045.2.1", Some("1.3.132.0.34")),
            Self::Ed25519 => ("1.3.101.112", None),
        };
        if info.algorithm.algorithm.to_id_string() != name {
            return Err(BadKey::Kind);
        }
        if let Some(curve) = curve {
            let parameters = info.algorithm.parameters.as_ref();
            let named = parameters.and_then(|named| named.as_oid().ok());
            if named.is_none_or(|named| named.to_id_string() != curve) {
                return Err(BadKey::Kind);
            }
        }
        let bytes = &info.subject_public_key.data;
        let uncompressed = |length| bytes.len() == length && bytes.first() == Some(&4);
        match self {
            Self::P256 if !uncompressed(65) => Err(BadKey::Kind),
            Self::P384 if !uncompressed(97) => Err(BadKey::Kind),
            Self::Ed25519 if bytes.len() != 32 => Err(BadKey::Kind),
            Self::Rsa => match info.parsed() {
                Ok(PublicKey::RSA(key)) => {
                    let bytes = key.modulus.iter().skip_while(|byte| **byte == 0).count();
                    match (256..=1024).contains(&bytes) {
                        true => Ok(()),
                        false => Err(BadKey::RsaSize),
                    }
                }
                _ => Err(BadKey::Kind),
            },
            _ => Ok(()),
        }
    }
}
