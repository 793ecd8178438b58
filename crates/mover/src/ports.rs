//! Where later rooms plug into a move.
//!
//! What is stored does not change when they do: a decision's and a batch's `digest` is an object with a field for
//! each kind of store (`rows` today; `objects`, `messages`), and ledger entries are rows of `domicile.entry`.
//! Claims of unique names need no port here: they are rows of the home database, and travel as such.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use model::{BatchId, SiteName, UserKey};
use residency::closings::Opening;
use serde_json::{Map, Value};

/// A boxed future, so that ports can be chosen at run time.
pub type Soon<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The gateways' door: closed before a fence, so that requests wait instead of being refused, and opened after.
pub trait Door: Send + Sync {
    /// Whether any gateway may stand before the source. A cheap look, made before every fence; where none does, the door is neither closed nor opened,
    /// and the fence itself makes sure that none comes meanwhile. One that has fallen silent is waited for, a lease at most: here
    /// nobody is closed yet.
    fn attended(&self) -> Soon<'_, Result<bool, PortError>>;

    /// Holds back new requests of `users` and returns when every registered gateway has said so and requests in
    /// flight have ended, or its lease has. A batch is closed once; users may be closed again under another batch,
    /// however the door of an earlier one stands. False where that was not to be had within `patience`.
    ///
    /// # Errors
    /// Nobody can tell. As where it is false, the caller opens the door again.
    fn close<'a>(
        &'a self,
        batch: &'a BatchId,
        users: &'a [UserKey],
        patience: Duration,
    ) -> Soon<'a, Result<bool, PortError>>;

    /// Lets the requests of the batch's users go on, to where `opening` says. Where it does not succeed, gateways open by
    /// themselves, and look where the users live.
    fn open<'a>(&'a self, batch: &'a BatchId, opening: Opening) -> Soon<'a, ()>;
}

/// What a user has besides rows: objects, messages.
pub trait Manifests: Send + Sync {
    /// After the fence: the field names and digests of what `users` have at `site`, in their canonical form. Both
    /// sides' must be equal for a handoff to be accepted.
    fn digest<'a>(
        &'a self,
        site: &'a SiteName,
        users: &'a [UserKey],
    ) -> Soon<'a, Result<Map<String, Value>, PortError>>;
}

/// A port could not do its part: the batch goes back to moving and is tried again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PortError(pub String);

/// Users have rows and nothing else.
#[derive(Clone, Copy, Debug, Default)]
pub struct RowsOnly;

impl Manifests for RowsOnly {
    fn digest<'a>(
        &'a self,
        _: &'a SiteName,
        _: &'a [UserKey],
    ) -> Soon<'a, Result<Map<String, Value>, PortError>> {
        Box::pin(async { Ok(Map::new()) })
    }
}
