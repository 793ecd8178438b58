//! What a move tells whoever watches it.

use std::time::Duration;

use model::{BatchId, MoveId, ServiceName, SiteName, UserKey};
use serde::{Deserialize, Serialize};

/// Something that happened during a move. Carries no row values.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The move begins, or goes on after an interruption.
    Started {
        /// The move.
        r#move: MoveId,
        /// Its service.
        service: ServiceName,
        /// Where the users live.
        from: SiteName,
        /// Where they go.
        to: SiteName,
        /// Users still to move.
        users: u64,
        /// Their rows, as planned; 0 where unknown.
        rows: u64,
        /// Their bytes, as planned; 0 where unknown.
        bytes: u64,
        /// Whether this goes on with an interrupted move.
        resumed: bool,
    },
    /// Waiting for transactions that began before the enrolment.
    Barrier {
        /// How long it took.
        milliseconds: u64,
    },
    /// A chunk was copied.
    Copied {
        /// Users in it.
        users: u64,
        /// Rows copied.
        rows: u64,
        /// Bytes copied, in COPY's form.
        bytes: u64,
    },
    /// A batch changed home.
    HandedOff {
        /// The batch.
        batch: BatchId,
        /// Users in it.
        users: u64,
        /// Rows verified.
        rows: u64,
        /// From the fence's request to the target's commit.
        #[serde(rename = "pause_ms", with = "milliseconds")]
        pause: Duration,
        /// The part of the pause in which the fence waited for open transactions.
        #[serde(rename = "fence_ms", with = "milliseconds")]
        fence: Duration,
    },
    /// A batch was refused or given up; its users go again or are set aside.
    Retried {
        /// The batch.
        batch: BatchId,
        /// Why.
        reason: String,
    },
    /// A user stays where he is.
    SetAside {
        /// The user.
        user: UserKey,
        /// Why.
        reason: String,
    },
    /// The move holds still, as it was told to, until it is told to go on.
    Paused {
        /// The move.
        r#move: MoveId,
    },
    /// It goes on.
    Resumed {
        /// The move.
        r#move: MoveId,
    },
    /// The move has ended, as it was told to: whoever had not moved lives where he did.
    Aborted {
        /// The move.
        r#move: MoveId,
        /// Users moved by it, in this run: they stay moved.
        moved: u64,
    },
    /// The move has ended.
    Finished {
        /// The move.
        r#move: MoveId,
        /// Users moved by it, in this run.
        moved: u64,
        /// Users left, set aside.
        set_aside: u64,
    },
}

mod milliseconds {
    use std::time::Duration;

    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64((duration.as_secs_f64() * 1e6).round() / 1e3)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let milliseconds = f64::deserialize(from)?;
        Duration::try_from_secs_f64(milliseconds / 1e3).map_err(D::Error::custom)
    }
}

/// Watches a move. Called from the mover's tasks: must not block.
pub trait Observer: Send + Sync {
    /// Takes note of `event`.
    fn note(&self, event: &Event);
}
