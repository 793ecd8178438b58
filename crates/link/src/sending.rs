//! The sender's end of a transfer.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::task::spawn_blocking;

use crate::block::{BLOCK_MAX, Packed};
use crate::shared::Shared;
use crate::transfer::{TransferError, TransferId};

/// A stream of bytes on its way to a peer. Dropped before [`finish`](Self::finish) it is given up, and the receiver
/// gets an error. It waits through broken connections, however long: put a time limit around it.
pub struct Sending {
    shared: Arc<Shared>,
    id: TransferId,
    gathered: BytesMut,
    /// False while a call is under way: one that was dropped half-way leaves a hole that nobody would see.
    whole: bool,
}

impl Sending {
    pub(crate) fn new(shared: Arc<Shared>, id: TransferId) -> Self {
        Self {
            shared,
            id,
            gathered: BytesMut::new(),
            whole: true,
        }
    }

    /// Its name, for the receiver.
    pub fn id(&self) -> TransferId {
        self.id
    }

    /// Sends `bytes` after those before. Waits while as much is under way as the receiver, and this peer's memory, have
    /// room for. Where a call is dropped half-way the transfer has failed: every later call says so.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), TransferError> {
        self.begin()?;
        while !bytes.is_empty() {
            let room = BLOCK_MAX - self.gathered.len();
            let part = bytes.split_to(room.min(bytes.len()));
            self.gathered.extend_from_slice(&part);
            if self.gathered.len() == BLOCK_MAX {
                self.block(false).await?;
            }
        }
        self.whole = true;
        Ok(())
    }

    /// Sends what is gathered, without waiting for more.
    pub async fn flush(&mut self) -> Result<(), TransferError> {
        self.begin()?;
        if !self.gathered.is_empty() {
            self.block(false).await?;
        }
        self.whole = true;
        Ok(())
    }

    /// Ends the transfer, and waits until all of it is in the receiver's memory. That says nothing of what he has done
    /// with it.
    pub async fn finish(mut self) -> Result<(), TransferError> {
        self.begin()?;
        self.block(true).await?;
        let id = self.id;
        self.shared
            .until(&self.shared.progress, |state| {
                let outgoing = state.outgoing.get_mut(&id)?;
                if outgoing.settled() {
                    // So that dropping the handle is not taken for giving up.
                    state.outgoing.remove(&id);
                    return Some(Ok(()));
                }
                outgoing.failed.map(Err)
            })
            .await
    }

    fn begin(&mut self) -> Result<(), TransferError> {
        match std::mem::take(&mut self.whole) {
            true => Ok(()),
            false => Err(TransferError::Interrupted),
        }
    }

    async fn block(&mut self, last: bool) -> Result<(), TransferError> {
        let number = self.shared.room(self.id).await?;
        let (id, content) = (self.id, self.gathered.split().freeze());
        // Beside the tasks that answer for the control connection: they must not wait for a compressor.
        let packed = spawn_blocking(move || Packed::pack(id, number, content, last)).await;
        let packed = packed.ok().and_then(Result::ok);
        self.shared.push(packed.ok_or(TransferError::Pack)?);
        Ok(())
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.shared.shut(self.id);
    }
}

impl std::fmt::Debug for Sending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sending")
            .field("id", &self.id)
            .field("to", &self.shared.site)
            .finish_non_exhaustive()
    }
}
