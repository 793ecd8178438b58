//! `[token.NAME]`: what an issuer's tokens must be, and where its key stands.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ::gateway::identify::{Algorithm, Key, LEEWAY, LEEWAY_MAX, Verifier};
use ::link::IdentityError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::gateway::file;
use super::reader::Node;
use super::site::check_name;
use super::{ConfigError, quantity};

/// What the tokens of one issuer must be.
#[derive(Clone, Debug)]
pub struct Token {
    /// How they are signed; no other way is taken.
    pub algorithm: Algorithm,
    /// Where the key stands: a public key in PEM, or for `HS…` the shared secret in base64.
    pub key: KeyFrom,
    /// What `iss` must be, if anything.
    pub issuer: Option<String>,
    /// What `aud` must be or contain, if anything.
    pub audience: Option<String>,
    /// What `typ` must be; `None`: `JWT`, or absent.
    pub kind: Option<String>,
    /// What `kid` must be, if anything.
    pub key_id: Option<String>,
    /// How far clocks may be apart. Default 30 s, at most 5 min.
    pub leeway: Duration,
    /// How old they may be since `iat`; `None`: as old as `exp` lets them be.
    pub max_age: Option<Duration>,
    /// What its key is called in messages: `token.main.key`.
    path: String,
    /// The configuration.
    file: PathBuf,
    /// The line of the key in it.
    line: usize,
}

/// Where an issuer's key stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyFrom {
    /// In an environment variable.
    Env(String),
    /// In a file: its whole path.
    File(PathBuf),
}

pub(super) fn read(node: Option<Node<'_>>) -> Result<BTreeMap<String, Token>, ConfigError> {
    let mut tokens = BTreeMap::new();
    let Some(node) = node else {
        return Ok(tokens);
    };
    for (name, node) in node.table()?.rest() {
        check_name(&name, &node)?;
        tokens.insert(name, read_one(&node)?);
    }
    Ok(tokens)
}

fn read_one(node: &Node<'_>) -> Result<Token, ConfigError> {
    let mut table = node.table()?;
    let names = Algorithm::ALL.map(Algorithm::name).join(", ");
    let algorithm = table.need("algorithm")?;
    let algorithm = algorithm.read(&format!("one of {names}"), Algorithm::parse)?;
    let key = table.need("key")?;
    let key_from = read_key(&key)?;
    let mut text = |name| {
        let node = table.take(name);
        let full = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        node.map(|node| node.read("a text with something in it", full))
            .transpose()
    };
    let (issuer, audience) = (text("issuer")?, text("audience")?);
    let (kind, key_id) = (text("type")?, text("kid")?);
    let leeway = match table.take("leeway") {
        None => LEEWAY,
        Some(node) => {
            let most = |text: &str| whole_seconds(text).filter(|leeway| *leeway <= LEEWAY_MAX);
            node.read("whole seconds, at most \"5min\", as \"30s\"", most)?
        }
    };
    let max_age = table.take("max_age").map(|node| {
        let some = |text: &str| whole_seconds(text).filter(|age| !age.is_zero());
        node.read("whole seconds above zero, as \"10min\"", some)
    });
    let max_age = max_age.transpose()?;
    table.finish()?;
    Ok(Token {
        algorithm,
        key: key_from,
        issuer,
        audience,
        kind,
        key_id,
        leeway,
        max_age,
        path: key.path.clone(),
        file: key.file().to_owned(),
        line: key.line,
    })
}

/// Tokens count in seconds: a shorter time would be rounded in silence.
fn whole_seconds(text: &str) -> Option<Duration> {
    quantity::duration(text).filter(|time| time.subsec_nanos() == 0)
}

pub(super) fn read_key(node: &Node<'_>) -> Result<KeyFrom, ConfigError> {
    if !node.is_table() {
        // The text is not repeated: it may be the secret.
        return Err(node.error("expected { file = \"PATH\" } or { env = \"NAME\" }"));
    }
    let mut table = node.table()?;
    let (env, named) = (table.take("env"), table.take("file"));
    table.finish()?;
    match (env, named) {
        (Some(env), None) => {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let name = env.string()?;
            match !name.is_empty() && name.chars().all(plain) {
                true => Ok(KeyFrom::Env(name.to_owned())),
                false => Err(env.error("expected the name of an environment variable")),
            }
        }
        (None, Some(named)) => Ok(KeyFrom::File(file(&named)?)),
        _ => Err(node.error("expected one of file = \"PATH\" and env = \"NAME\"")),
    }
}

/// What is wrong with a secret, and the system's word on it. Nothing of the secret is in it.
pub(super) type NoSecret = (String, Option<std::io::Error>);

fn set(name: &str, environment: impl Fn(&str) -> Option<String>) -> Result<String, NoSecret> {
    let text = environment(name).filter(|text| !text.is_empty());
    text.ok_or_else(|| ("is not set".to_owned(), None))
}

// === impl KeyFrom ===

impl KeyFrom {
    /// Where it stands, for messages.
    pub(super) fn place(&self) -> String {
        match self {
            Self::Env(name) => format!("the environment variable {name}"),
            Self::File(name) => format!("the file {}", name.display()),
        }
    }

    /// The secret that stands there in base64. A file of secrets may be read by its owner alone.
    pub(super) fn secret(
        &self,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Vec<u8>, NoSecret> {
        let text = match self {
            Self::Env(name) => set(name, environment)?,
            Self::File(name) => {
                let text = ::link::key_text(name).map_err(|error| match error {
                    IdentityError::Unreadable { source, .. } => {
                        ("cannot be read".to_owned(), Some(source))
                    }
                    IdentityError::Exposed { .. } => {
                        let what = "may be read by others than its owner: chmod 600 it";
                        (what.to_owned(), None)
                    }
                    other => (other.to_string(), None),
                })?;
                text.as_str().to_owned()
            }
        };
        let letters: String = text.split_ascii_whitespace().collect();
        STANDARD.decode(letters).map_err(|_| {
            let what = "is not in base64, as `openssl rand -base64 64` writes secrets";
            (what.to_owned(), None)
        })
    }
}

// === impl Token ===

impl Token {
    /// What checks its tokens. Looks at the environment or the file now, so that a key that a command does not need may be
    /// missing.
    ///
    /// # Errors
    /// Where the key cannot be had or is none for the algorithm, or others may read a secret. Nothing of a key is in them.
    pub fn verifier(&self) -> Result<Verifier, ConfigError> {
        self.verifier_from(|name| std::env::var(name).ok())
    }

    /// As [`verifier`](Self::verifier), with the environment given.
    pub(super) fn verifier_from(
        &self,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Verifier, ConfigError> {
        let place = self.key.place();
        let refuse = |what: String, source| ConfigError::Key {
            file: self.file.clone(),
            line: self.line,
            what: format!("{}: {place} {what}", self.path),
            source,
        };
        let key = match self.algorithm.is_shared() {
            false => {
                let text = match &self.key {
                    KeyFrom::Env(name) => set(name, environment),
                    KeyFrom::File(name) => std::fs::read_to_string(name)
                        .map_err(|source| ("cannot be read".to_owned(), Some(source))),
                };
                let text = text.map_err(|(what, source)| refuse(what, source))?;
                Key::from_pem(self.algorithm, &text)
            }
            true => {
                let secret = self.key.secret(environment);
                let secret = secret.map_err(|(what, source)| refuse(what, source))?;
                Key::from_secret(self.algorithm, &secret)
            }
        };
        let key = key.map_err(|why| {
            let name = self.algorithm.name();
            refuse(format!("holds no key for {name}: it is {why}"), None)
        })?;
        Ok(Verifier {
            key,
            key_id: self.key_id.clone(),
            kind: self.kind.clone(),
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            leeway: self.leeway,
            max_age: self.max_age,
        })
    }
}
