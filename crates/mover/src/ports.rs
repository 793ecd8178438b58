//! Where later rooms plug into a move.
//!
//! What is stored does not change when they do: a decision's and a batch's `digest` is an object with a field for
//! each kind of store (`rows` today; `objects`, `messages`), and ledger entries are rows of `domicile.entry`.
//! Claims of unique names need no port here: they are rows of the home database, and travel as such.

use std::future::Future;
use std::pin::Pin;

use model::{BatchId, SiteName, UserKey};
use serde_json::{Map, Value};

/// A boxed future, so that ports can be chosen at run time.
pub type Soon<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The gateways' door: closed before a fence, so that requests wait instead of being refused, and opened after.
pub trait Door: Send + Sync {
    /// Holds back new requests of `users` and returns when every registered gateway has said so and requests in
    /// flight have ended, or their lease has. May be called again.
    fn close<'a>(
        &'a self,
        batch: &'a BatchId,
        users: &'a [UserKey],
    ) -> Soon<'a, Result<(), PortError>>;

    /// Lets requests of `users` go on, to `home`.
    fn open<'a>(
        &'a self,
        batch: &'a BatchId,
        users: &'a [UserKey],
        home: &'a SiteName,
    ) -> Soon<'a, ()>;
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

/// No gateway stands before the service.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoDoor;

impl Door for NoDoor {
    fn close<'a>(&'a self, _: &'a BatchId, _: &'a [UserKey]) -> Soon<'a, Result<(), PortError>> {
        Box::pin(async { Ok(()) })
    }

    fn open<'a>(&'a self, _: &'a BatchId, _: &'a [UserKey], _: &'a SiteName) -> Soon<'a, ()> {
        Box::pin(async {})
    }
}

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
