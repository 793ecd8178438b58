//! Blocks: the pieces in which a transfer travels over the bulk connections.
//!
//! A frame is a header of 22 bytes (big-endian: transfer 8, number 8, length of the content 4, form 1, last 1) and the
//! payload. Every length is looked at before anything is allocated for it, and the decompressor writes into a buffer of
//! the announced length and cannot write beyond.

use std::io;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use thiserror::Error;
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation as _, OutBuffer};

use crate::transfer::TransferId;

/// The most content of a block, in bytes. Big enough that zstd finds what repeats, small enough that a handful of them
/// fills no memory, and that sending one again costs little.
pub const BLOCK_MAX: usize = 256 << 10;

/// The most that a payload may grow when it is decompressed. A sender who would exceed it sends the block as it is.
pub const RATIO_MAX: usize = 1_024;

/// The most history that a compressed block may ask to be kept, as a power of two: 1 MiB. No honest block needs more
/// than [`BLOCK_MAX`].
pub const WINDOW_LOG_MAX: u32 = 20;

/// zstd's level: the fastest of the ordinary ones.
const LEVEL: i32 = 1;

/// The bytes before the payload.
pub(crate) const HEADER: usize = 22;

/// The longest frame on a bulk connection.
pub(crate) const FRAME_MAX: usize = HEADER + BLOCK_MAX;

/// What a block is and where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub transfer: TransferId,
    /// Counts the blocks of the transfer from 0.
    pub number: u64,
    /// The content's length in bytes.
    pub length: u32,
    pub compressed: bool,
    /// No block of the transfer follows. Only such a block may be empty.
    pub last: bool,
}

/// A block as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    pub header: Header,
    pub payload: Bytes,
}

/// What is wrong with a frame; it ends the connection.
#[derive(Debug, Error)]
pub(crate) enum BlockError {
    #[error("a frame is too short for a block")]
    Short,
    #[error("a frame's header has a value that does not exist")]
    Header,
    #[error("an empty block that is not a transfer's last")]
    Empty,
    #[error("a block announces {0} bytes, more than a block may have")]
    TooLong(u32),
    #[error("a block announces {length} bytes in a payload of {payload}")]
    Ratio { length: u32, payload: usize },
    #[error("a block's payload is not the {0} bytes that it announces")]
    Length(u32),
    #[error("a block cannot be decompressed")]
    Corrupt(#[source] io::Error),
}

// === impl Packed ===

impl Packed {
    /// Packs content for the wire: compressed where that saves something.
    pub fn pack(transfer: TransferId, number: u64, content: Bytes, last: bool) -> io::Result<Self> {
        debug_assert!(content.len() <= BLOCK_MAX && (last || !content.is_empty()));
        let length = u32::try_from(content.len()).map_err(io::Error::other)?;
        let packed = match content.is_empty() {
            true => Vec::new(),
            false => zstd::bulk::compress(&content, LEVEL)?,
        };
        let smaller = packed.len() < content.len();
        let compressed = smaller && content.len() <= packed.len().saturating_mul(RATIO_MAX);
        let header = Header {
            transfer,
            number,
            length,
            compressed,
            last,
        };
        let payload = match compressed {
            true => Bytes::from(packed),
            false => content,
        };
        Ok(Self { header, payload })
    }

    /// The frame's bytes.
    pub fn encode(&self) -> Bytes {
        let mut frame = BytesMut::with_capacity(HEADER + self.payload.len());
        frame.put_u64(self.header.transfer.0);
        frame.put_u64(self.header.number);
        frame.put_u32(self.header.length);
        frame.put_u8(u8::from(self.header.compressed));
        frame.put_u8(u8::from(self.header.last));
        frame.put_slice(&self.payload);
        frame.freeze()
    }

    /// Reads a frame; everything that can be judged without decompressing has been when this returns.
    pub fn decode(mut frame: Bytes) -> Result<Self, BlockError> {
        if frame.len() < HEADER {
            return Err(BlockError::Short);
        }
        let flag = |byte| match byte {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(BlockError::Header),
        };
        let header = Header {
            transfer: TransferId(frame.get_u64()),
            number: frame.get_u64(),
            length: frame.get_u32(),
            compressed: flag(frame.get_u8())?,
            last: flag(frame.get_u8())?,
        };
        let (length, payload) = (header.length as usize, frame.len());
        if length > BLOCK_MAX {
            return Err(BlockError::TooLong(header.length));
        }
        if length == 0 && !header.last {
            return Err(BlockError::Empty);
        }
        match header.compressed {
            false if length != payload => Err(BlockError::Length(header.length)),
            true if length > payload.saturating_mul(RATIO_MAX) => Err(BlockError::Ratio {
                length: header.length,
                payload,
            }),
            _ => Ok(Self {
                header,
                payload: frame,
            }),
        }
    }

    /// The content.
    pub fn unpack(self) -> Result<Bytes, BlockError> {
        match self.header.compressed {
            false => Ok(self.payload),
            true => inflate(&self.payload, self.header.length),
        }
    }
}

/// Decompresses one zstd frame that must give exactly `length` bytes, and nothing may follow it.
fn inflate(payload: &[u8], length: u32) -> Result<Bytes, BlockError> {
    let mut decoder = Decoder::new().map_err(BlockError::Corrupt)?;
    decoder
        .set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))
        .map_err(BlockError::Corrupt)?;
    let mut content = vec![0; length as usize];
    let mut input = InBuffer::around(payload);
    let mut output = OutBuffer::around(content.as_mut_slice());
    loop {
        let before = (input.pos(), output.pos());
        let left = decoder
            .run(&mut input, &mut output)
            .map_err(BlockError::Corrupt)?;
        if left == 0 {
            break;
        }
        // Neither read nor written: the payload is cut short, or has more to give than was announced.
        if before == (input.pos(), output.pos()) {
            return Err(BlockError::Length(length));
        }
    }
    let whole = input.pos() == payload.len() && output.pos() == length as usize;
    match whole {
        true => Ok(Bytes::from(content)),
        false => Err(BlockError::Length(length)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(content: &[u8]) -> Packed {
        Packed::pack(TransferId(7), 3, Bytes::copy_from_slice(content), true).unwrap()
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    /// A frame as somebody else might make it.
    fn forged(length: u32, payload: &[u8]) -> Result<Bytes, BlockError> {
        let header = Header {
            transfer: TransferId(7),
            number: 0,
            length,
            compressed: true,
            last: false,
        };
        let payload = Bytes::copy_from_slice(payload);
        let packed = Packed { header, payload };
        Packed::decode(packed.encode())?.unpack()
    }

    #[test]
    fn content_comes_back_as_it_went_in() {
        let text = b"customer 17, Singapore; ".repeat(5_000);
        for content in [
            b"".as_slice(),
            b"x",
            &text,
            &noise(BLOCK_MAX),
            &vec![0; BLOCK_MAX],
        ] {
            let packed = pack(content);
            let read = Packed::decode(packed.encode()).unwrap();
            assert_eq!(read, packed);
            assert_eq!(read.unpack().unwrap(), content);
        }
    }

    #[test]
    fn what_does_not_shrink_or_shrinks_too_well_travels_as_it_is() {
        assert!(pack(&b"customer ".repeat(99)).header.compressed);
        assert!(!pack(&noise(10_000)).header.compressed);
        assert!(!pack(&vec![0; BLOCK_MAX]).header.compressed);
    }

    #[test]
    fn a_payload_that_gives_more_or_less_than_announced_is_refused() {
        let packed = zstd::bulk::compress(&[b'x'; 1_000], 1).unwrap();
        assert!(forged(1_000, &packed).is_ok());
        for length in [999, 1_001, 1] {
            assert!(forged(length, &packed).is_err(), "{length}");
        }
        let two = [packed.clone(), packed.clone()].concat();
        assert!(matches!(forged(2_000, &two), Err(BlockError::Length(_))));
        assert!(forged(1_000, &packed[..packed.len() - 1]).is_err());
        assert!(forged(1_000, &noise(500)).is_err());
    }

    #[test]
    fn bombs_are_refused_by_their_header() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).unwrap();
        assert!(bomb.len() < BLOCK_MAX);
        assert!(matches!(
            forged(64 << 20, &bomb),
            Err(BlockError::TooLong(_))
        ));
        assert!(forged(BLOCK_MAX as u32, &bomb).is_err());
        let tight = zstd::bulk::compress(&vec![0; BLOCK_MAX], 19).unwrap();
        assert!(matches!(
            forged(BLOCK_MAX as u32, &tight),
            Err(BlockError::Ratio { .. })
        ));
    }

    #[test]
    fn a_block_that_wants_a_long_history_is_refused() {
        use std::io::Write as _;
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        encoder.include_contentsize(false).unwrap();
        encoder.write_all(&noise(100_000)).unwrap();
        encoder.flush().unwrap();
        let long = encoder.finish().unwrap();
        assert!(matches!(
            forged(100_000, &long),
            Err(BlockError::Corrupt(_))
        ));
    }

    #[test]
    fn empty_blocks_and_unknown_flags_are_refused() {
        let mut frame = BytesMut::from(&pack(b"").encode()[..]);
        frame[HEADER - 1] = 0;
        assert!(matches!(
            Packed::decode(frame.clone().freeze()),
            Err(BlockError::Empty)
        ));
        frame[HEADER - 1] = 2;
        assert!(matches!(
            Packed::decode(frame.clone().freeze()),
            Err(BlockError::Header)
        ));
        let short = frame.freeze().slice(..HEADER - 1);
        assert!(matches!(Packed::decode(short), Err(BlockError::Short)));
    }
}
