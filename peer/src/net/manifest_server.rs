//! Gives out a manifest over the wire, in segments that prove themselves.

use super::handshake::{self, HandshakeError, Opened};
use super::limiter::Limiter;
use super::pace::Pace;
use bytes::Bytes;
use shoal_protocol::limits::MANIFEST_SEGMENT;
use shoal_protocol::manifest::binary;
use shoal_protocol::{Hash, Manifest, Message, WireError, tree};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A client that asks for nothing new for this long is let go.
const IDLE: Duration = Duration::from_secs(30);
/// How often one segment is given on a connection.
const SEGMENT_TIMES: u8 = 2;

/// A manifest's canonical bytes with what proves their segments.
#[derive(Debug)]
pub struct ManifestBytes {
    /// The content part, hints behind it.
    pub with_hints: Bytes,
    content: Bytes,
    cvs: Vec<Hash>,
}

impl ManifestBytes {
    /// Encodes a manifest.
    #[must_use]
    pub fn new(manifest: &Manifest) -> Self {
        let with_hints = Bytes::from(manifest.to_binary_with_hints());
        let content = with_hints.slice(..manifest.binary_len() as usize);
        let cvs = if content.len() > MANIFEST_SEGMENT as usize { binary::segment_cvs(&content) } else { Vec::new() };
        Self { with_hints, content, cvs }
    }

    /// The frame with one segment; none past the end.
    #[must_use]
    pub fn segment(&self, segment: u32) -> Option<Message> {
        let total = self.content.len() as u32;
        let start = segment as usize * MANIFEST_SEGMENT as usize;
        if segment >= binary::segments(total) {
            return None;
        }
        let end = (start + MANIFEST_SEGMENT as usize).min(self.content.len());
        let proof = if self.cvs.len() < 2 { Vec::new() } else { tree::make_leaf_proof(&self.cvs, segment) };
        Some(Message::ManifestSegment { total, segment, proof, data: self.content.slice(start..end) })
    }
}

/// Serves a client that has no manifest yet, until it leaves, or says what it has and so becomes a peer as others are:
/// then this gives that frame. `progress` is called with each segment that is new to it.
///
/// # Errors
/// When the network fails, or the client breaks the protocol, doesn't read, or asks for nothing.
pub async fn serve(
    opened: &mut Opened,
    bytes: &ManifestBytes,
    up: &Limiter,
    progress: impl Fn(),
) -> Result<Option<Message>, HandshakeError> {
    let (mut asked, mut given, mut pace) = (Instant::now(), BTreeMap::new(), Pace::new());
    loop {
        // Only what is new keeps the connection: who asks for the same again and again only wants the place.
        let left = IDLE.saturating_sub(asked.elapsed());
        let next = handshake::next(&mut opened.stream, &mut opened.buffer, &mut opened.codec);
        let message = tokio::time::timeout(left, next).await.map_err(|_| HandshakeError::Timeout)??;
        if let Some(rest) = pace.note(&message) {
            tokio::time::sleep(rest).await;
        }
        if pace.is_flood(opened.codec.take_skipped()) {
            return Err(WireError::Unexpected("too many frames that say nothing").into());
        }
        match message {
            Message::ManifestRequest { segment } => {
                let answer = bytes.segment(segment).ok_or(WireError::OutOfRange("manifest segment"))?;
                let times = given.entry(segment).or_insert(0_u8);
                *times += 1;
                if *times > SEGMENT_TIMES {
                    return Err(WireError::Unexpected("one segment of a manifest again and again").into());
                }
                if let Message::ManifestSegment { data, proof, .. } = &answer {
                    up.acquire(data.len() + proof.len() * size_of::<Hash>()).await;
                }
                let sent = tokio::time::timeout(IDLE, handshake::send(&mut opened.stream, &answer)).await;
                sent.map_err(|_| HandshakeError::Timeout)??;
                if *times == 1 {
                    asked = Instant::now();
                    progress();
                }
            }
            Message::KeepAlive | Message::Pex { .. } | Message::Ping { .. } => {}
            told @ (Message::HaveAll | Message::HaveNone | Message::Bitfield { .. }) => return Ok(Some(told)),
            Message::Goodbye { .. } => return Ok(None),
            _ => return Err(WireError::Unexpected("what only a peer with a manifest may send").into()),
        }
    }
}
