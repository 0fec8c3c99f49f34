//! Cuts a stream of bytes into frames.
//!
//! "Not enough bytes yet" is not an error and leaves the buffer as it was. A block comes out as its header alone; the
//! caller must then take its `length` payload bytes (the rest of the buffer first, then the socket) before it decodes
//! on. So payload is never copied through this buffer, and a length from the wire never reserves memory here.

use crate::error::WireError;
use crate::limits::CONTROL_BYTES;
use crate::message::{BLOCK_KIND, FRAME_HEADER, Message, SKIPPABLE, longest_body};
use bytes::{Buf, BytesMut};

/// Decodes frames; [`Message::encode`] is the other direction.
#[derive(Debug, Default, Clone, Copy)]
pub struct Codec {
    /// Bytes of an unknown, skippable frame that are still to be thrown away.
    skip: usize,
    skipped: u32,
}

impl Codec {
    /// How many frames were thrown away since this was asked last: they cost time and say nothing, so who receives them
    /// bounds their number.
    pub fn take_skipped(&mut self) -> u32 {
        std::mem::take(&mut self.skipped)
    }

    /// Takes the next whole frame out of the buffer.
    ///
    /// # Errors
    /// When the bytes can't be a frame; the connection has to end then.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Message>, WireError> {
        loop {
            if self.skip > 0 {
                let now = self.skip.min(buffer.len());
                buffer.advance(now);
                self.skip -= now;
                if self.skip > 0 {
                    return Ok(None);
                }
            }
            let Some(header) = buffer.get(..FRAME_HEADER) else { return Ok(None) };
            let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
            let kind = header[4];
            let Some(longest) = longest_body(kind) else {
                if kind & SKIPPABLE == 0 {
                    return Err(WireError::Unknown(kind));
                }
                if length as usize > CONTROL_BYTES {
                    return Err(WireError::TooLong { kind, length });
                }
                buffer.advance(FRAME_HEADER);
                self.skip = length as usize;
                self.skipped = self.skipped.saturating_add(1);
                continue;
            };
            if length as usize > longest {
                return Err(WireError::TooLong { kind, length });
            }
            // A block without payload is refused at once: its header would be taken from the frame behind it.
            if kind == BLOCK_KIND && length <= 8 {
                return Err(WireError::Malformed(kind));
            }
            let body = if kind == BLOCK_KIND { 8 } else { length as usize };
            if buffer.len() < FRAME_HEADER + body {
                return Ok(None);
            }
            buffer.advance(FRAME_HEADER);
            let body = buffer.split_to(body).freeze();
            return Message::decode(kind, body, length).map(Some);
        }
    }
}
