//! The receiver's end of a transfer.

use std::sync::Arc;

use bytes::Bytes;

use crate::shared::Shared;
use crate::transfer::{TransferError, TransferId};

/// A stream of bytes that comes from a peer. Dropped before its end, the sender gets an error.
pub struct Receiving {
    shared: Arc<Shared>,
    id: TransferId,
}

impl Receiving {
    pub(crate) fn new(shared: Arc<Shared>, id: TransferId) -> Self {
        Self { shared, id }
    }

    /// The next bytes, at most [`BLOCK_MAX`](crate::BLOCK_MAX), never none; `None` at the end. Their memory is the
    /// sender's to fill again once this has handed them on. Can be dropped half-way without losing anything.
    pub async fn next(&mut self) -> Result<Option<Bytes>, TransferError> {
        loop {
            match self.shared.next(self.id).await? {
                // The last block of a transfer may be empty.
                Some(content) if content.is_empty() => {}
                other => return Ok(other),
            }
        }
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.shared.leave(self.id);
    }
}

impl std::fmt::Debug for Receiving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiving")
            .field("id", &self.id)
            .field("from", &self.shared.site)
            .finish_non_exhaustive()
    }
}
