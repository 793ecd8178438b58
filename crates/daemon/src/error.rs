//! What ends a daemon, or keeps it from starting. A database or a peer that is out of reach does neither.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a daemon cannot be, or not any longer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// The admin socket cannot be made.
    #[error("cannot make the admin socket {}", path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another daemon answers at the admin socket.
    #[error("another daemon is listening on the admin socket {}", path.display())]
    SocketTaken {
        /// Its path.
        path: PathBuf,
    },
    /// The address for health and metrics cannot be had.
    #[error("cannot listen on {address} for health and metrics")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The site's key cannot be used.
    #[error("the site's key cannot be used")]
    Key(#[from] link::IdentityError),
    /// The link's settings contradict each other, or its address cannot be had.
    #[error("the link cannot start")]
    Link(#[from] link::StartError),
    /// Two parts want to hear the same topic.
    #[error("two parts of the program want to hear topic {0}")]
    Topic(u8),
    /// The system does not let us hear signals.
    #[error("cannot hear signals")]
    Signals(#[source] io::Error),
}
