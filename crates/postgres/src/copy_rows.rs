//! Reads rows out of a `COPY … TO STDOUT (FORMAT binary)` stream, whatever its chunks.

use std::ops::Range;

/// What every binary COPY stream begins with.
const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
/// The signature, 32 bits of flags, 32 bits of the extension's length.
const HEADER_BYTES: usize = SIGNATURE.len() + 8;
/// Flag bits whose meaning must be known; an unknown one changes the format.
const CRITICAL_FLAGS: u32 = 0xFFFF_0000;
/// PostgreSQL defines no extension; this much is passed over should one come.
const EXTENSION_BYTES_MAX: u32 = 1 << 20;
/// A field of PostgreSQL is below 1 GiB; so no stream can make us keep more than a row of such fields.
const FIELD_BYTES_MAX: u32 = 1 << 30;

/// An incremental parser: [`feed`](Self::feed) it, take rows until there is none, and
/// [`finish`](Self::finish) it when the stream has ended.
#[derive(Debug)]
pub struct CopyRows {
    columns: usize,
    state: State,
    buffer: Vec<u8>,
    /// Bytes of `buffer` before this are done with.
    start: usize,
    /// Where the parser stands, at or after `start`.
    cursor: usize,
    /// The fields of the current row that are complete, as ranges of `buffer`.
    fields: Vec<Option<Range<usize>>>,
}

/// One row; its fields borrow from the parser until the next call.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    buffer: &'a [u8],
    fields: &'a [Option<Range<usize>>],
}

/// The stream is not a complete binary COPY of rows with the expected number of columns.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CopyRowsError {
    /// The signature is missing: this is text, or something else.
    #[error("the rows are not in PostgreSQL's binary COPY format")]
    Signature,
    /// A flag or an extension that this program does not know.
    #[error("the header of the copied rows has {what} {value}")]
    Header {
        /// Which part of the header.
        what: &'static str,
        /// Its value.
        value: u32,
    },
    /// A row has another number of fields than columns were asked for.
    #[error("a copied row has {found} fields instead of {expected}")]
    FieldCount {
        /// How many columns were asked for.
        expected: usize,
        /// How many fields the row claims.
        found: i16,
    },
    /// A length that no field can have.
    #[error("a field of a copied row claims {length} bytes")]
    FieldLength {
        /// The length.
        length: i32,
    },
    /// Bytes after the end mark.
    #[error("bytes follow the end of the copied rows")]
    Trailing,
    /// The stream ended before the end mark.
    #[error("the copied rows end before their end mark")]
    Truncated,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    Extension(usize),
    RowStart,
    Fields,
    /// The row in `fields` was given out and can be forgotten.
    RowDone,
    Ended,
}

// === impl CopyRows ===

impl CopyRows {
    /// A parser for rows of exactly `columns` columns.
    pub fn new(columns: usize) -> Self {
        Self {
            columns,
            state: State::Header,
            buffer: Vec::new(),
            start: 0,
            cursor: 0,
            fields: Vec::with_capacity(columns),
        }
    }

    /// Adds bytes of the stream, cut anywhere. Take all rows before feeding again, or they pile up.
    pub fn feed(&mut self, chunk: &[u8]) {
        self.forget_row();
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.cursor -= self.start;
            for field in self.fields.iter_mut().flatten() {
                *field = field.start - self.start..field.end - self.start;
            }
            self.start = 0;
        }
        self.buffer.extend_from_slice(chunk);
    }

    /// The next complete row, or none until more is fed.
    ///
    /// # Errors
    ///
    /// [`CopyRowsError`]; the parser is then of no further use.
    pub fn next_row(&mut self) -> Result<Option<Row<'_>>, CopyRowsError> {
        self.forget_row();
        while self.step()? {
            if self.state == State::RowDone {
                return Ok(Some(Row {
                    buffer: &self.buffer,
                    fields: &self.fields,
                }));
            }
        }
        Ok(None)
    }

    /// Says that the stream has ended.
    ///
    /// # Errors
    ///
    /// [`CopyRowsError::Truncated`] if the end mark was not seen: rows are missing.
    pub fn finish(self) -> Result<(), CopyRowsError> {
        match self.state {
            State::Ended if self.cursor < self.buffer.len() => Err(CopyRowsError::Trailing),
            State::Ended => Ok(()),
            State::Header
            | State::Extension(_)
            | State::RowStart
            | State::Fields
            | State::RowDone => Err(CopyRowsError::Truncated),
        }
    }

    fn forget_row(&mut self) {
        if self.state == State::RowDone {
            self.fields.clear();
            self.start = self.cursor;
            self.state = State::RowStart;
        }
    }

    /// Reads one thing; false if more bytes are needed for it, or the end mark was read.
    fn step(&mut self) -> Result<bool, CopyRowsError> {
        match self.state {
            State::Header => self.header(),
            State::Extension(length) => Ok(self.take(length).is_some() && {
                self.start = self.cursor;
                self.state = State::RowStart;
                true
            }),
            State::RowStart => self.row_start(),
            State::Fields => self.field(),
            State::RowDone => Ok(false),
            State::Ended if self.cursor < self.buffer.len() => Err(CopyRowsError::Trailing),
            State::Ended => Ok(false),
        }
    }

    fn header(&mut self) -> Result<bool, CopyRowsError> {
        let present = self.buffer.len().min(SIGNATURE.len());
        if self.buffer[..present] != SIGNATURE[..present] {
            return Err(CopyRowsError::Signature);
        }
        let Some(header) = self.take(HEADER_BYTES) else {
            return Ok(false);
        };
        let [.., f0, f1, f2, f3, e0, e1, e2, e3] = self.buffer[header] else {
            return Ok(false);
        };
        let flags = u32::from_be_bytes([f0, f1, f2, f3]);
        let extension = u32::from_be_bytes([e0, e1, e2, e3]);
        if flags & CRITICAL_FLAGS != 0 {
            return Err(CopyRowsError::Header {
                what: "unknown flags",
                value: flags,
            });
        }
        if extension > EXTENSION_BYTES_MAX {
            return Err(CopyRowsError::Header {
                what: "an extension of length",
                value: extension,
            });
        }
        self.state = State::Extension(extension as usize);
        Ok(true)
    }

    fn row_start(&mut self) -> Result<bool, CopyRowsError> {
        let Some(range) = self.take(2) else {
            return Ok(false);
        };
        let found = i16::from_be_bytes([self.buffer[range.start], self.buffer[range.start + 1]]);
        if found == -1 {
            self.start = self.cursor;
            self.state = State::Ended;
            // One more step, to see that nothing follows.
            return Ok(true);
        }
        let expected = self.columns;
        if usize::try_from(found) != Ok(expected) {
            return Err(CopyRowsError::FieldCount { expected, found });
        }
        self.state = if expected == 0 {
            State::RowDone
        } else {
            State::Fields
        };
        Ok(true)
    }

    fn field(&mut self) -> Result<bool, CopyRowsError> {
        let before = self.cursor;
        let Some(range) = self.take(4) else {
            return Ok(false);
        };
        let [b0, b1, b2, b3] = self.buffer[range] else {
            return Ok(false);
        };
        let length = i32::from_be_bytes([b0, b1, b2, b3]);
        let field = match u32::try_from(length) {
            Err(_) if length == -1 => None,
            Ok(size) if size <= FIELD_BYTES_MAX => match self.take(size as usize) {
                Some(range) => Some(range),
                None => {
                    self.cursor = before;
                    return Ok(false);
                }
            },
            Ok(_) | Err(_) => return Err(CopyRowsError::FieldLength { length }),
        };
        self.fields.push(field);
        if self.fields.len() == self.columns {
            self.state = State::RowDone;
        }
        Ok(true)
    }

    /// The next `count` bytes, if they are there.
    fn take(&mut self, count: usize) -> Option<Range<usize>> {
        let range = self.cursor..self.cursor.checked_add(count)?;
        if range.end > self.buffer.len() {
            return None;
        }
        self.cursor = range.end;
        Some(range)
    }
}

// === impl Row ===

impl<'a> Row<'a> {
    /// The fields in order; NULL is `None`.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = Option<&'a [u8]>> + use<'a> {
        let buffer = self.buffer;
        self.fields
            .iter()
            .map(move |field| field.clone().map(|range| &buffer[range]))
    }

    /// Field `index`; `None` is NULL.
    ///
    /// # Panics
    ///
    /// If there is no such column: the caller named their number.
    pub fn field(&self, index: usize) -> Option<&'a [u8]> {
        self.fields[index].clone().map(|range| &self.buffer[range])
    }
}

/// Shows the number of fields: values are users' data and stay out of logs.
impl std::fmt::Debug for Row<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Row({} fields)", self.fields.len())
    }
}

#[cfg(test)]
mod tests;
