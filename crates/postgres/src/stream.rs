//! The change stream of a home database, transaction by transaction.

use std::collections::HashMap;
use std::time::Duration;

use model::table::HomeSchema;
use pgwire_replication::{PgWireError, ReplicationClient, ReplicationConfig, ReplicationEvent};
use tokio_postgres::config::Host;

use crate::connect::SESSION_OPTIONS;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::pgoutput;
use crate::transaction::{Assembler, Event, Transaction};

/// How many decoded events wait between the socket and us.
const EVENTS: usize = 8_192;

/// How much of one transaction is kept in memory; applying it takes as much again. The users of a larger one need a
/// fresh copy.
const TRANSACTION_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What the stream says.
#[derive(Debug)]
pub enum Said {
    /// A transaction committed.
    Committed(Transaction),
    /// Nothing more up to here.
    Idle(Lsn),
}

/// The open stream.
pub struct ChangeStream {
    client: ReplicationClient,
    assembler: Assembler,
    inside: bool,
}

impl ChangeStream {
    /// Streams from `slot`, from where it was last confirmed.
    pub async fn open(url: &str, slot: &str, publication: &str, home: &HomeSchema) -> Result<Self> {
        let config = replication_config(url, slot, publication)?;
        let client = ReplicationClient::connect(config)
            .await
            .map_err(stream_error)?;
        let keys: HashMap<u32, Vec<String>> = home
            .owned
            .iter()
            .map(|table| (table.oid, table.key.clone()))
            .collect();
        Ok(Self {
            client,
            assembler: Assembler::new(keys, TRANSACTION_BYTES_MAX),
            inside: false,
        })
    }

    /// The next thing that the stream says. Cancelling loses nothing.
    pub async fn next(&mut self) -> Result<Said> {
        loop {
            let event = self
                .client
                .recv()
                .await
                .map_err(stream_error)?
                .ok_or(Error::StreamClosed)?;
            let event = match event {
                ReplicationEvent::Begin { final_lsn, xid, .. } => {
                    self.inside = true;
                    Event::Begin {
                        final_lsn: Lsn(final_lsn.as_u64()),
                        xid,
                    }
                }
                ReplicationEvent::XLogData { data, .. } => Event::Row(pgoutput::decode(data)?),
                ReplicationEvent::Message {
                    transactional,
                    prefix,
                    content,
                    ..
                } => Event::Message {
                    transactional,
                    prefix,
                    content,
                },
                ReplicationEvent::Commit { lsn, end_lsn, .. } => {
                    self.inside = false;
                    Event::Commit {
                        lsn: Lsn(lsn.as_u64()),
                        end_lsn: Lsn(end_lsn.as_u64()),
                    }
                }
                ReplicationEvent::KeepAlive { wal_end, .. } if !self.inside => {
                    return Ok(Said::Idle(Lsn(wal_end.as_u64())));
                }
                ReplicationEvent::KeepAlive { .. } => continue,
                ReplicationEvent::StoppedAt { .. } => return Err(Error::StreamClosed),
            };
            if let Some(transaction) = self.assembler.feed(event)? {
                return Ok(Said::Committed(transaction));
            }
        }
    }

    /// Confirms everything up to `position`: it is durable at the target. Never goes back.
    pub fn confirm(&self, position: Lsn) {
        self.client
            .update_applied_lsn(pgwire_replication::Lsn::from_u64(position.0));
    }

    /// Ends the stream; what was confirmed is told to the server.
    pub async fn close(mut self) {
        // The stream may hold more than anybody will read: an orderly end is tried, not waited for.
        let _ = tokio::time::timeout(Duration::from_secs(5), self.client.shutdown()).await;
        self.client.abort();
    }
}

impl std::fmt::Debug for ChangeStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChangeStream")
            .field("inside", &self.inside)
            .finish_non_exhaustive()
    }
}

fn stream_error(error: PgWireError) -> Error {
    Error::Stream(Box::new(error))
}

fn replication_config(url: &str, slot: &str, publication: &str) -> Result<ReplicationConfig> {
    let unusable = |why: &str| {
        Error::Slot(format!(
            "this database URL does not serve for replication: {why}"
        ))
    };
    let config: tokio_postgres::Config = url.parse().map_err(|_| unusable("it cannot be read"))?;
    let user = config
        .get_user()
        .ok_or_else(|| unusable("it names no user"))?;
    let password = config
        .get_password()
        .map(|p| String::from_utf8_lossy(p).into_owned())
        .unwrap_or_default();
    let database = config.get_dbname().unwrap_or(user);
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        #[cfg(unix)]
        Some(Host::Unix(path)) => path.to_string_lossy().into_owned(),
        None => match config.get_hostaddrs().first() {
            Some(address) => address.to_string(),
            None => return Err(unusable("it names no host")),
        },
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let mut replication = ReplicationConfig::new(host, user, password, database, slot, publication)
        .with_port(port)
        .with_options(SESSION_OPTIONS)
        .with_buffer_size(EVENTS)
        .with_status_interval(Duration::from_secs(1))
        .with_application_name("domicile stream");
    replication.idle_wakeup_interval = Duration::from_secs(1);
    Ok(replication)
}
