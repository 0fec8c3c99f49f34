//! The canonical binary form of the content part; its BLAKE3 hash is the content id.
//!
//! ```text
//! 89 's' 'h' 'o' 'a' 'l' 'm' 01      magic; the last byte is the version
//! u8   0 file, 1 tree
//! u8   log2 of the piece size
//! varint   number of entries, then each entry:
//!   u8       0 file, 1 executable file, 2 empty directory, 3 link
//!   varint   length of the path, then the path
//!   files:   varint size, then 32 bytes of root unless the size is 0
//!   links:   varint length of the target, then the target
//! ```
//! Varints are LEB128 of at most ten bytes in their shortest form. Nothing can be spelled in two ways. A stored or sent
//! manifest may have its hints behind the content part, as a JSON object.

use super::strict::{Object, complaint};
use super::{EMPTY_ROOT, Entry, Hints, Kind, Manifest, Shape};
use crate::error::ManifestError;
use crate::id::Hash;
use crate::limits::{ENTRIES, MANIFEST_SEGMENT, PATH_BYTES};
use crate::tree::piece_cv;

/// First bytes; no JSON and no text begins like this.
pub const MAGIC: [u8; 7] = *b"\x89shoalm";
const VERSION: u8 = 1;

/// Writes the content part in parts that follow each other.
pub(super) fn write(manifest: &Manifest, mut out: impl FnMut(&[u8])) {
    let mut buffer = Vec::with_capacity(64 << 10);
    buffer.extend_from_slice(&MAGIC);
    buffer.push(VERSION);
    buffer.push(match manifest.shape {
        Shape::File => 0,
        Shape::Tree => 1,
    });
    buffer.push(manifest.piece_size().trailing_zeros() as u8);
    put_varint(&mut buffer, manifest.entries.len() as u64);
    for entry in &manifest.entries {
        buffer.push(match &entry.kind {
            Kind::File { executable, .. } => u8::from(*executable),
            Kind::EmptyDirectory => 2,
            Kind::Link { .. } => 3,
        });
        put_bytes(&mut buffer, entry.path.as_bytes());
        match &entry.kind {
            Kind::File { size, root, .. } => {
                put_varint(&mut buffer, *size);
                if *size > 0 {
                    buffer.extend_from_slice(root);
                }
            }
            Kind::EmptyDirectory => {}
            Kind::Link { target } => put_bytes(&mut buffer, target.as_bytes()),
        }
        if buffer.len() > 60 << 10 {
            out(&buffer);
            buffer.clear();
        }
    }
    out(&buffer);
}

impl Manifest {
    /// The canonical binary form of the content part, without hints.
    #[must_use]
    pub fn to_binary(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.binary_len as usize);
        write(self, |bytes| out.extend_from_slice(bytes));
        out
    }

    /// The content part with the hints behind it, as stored and sent.
    #[must_use]
    pub fn to_binary_with_hints(&self) -> Vec<u8> {
        let mut out = self.to_binary();
        if !self.hints.is_empty() {
            out.extend(serde_json::to_vec(&self.hints).unwrap_or_default());
        }
        out
    }
}

/// The CVs of a binary manifest's segments, from which single segments are proven.
#[must_use]
pub fn segment_cvs(content_part: &[u8]) -> Vec<Hash> {
    let size = MANIFEST_SEGMENT as usize;
    content_part.chunks(size).zip(0_u64..).filter_map(|(c, i)| piece_cv(i * size as u64, c)).collect()
}

/// Number of segments of a manifest of that length.
#[must_use]
pub fn segments(total: u32) -> u32 {
    total.div_ceil(MANIFEST_SEGMENT)
}

/// Reads the content part and the hints behind it.
///
/// # Errors
/// When the form isn't canonical or the manifest isn't valid.
pub fn parse(bytes: &[u8]) -> Result<Manifest, ManifestError> {
    let mut reader = Reader { bytes };
    if reader.take(MAGIC.len())? != MAGIC {
        return Err(ManifestError::Binary("wrong first bytes"));
    }
    match reader.byte()? {
        VERSION => {}
        other => return Err(ManifestError::Version(other.into())),
    }
    let shape = match reader.byte()? {
        0 => Shape::File,
        1 => Shape::Tree,
        _ => return Err(ManifestError::Binary("neither a file nor a tree")),
    };
    let piece_size = 1_u64.checked_shl(reader.byte()?.into()).ok_or(ManifestError::Binary("piece size"))?;
    let count = reader.varint()?;
    if count > ENTRIES as u64 {
        return Err(ManifestError::Limit { what: "the number of entries", value: count, limit: ENTRIES as u64 });
    }
    // Two bytes are the least that an entry can have: a count can't reserve more than the bytes can hold.
    let mut entries = Vec::with_capacity((count as usize).min(reader.bytes.len() / 2));
    for _ in 0..count {
        let tag = reader.byte()?;
        let path = reader.text()?;
        let kind = match tag {
            0 | 1 => {
                let size = reader.varint()?;
                let root = if size == 0 { EMPTY_ROOT } else { reader.hash()? };
                Kind::File { size, root, executable: tag == 1 }
            }
            2 => Kind::EmptyDirectory,
            3 => Kind::Link { target: reader.text()? },
            _ => return Err(ManifestError::Binary("unknown kind of entry")),
        };
        entries.push(Entry { path, kind });
    }
    let hints = match reader.bytes {
        [] => Hints::default(),
        rest => serde_json::from_slice::<Object<Hints>>(rest).map_err(|e| complaint(&e))?.0,
    };
    Manifest::new(shape, piece_size, entries, hints)
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], ManifestError> {
        let (head, rest) = self.bytes.split_at_checked(n).ok_or(ManifestError::Binary("cut short"))?;
        self.bytes = rest;
        Ok(head)
    }

    fn byte(&mut self) -> Result<u8, ManifestError> {
        Ok(self.take(1)?[0])
    }

    fn hash(&mut self) -> Result<Hash, ManifestError> {
        let mut out = [0; 32];
        out.copy_from_slice(self.take(32)?);
        Ok(out)
    }

    fn varint(&mut self) -> Result<u64, ManifestError> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(ManifestError::Binary("number beyond 64 bits"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(ManifestError::Binary("number not in its shortest form"));
                }
                return Ok(value);
            }
        }
        Err(ManifestError::Binary("number beyond 64 bits"))
    }

    fn text(&mut self) -> Result<String, ManifestError> {
        let length = self.varint()?;
        if length > PATH_BYTES as u64 {
            return Err(ManifestError::Limit { what: "the length of a path", value: length, limit: PATH_BYTES as u64 });
        }
        let bytes = self.take(length as usize)?;
        let text = std::str::from_utf8(bytes).map_err(|_| ManifestError::Binary("a path is not UTF-8"))?;
        Ok(text.to_owned())
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
