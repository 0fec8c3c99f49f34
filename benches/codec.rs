//! How fast control frames are written and read: `cargo bench -p benches --bench codec`.

use benches::measure;
use bytes::BytesMut;
use shoal_protocol::codec::Codec;
use shoal_protocol::limits::BLOCK_BYTES;
use shoal_protocol::message::{Block, Message};

/// Frames in one batch.
const FRAMES: u32 = 1_000;

fn frames() -> Vec<Message> {
    // What a busy connection says besides payload: mostly requests, a batch of haves now and then.
    let request = |n: u32| Message::Request(Block { piece: n / 16, offset: n % 16 * BLOCK_BYTES, length: BLOCK_BYTES });
    let have = |n: u32| Message::Have((0..8).map(|i| (n + i * 10, 3)).collect());
    (0..FRAMES).map(|n| if n % 20 == 0 { have(n) } else { request(n) }).collect()
}

fn main() {
    let frames = frames();
    let mut out = BytesMut::with_capacity(1 << 20);
    measure("codec: encode", "frames", FRAMES.into(), || {
        out.clear();
        frames.iter().for_each(|frame| frame.encode(&mut out));
        out.len()
    });
    let wire = out.clone().freeze();
    measure("codec: decode", "frames", FRAMES.into(), || {
        let mut buffer = BytesMut::from(&wire[..]);
        let mut codec = Codec::default();
        let mut count = 0;
        while let Ok(Some(frame)) = codec.next(&mut buffer) {
            std::hint::black_box(frame);
            count += 1;
        }
        assert_eq!(count, FRAMES);
    });
}
