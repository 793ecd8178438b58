//! Issuers with real keys, and tokens of any form: signed with `ring`, put together by hand. The RSA key was made for these tests
//! and opens nothing.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use gateway::identify::{Algorithm, Key};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};

pub const RSA: &str = include_str!("rsa.pem");
pub const RSA_PUBLIC: &str = include_str!("rsa.pub.pem");
pub const RSA_1024_PUBLIC: &str = include_str!("rsa-1024.pub.pem");
pub const CERTIFICATE: &str = include_str!("certificate.pem");
pub const SECRET: &[u8] = b"sixty-four bytes that only the issuer and the gateway know, 6789";

/// When all this happens.
pub const NOW: i64 = 1_800_000_000;

pub fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW as u64)
}

pub enum Signer {
    Ed(Ed25519KeyPair),
    Ec(EcdsaKeyPair, &'static str),
    Rsa(RsaKeyPair, &'static dyn signature::RsaEncoding),
    Hmac(hmac::Key),
}

pub struct Issuer {
    pub algorithm: Algorithm,
    pub signer: Signer,
}

/// What stands before the key in X.509's form of it.
const ED25519: &str = "302a300506032b6570032100";
const P256: &str = "3059301306072a8648ce3d020106082a8648ce3d030107034200";
const P384: &str = "3076301006072a8648ce3d020106052b81040022036200";

impl Issuer {
    /// An issuer with a new key; of RSA the one that is kept.
    pub fn new(algorithm: Algorithm) -> Self {
        let random = SystemRandom::new();
        let ec = |scheme, prefix| {
            let key = EcdsaKeyPair::generate_pkcs8(scheme, &random).unwrap();
            Signer::Ec(
                EcdsaKeyPair::from_pkcs8(scheme, key.as_ref(), &random).unwrap(),
                prefix,
            )
        };
        let rsa = |encoding| {
            let body: String = RSA
                .lines()
                .filter(|line| !line.starts_with("---"))
                .collect();
            let der = STANDARD.decode(body).unwrap();
            Signer::Rsa(RsaKeyPair::from_pkcs8(&der).unwrap(), encoding)
        };
        let signer = match algorithm {
            Algorithm::EdDsa => {
                let key = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
                Signer::Ed(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap())
            }
            Algorithm::Es256 => ec(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, P256),
            Algorithm::Es384 => ec(&signature::ECDSA_P384_SHA384_FIXED_SIGNING, P384),
            Algorithm::Rs256 => rsa(&signature::RSA_PKCS1_SHA256),
            Algorithm::Rs384 => rsa(&signature::RSA_PKCS1_SHA384),
            Algorithm::Rs512 => rsa(&signature::RSA_PKCS1_SHA512),
            Algorithm::Ps256 => rsa(&signature::RSA_PSS_SHA256),
            Algorithm::Ps384 => rsa(&signature::RSA_PSS_SHA384),
            Algorithm::Ps512 => rsa(&signature::RSA_PSS_SHA512),
            Algorithm::Hs256 => Signer::Hmac(hmac::Key::new(hmac::HMAC_SHA256, SECRET)),
            Algorithm::Hs384 => Signer::Hmac(hmac::Key::new(hmac::HMAC_SHA384, SECRET)),
            Algorithm::Hs512 => Signer::Hmac(hmac::Key::new(hmac::HMAC_SHA512, SECRET)),
        };
        Self { algorithm, signer }
    }

    /// Its public key.
    pub fn pem(&self) -> String {
        match &self.signer {
            Signer::Ed(pair) => pem(ED25519, pair.public_key().as_ref()),
            Signer::Ec(pair, prefix) => pem(prefix, pair.public_key().as_ref()),
            Signer::Rsa(..) => RSA_PUBLIC.to_owned(),
            Signer::Hmac(_) => panic!("a shared secret has no public half"),
        }
    }

    /// What a gateway is given of it.
    pub fn key(&self) -> Key {
        match self.algorithm.is_shared() {
            true => Key::from_secret(self.algorithm, SECRET).unwrap(),
            false => Key::from_pem(self.algorithm, &self.pem()).unwrap(),
        }
    }

    pub fn sign(&self, signed: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.signer {
            Signer::Ed(pair) => pair.sign(signed).as_ref().to_vec(),
            Signer::Ec(pair, _) => pair.sign(&random, signed).unwrap().as_ref().to_vec(),
            Signer::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(*encoding, &random, signed, &mut signature)
                    .unwrap();
                signature
            }
            Signer::Hmac(key) => hmac::sign(key, signed).as_ref().to_vec(),
        }
    }

    /// A token of this header and these claims, both as they stand.
    pub fn token(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", b64(header), b64(claims));
        let signature = self.sign(signed.as_bytes());
        format!("{signed}.{}", b64(signature))
    }

    /// A plain token that is good for five minutes.
    pub fn good(&self, claims: &str) -> String {
        let header = format!(r#"{{"alg":"{}","typ":"JWT"}}"#, self.algorithm.name());
        self.token(&header, &format!(r#"{{{claims},"exp":{}}}"#, NOW + 300))
    }
}

pub fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A PEM of a key behind what X.509 writes before it, in hexadecimal digits.
pub fn pem(prefix: &str, key: &[u8]) -> String {
    let digits = prefix.as_bytes().chunks(2);
    let mut der: Vec<u8> = digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    der.extend_from_slice(key);
    let body = STANDARD.encode(der);
    let lines: Vec<_> = body
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        lines.join("\n")
    )
}
