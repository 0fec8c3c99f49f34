//! Gets a manifest over the wire by its id alone.
//!
//! Every segment proves itself against the id. The first tells the length, which is believed only when the last segment of
//! that length has proven itself, too: the right edge of a BLAKE3 tree fixes its length. Then the rest is asked for, a
//! few segments at a time.

use super::handshake::{self, HandshakeError, Opened};
use shoal_protocol::limits::{MANIFEST_BYTES, MANIFEST_SEGMENT};
use shoal_protocol::manifest::binary;
use shoal_protocol::message::Hello;
use shoal_protocol::{ContentId, Manifest, ManifestError, Message, tree};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::Instant;

/// Segments asked for at a time: 512 KiB on the way.
const PIPELINE: u32 = 16;
/// A peer that doesn't answer for this long is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a peer did not give the manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestFetchError {
    /// The connection.
    #[error(transparent)]
    Connection(#[from] HandshakeError),
    /// What it sent doesn't belong to the id.
    #[error("the peer sent something else than the manifest")]
    Wrong,
    /// It has none.
    #[error("the peer does not have the manifest")]
    None,
    /// It belongs to the id but isn't valid.
    #[error(transparent)]
    Invalid(#[from] ManifestError),
}

impl ManifestFetchError {
    /// Whether there was no answer at all. Who closes has no room, perhaps.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        match self {
            Self::Connection(HandshakeError::Io(error)) => {
                !matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
            }
            Self::Connection(HandshakeError::Timeout) => true,
            _ => false,
        }
    }
}

/// Asks one peer.
///
/// # Errors
/// See [`ManifestFetchError`].
pub async fn fetch(addr: SocketAddr, hello: &Hello, id: ContentId) -> Result<Manifest, ManifestFetchError> {
    let mut opened = handshake::connect(addr, hello).await?;
    let (total, first) = ask(&mut opened, 0, None, id).await?;
    let segments = binary::segments(total);
    if segments == 1 {
        return Ok(Manifest::parse_with_id(&first, id)?);
    }
    let (_, last) = ask(&mut opened, segments - 1, Some(total), id).await?;
    let mut bytes = Vec::with_capacity(total as usize);
    bytes.extend(first);
    let mut asked = 1;
    for wanted in 1..segments - 1 {
        while asked < (wanted + PIPELINE).min(segments - 1) {
            request(&mut opened, asked).await?;
            asked += 1;
        }
        bytes.extend(answer(&mut opened, wanted, Some(total), id).await?.1);
    }
    bytes.extend(last);
    Ok(Manifest::parse_with_id(&bytes, id)?)
}

async fn ask(
    opened: &mut Opened,
    segment: u32,
    total: Option<u32>,
    id: ContentId,
) -> Result<(u32, Vec<u8>), ManifestFetchError> {
    request(opened, segment).await?;
    answer(opened, segment, total, id).await
}

async fn request(opened: &mut Opened, segment: u32) -> Result<(), ManifestFetchError> {
    let sent = handshake::send(&mut opened.stream, &Message::ManifestRequest { segment }).await;
    sent.map_err(|error| HandshakeError::from(error).into())
}

/// Reads until the answer for a segment; other frames (haves, peers) are of no interest here.
async fn answer(
    opened: &mut Opened,
    wanted: u32,
    known: Option<u32>,
    id: ContentId,
) -> Result<(u32, Vec<u8>), ManifestFetchError> {
    // The time is for the answer, whatever else comes before it.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let next = handshake::next(&mut opened.stream, &mut opened.buffer, &mut opened.codec);
        let message = tokio::time::timeout_at(deadline, next).await.map_err(|_| HandshakeError::Timeout)??;
        let Message::ManifestSegment { total, segment, proof, data } = message else {
            if let Message::Goodbye { reason, .. } = message {
                return Err(HandshakeError::Refused(reason).into());
            }
            continue;
        };
        if total == 0 {
            return Err(ManifestFetchError::None);
        }
        let leaves = binary::segments(total);
        let offset = u64::from(segment) * u64::from(MANIFEST_SEGMENT);
        let expected = u64::from(total).saturating_sub(offset).min(MANIFEST_SEGMENT.into());
        let fits = segment == wanted
            && total as usize <= MANIFEST_BYTES
            && known.is_none_or(|known| known == total)
            && data.len() as u64 == expected
            && tree::check_leaf(&id.0, leaves, segment, offset, &data, &proof);
        return if fits { Ok((total, data.to_vec())) } else { Err(ManifestFetchError::Wrong) };
    }
}
