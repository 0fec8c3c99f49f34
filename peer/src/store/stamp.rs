//! What tells an unchanged file from a changed one without reading it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// Identity, size and times of a file. Equal stamps: the same bytes, unless someone worked to hide a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// Device.
    pub device: u64,
    /// Inode.
    pub inode: u64,
    /// Size in bytes.
    pub size: u64,
    /// Time of the last change of the bytes, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Time of the last change of bytes or attributes, nanoseconds since 1970. Programs can't set it.
    pub ctime_ns: i64,
}

/// Bytes of a stamp where it is stored.
pub(crate) const STAMP_BYTES: usize = 40;

fn nanoseconds(seconds: i64, rest: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

impl Stamp {
    /// The stamp of a file that was looked up or is open.
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            mtime_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// The same from a lookup relative to a directory.
    // The fields' types differ between systems, so some of the casts are needed on some only.
    #[allow(clippy::unnecessary_cast)]
    pub(crate) fn of_stat(stat: &rustix::fs::Stat) -> Self {
        Self {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            size: stat.st_size as u64,
            mtime_ns: nanoseconds(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            ctime_ns: nanoseconds(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; STAMP_BYTES] {
        let mut out = [0; STAMP_BYTES];
        let fields = [self.device, self.inode, self.size, self.mtime_ns as u64, self.ctime_ns as u64];
        for (part, field) in out.chunks_exact_mut(8).zip(fields) {
            part.copy_from_slice(&field.to_le_bytes());
        }
        out
    }

    pub(crate) fn from_bytes(bytes: &[u8; STAMP_BYTES]) -> Self {
        let mut fields = bytes.as_chunks::<8>().0.iter().map(|part| u64::from_le_bytes(*part));
        let mut next = || fields.next().unwrap_or(0);
        Self { device: next(), inode: next(), size: next(), mtime_ns: next() as i64, ctime_ns: next() as i64 }
    }
}
