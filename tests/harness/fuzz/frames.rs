//! The frame decoder in any splits.

use super::Choices;
use bytes::BytesMut;
use shoal_protocol::codec::Codec;
use shoal_protocol::{Message, WireError};

/// The first byte says how the rest is cut.
pub fn frames(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let step = 1 + choices.byte() as usize;
    let stream = choices.rest();
    let whole = decode(stream, usize::MAX);
    assert_eq!(decode(stream, step), whole, "in parts of {step}");
    assert_eq!(decode(stream, 1), whole, "byte by byte");
    for message in whole.0 {
        // What was read is written as something that reads as the same.
        let mut out = BytesMut::new();
        message.encode(&mut out);
        let again = Codec::default().next(&mut out);
        assert_eq!(again, Ok(Some(message)));
        assert!(out.is_empty());
    }
}

/// All messages up to an error; payload of blocks is thrown away.
pub(super) fn decode(stream: &[u8], step: usize) -> (Vec<Message>, Option<WireError>) {
    let (mut codec, mut buffer, mut out, mut payload) = (Codec::default(), BytesMut::new(), Vec::new(), 0);
    for part in stream.chunks(step) {
        let skip = part.len().min(payload);
        payload -= skip;
        buffer.extend_from_slice(&part[skip..]);
        loop {
            match codec.next(&mut buffer) {
                Ok(Some(message)) => {
                    if let Message::Block(block) = &message {
                        let now = buffer.len().min(block.length as usize);
                        drop(buffer.split_to(now));
                        payload = block.length as usize - now;
                    }
                    out.push(message);
                }
                Ok(None) => break,
                Err(error) => return (out, Some(error)),
            }
        }
    }
    (out, None)
}
