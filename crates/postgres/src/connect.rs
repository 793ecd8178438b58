//! Sessions with a home database, all alike: the text form of a value must mean the same in each.

use std::fmt;
use std::future::poll_fn;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::table::quote;
use tokio::sync::watch;
use tokio_postgres::config::Host;
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, Socket};

use crate::kept::Kept;

/// How long a connection may take, from the name's resolution to the last setting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// After this long without a word the kernel asks whether the server still stands: the default of two
/// hours would hold a move for as long after a silent death of the peer's machine.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

/// The oldest major version that has what a move needs.
pub(crate) const OLDEST: u32 = 14;

/// What every session pins, as `-c` options for the replication connection's start-up packet.
///
/// The names and values are those of [`connect`]'s sessions, apart from `client_encoding`, which a
/// start-up packet carries as a parameter of its own.
pub const SESSION_OPTIONS: &str = "-c DateStyle=ISO,MDY -c IntervalStyle=postgres -c TimeZone=UTC \
     -c extra_float_digits=3 -c bytea_output=hex -c lc_monetary=C -c array_nulls=on \
     -c xmloption=content -c standard_conforming_strings=on -c search_path=pg_catalog,pg_temp -c statement_timeout=0 -c lock_timeout=0 \
     -c idle_in_transaction_session_timeout=0 -c idle_session_timeout=0 \
     -c default_transaction_isolation=read\\ committed -c synchronous_commit=on -c row_security=off -c jit=off";

/// The same for a session that is already open, so that what the URL or the role sets is overridden.
/// `transaction_timeout` exists from 17 on.
const SESSION_SETTINGS: &str = "\
    SET client_encoding = 'UTF8'; SET DateStyle = 'ISO, MDY'; SET IntervalStyle = 'postgres'; \
    SET TimeZone = 'UTC'; SET extra_float_digits = 3; SET bytea_output = 'hex'; SET lc_monetary = 'C'; \
    SET array_nulls = on; SET xmloption = 'content'; \
    SET standard_conforming_strings = on; SET search_path = pg_catalog, pg_temp; \
    SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
    SET idle_session_timeout = 0; SET default_transaction_isolation = 'read committed'; \
    SET synchronous_commit = on; SET row_security = off; SET jit = off; \
    SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
     WHERE name = 'transaction_timeout'";

/// Why there is no session. Names host, port, database and role; never the password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The text is no connection string. It is not repeated, nor the parser's word on it: either may
    /// hold a part of the password.
    #[error("the database's URL is neither postgres://… nor key=value pairs that PostgreSQL knows")]
    Malformed,
    /// Nobody answered in time.
    #[error("no answer from {place} within {} s", CONNECT_TIMEOUT.as_secs())]
    TimedOut {
        /// Host, port, database and role.
        place: String,
    },
    /// The server, or the way to it, refused.
    #[error("cannot connect to {place}")]
    Refused {
        /// Host, port, database and role.
        place: String,
        /// The reason given.
        source: tokio_postgres::Error,
    },
    /// The server is older than what a move needs.
    #[error("PostgreSQL {version} at {place} is too old: {OLDEST} is the oldest that will do")]
    TooOld {
        /// Host, port, database and role.
        place: String,
        /// What the server says that it is.
        version: String,
    },
    /// Connected, but the session's settings could not be pinned.
    #[error("cannot pin the session's settings at {place}")]
    Settings {
        /// Host, port, database and role.
        place: String,
        /// The reason given.
        source: tokio_postgres::Error,
    },
}

/// A session with pinned settings. Derefs to [`Client`]; ends when it is dropped.
pub struct Session {
    client: Client,
    place: String,
    unconfirmed: Arc<AtomicU64>,
    kept: Arc<Kept>,
    bell: Bell,
}

/// Rings at every notification that a session hears, and when the session is lost. Clones ring each for itself.
#[derive(Clone, Debug)]
pub struct Bell(watch::Receiver<u64>);

/// The session, and with it its [`Bell`], is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session that listened is lost")]
pub struct Lost;

/// Opens a session as `application_name` `domicile <purpose>`.
///
/// `url` is a `postgres://` URL or `key=value` pairs. Takes at most ten seconds.
pub async fn connect(url: &str, purpose: &str) -> Result<Session, ConnectError> {
    let mut config = parse(url).ok_or(ConnectError::Malformed)?;
    config.application_name(format!("domicile {purpose}"));
    if config.get_keepalives_idle() > KEEPALIVE_IDLE {
        config.keepalives_idle(KEEPALIVE_IDLE);
    }
    let place = place(&config);
    match tokio::time::timeout(CONNECT_TIMEOUT, open(&config, place.clone())).await {
        Ok(opened) => opened,
        Err(_) => Err(ConnectError::TimedOut { place }),
    }
}

impl ConnectError {
    /// The SQLSTATE, where the server gave one.
    pub fn sqlstate(&self) -> Option<&SqlState> {
        match self {
            Self::Refused { source, .. } | Self::Settings { source, .. } => source.code(),
            Self::Malformed | Self::TimedOut { .. } | Self::TooOld { .. } => None,
        }
    }
}

/// `host:port/database as role`: what may be shown of a connection string.
pub fn redacted(url: &str) -> String {
    match parse(url) {
        Some(config) => place(&config),
        None => "an unreadable database URL".to_owned(),
    }
}

// === impl Session ===

impl Session {
    /// Host, port, database and role, for messages.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The statements that it keeps prepared. They may be had before a transaction borrows the session.
    pub fn kept(&self) -> Arc<Kept> {
        Arc::clone(&self.kept)
    }

    /// How many COMMITs of this session returned without their standbys' word.
    ///
    /// The server cancels such a wait and then *reports success*, with a warning. A caller for whom a
    /// commit must be durable compares the number before and after, and reads back if it grew. The
    /// warning is counted before the COMMIT's own result is handed over.
    pub fn unconfirmed_commits(&self) -> u64 {
        self.unconfirmed.load(Ordering::SeqCst)
    }

    /// Listens to the notifications of `channel`, too, from now on. What was committed before is not heard: look once, then wait.
    ///
    /// # Errors
    /// Where the server does not take it, or the session is lost.
    pub async fn listen(&self, channel: &str) -> Result<Bell, tokio_postgres::Error> {
        let listen = format!("LISTEN {}", quote(channel));
        self.client.batch_execute(&listen).await?;
        Ok(self.bell.clone())
    }
}

// === impl Bell ===

impl Bell {
    /// Takes what rang until now as heard. To be called before a look: what rings during it counts.
    pub fn hush(&mut self) {
        self.0.mark_unchanged();
    }

    /// Waits until it rings. A notification is a hint: whoever waits looks again after a bounded time, too.
    ///
    /// # Errors
    /// The session is lost: it will never ring again.
    pub async fn rung(&mut self) -> Result<(), Lost> {
        self.0.changed().await.map_err(|_| Lost)
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

async fn open(config: &Config, place: String) -> Result<Session, ConnectError> {
    let connected = config.connect(NoTls).await;
    let (client, connection) = connected.map_err(|source| ConnectError::Refused {
        place: place.clone(),
        source,
    })?;
    // Said at the start: an older server does not even know every setting that is pinned below.
    if let Some(version) = connection.parameter("server_version").filter(too_old) {
        let version = version.to_owned();
        return Err(ConnectError::TooOld { place, version });
    }
    let unconfirmed = Arc::new(AtomicU64::new(0));
    // The task has the only sender: when the connection ends, whoever waits for a notification wakes.
    let (rings, bell) = watch::channel(0);
    // Owned by the client: the connection ends, and the task with it, when the client is dropped.
    tokio::spawn(drive(
        connection,
        Arc::clone(&unconfirmed),
        rings,
        place.clone(),
    ));
    match client.batch_execute(SESSION_SETTINGS).await {
        Ok(()) => Ok(Session {
            client,
            place,
            unconfirmed,
            kept: Arc::default(),
            bell: Bell(bell),
        }),
        Err(source) => Err(ConnectError::Settings { place, source }),
    }
}

/// `13.4 (Debian 13.4-1)`, `14beta1`: by the number that it begins with; without one it may pass.
fn too_old(version: &&str) -> bool {
    let end = version.find(|c: char| !c.is_ascii_digit());
    let major = version[..end.unwrap_or(version.len())].parse::<u32>();
    major.is_ok_and(|major| major < OLDEST)
}

async fn drive(
    mut connection: Connection<Socket, tokio_postgres::tls::NoTlsStream>,
    unconfirmed: Arc<AtomicU64>,
    rings: watch::Sender<u64>,
    place: String,
) {
    while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
        match message {
            Ok(AsyncMessage::Notice(notice)) => {
                if is_unconfirmed_commit(&notice) {
                    unconfirmed.fetch_add(1, Ordering::SeqCst);
                    tracing::warn!(%place, "a commit returned without its standbys' word");
                }
            }
            Ok(AsyncMessage::Notification(_)) => rings.send_modify(|rung| *rung += 1),
            Ok(_) => {}
            // Whoever waits for an answer gets the error; here it would be told a second time.
            Err(error) => {
                tracing::debug!(%place, %error, "connection ended");
                return;
            }
        }
    }
}

/// The wait's warning, in whatever language the server speaks: its routine has one name.
fn is_unconfirmed_commit(notice: &DbError) -> bool {
    notice.routine() == Some("SyncRepWaitForLSN")
        || notice.message().contains("synchronous replication")
}

fn parse(url: &str) -> Option<Config> {
    let config: Config = url.parse().ok()?;
    // An @ in a password that is not written as %40 makes the password's end a part of the host.
    let torn = |host: &Host| matches!(host, Host::Tcp(name) if name.contains('@'));
    (!config.get_hosts().iter().any(torn)).then_some(config)
}

fn place(config: &Config) -> String {
    let ports = config.get_ports();
    let hosts = config.get_hosts().iter().enumerate().map(|(n, host)| {
        // One port stands for every host; none at all means PostgreSQL's own.
        let port = ports.get(n).or(ports.first()).copied().unwrap_or(5432);
        match host {
            Host::Tcp(name) => format!("{name}:{port}"),
            Host::Unix(path) => format!("{}:{port}", path.display()),
        }
    });
    let hosts = hosts.collect::<Vec<_>>().join(",");
    let role = config.get_user().unwrap_or("(this account)");
    format!("{hosts}/{} as {role}", config.get_dbname().unwrap_or(role))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_password() {
        let url = "postgres://mover:s3cret@db.example:6432/shop?sslmode=prefer";
        assert_eq!(redacted(url), "db.example:6432/shop as mover");
        let pairs = "host=db.example,db2.example user=mover password=s3cret dbname=shop";
        assert_eq!(
            redacted(pairs),
            "db.example:5432,db2.example:5432/shop as mover"
        );
    }

    #[test]
    fn versions_are_told_by_their_number() {
        for old in ["13.4 (Debian 13.4-1)", "9.6.24", "13devel"] {
            assert!(too_old(&old), "{old}");
        }
        for good in ["14.0", "14beta1", "18.1 (Debian 18.1-1)", "of a fork"] {
            assert!(!too_old(&good), "{good}");
        }
    }

    #[tokio::test]
    async fn a_malformed_url_is_not_repeated() {
        for url in [
            "postgres://u:pa?ss@word@h/d",
            "host=h pass=s3cret",
            "s3cret",
        ] {
            assert_eq!(redacted(url), "an unreadable database URL");
            let error = connect(url, "test").await.expect_err("nonsense");
            assert!(!format!("{error:?}{error}").contains("s3cret"));
        }
    }
}
