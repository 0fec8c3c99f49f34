//! Gives out a manifest over the wire, in segments that prove themselves.

use super::handshake::{self, HandshakeError, Opened};
use bytes::Bytes;
use shoal_protocol::limits::MANIFEST_SEGMENT;
use shoal_protocol::manifest::binary;
use shoal_protocol::{Hash, Manifest, Message, tree};
use std::time::Duration;

/// A client that asks for nothing for this long is let go.
const IDLE: Duration = Duration::from_secs(30);

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

    /// The frame with one segment; an empty one past the end.
    #[must_use]
    pub fn segment(&self, segment: u32) -> Message {
        let total = self.content.len() as u32;
        let start = segment as usize * MANIFEST_SEGMENT as usize;
        if segment >= binary::segments(total) {
            return Message::ManifestSegment { total, segment, proof: Vec::new(), data: Bytes::new() };
        }
        let end = (start + MANIFEST_SEGMENT as usize).min(self.content.len());
        let proof = if self.cvs.len() < 2 { Vec::new() } else { tree::make_leaf_proof(&self.cvs, segment) };
        Message::ManifestSegment { total, segment, proof, data: self.content.slice(start..end) }
    }
}

/// Serves a client that has no manifest yet, until it leaves.
///
/// # Errors
/// When the network fails or the client breaks the protocol.
pub async fn serve(mut opened: Opened, bytes: &ManifestBytes) -> Result<(), HandshakeError> {
    loop {
        let next = handshake::next(&mut opened.stream, &mut opened.buffer, &mut opened.codec);
        match tokio::time::timeout(IDLE, next).await.map_err(|_| HandshakeError::Timeout)?? {
            Message::ManifestRequest { segment } => {
                handshake::send(&mut opened.stream, &bytes.segment(segment)).await?;
            }
            Message::KeepAlive => {}
            _ => return Ok(()),
        }
    }
}
