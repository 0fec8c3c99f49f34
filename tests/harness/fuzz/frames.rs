//! The frame decoder in any splits, and the greeting before it.

use super::Choices;
use bytes::BytesMut;
use shoal_protocol::codec::Codec;
use shoal_protocol::handshake::{GREETING_BYTES, Greeting, missing_features};
use shoal_protocol::{Bitfield, Message, WireError};

/// The first byte says how the rest is cut.
pub fn frames(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let step = 1 + choices.byte() as usize;
    let stream = choices.rest();
    if let Some(first) = stream.first_chunk::<GREETING_BYTES>()
        && let Ok(greeting) = Greeting::from_bytes(first)
    {
        assert_eq!(greeting.to_bytes(), *first, "two greetings that are read alike");
    }
    if let Ok(bits) = Bitfield::from_bytes(step as u32, stream) {
        assert_eq!(bits.to_bytes(), stream, "{bits:?}");
        assert!(bits.common(&Bitfield::all(step as u32)).eq(bits.ones()));
    }
    let whole = decode(stream, usize::MAX);
    assert_eq!(decode(stream, step), whole, "in parts of {step}");
    assert_eq!(decode(stream, 1), whole, "byte by byte");
    for message in whole.0 {
        if let Message::Hello(hello) = &message {
            let missing = missing_features(hello.features);
            assert_eq!(missing, hello.features & !0xffff_ffff, "none of the upper half is known yet");
        }
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
        let before = buffer.len();
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
        // What is thrown away is counted, and no more often than there are heads of frames.
        let skipped = codec.take_skipped() as usize;
        assert!(skipped * 5 <= part.len() + before, "{skipped} frames in {} bytes", part.len());
    }
    (out, None)
}
