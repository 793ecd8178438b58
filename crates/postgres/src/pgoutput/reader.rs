//! Takes fields off the front of a message, never past its end.

use bytes::{Buf, Bytes};

use super::DecodeError;

pub(super) struct Reader(Bytes);

// === impl Reader ===

impl Reader {
    pub(super) fn new(data: Bytes) -> Self {
        Self(data)
    }

    pub(super) fn left(&self) -> usize {
        self.0.len()
    }

    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        self.0
            .try_get_u8()
            .map_err(|_| DecodeError::Truncated { what })
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        self.0
            .try_get_u32()
            .map_err(|_| DecodeError::Truncated { what })
    }

    pub(super) fn i32(&mut self, what: &'static str) -> Result<i32, DecodeError> {
        self.0
            .try_get_i32()
            .map_err(|_| DecodeError::Truncated { what })
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        self.0
            .try_get_u64()
            .map_err(|_| DecodeError::Truncated { what })
    }

    /// A 16-bit count, which the protocol sends as a signed number.
    pub(super) fn count(&mut self, what: &'static str) -> Result<usize, DecodeError> {
        let count = self
            .0
            .try_get_i16()
            .map_err(|_| DecodeError::Truncated { what })?;
        usize::try_from(count).map_err(|_| DecodeError::Invalid {
            what,
            value: count.into(),
        })
    }

    /// A text that a zero byte ends.
    pub(super) fn name(&mut self, what: &'static str) -> Result<String, DecodeError> {
        let end = self.0.iter().position(|byte| *byte == 0);
        let name = self.0.split_to(end.ok_or(DecodeError::Truncated { what })?);
        self.0.advance(1);
        String::from_utf8(name.into()).map_err(|_| DecodeError::NotUtf8 { what })
    }

    /// A 32-bit length and as many bytes.
    pub(super) fn value(&mut self) -> Result<Bytes, DecodeError> {
        let what = "a value's length";
        let length = self.i32(what)?;
        let size = usize::try_from(length).map_err(|_| DecodeError::Invalid {
            what,
            value: length.into(),
        })?;
        if size > self.0.len() {
            return Err(DecodeError::Truncated { what: "a value" });
        }
        Ok(self.0.split_to(size))
    }
}
