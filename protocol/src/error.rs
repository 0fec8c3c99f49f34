//! Errors, sorted by who is to blame.

/// Who caused an error, and so who has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The bytes are not what they claim to be, whoever brought them.
    Bytes,
    /// The remote peer broke the protocol.
    Peer,
    /// The remote peer is of a kind that can't talk to us; nobody did wrong.
    Incompatible,
    /// Our caller asked for something impossible.
    Caller,
}

/// Why a manifest is refused. Entries are named by index, as their paths may be hostile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The JSON is malformed, has unknown or duplicate keys, or values of the wrong type.
    #[error("not a manifest: {0}")]
    Json(String),
    /// The binary form is malformed or not canonical.
    #[error("not a binary manifest: {0}")]
    Binary(&'static str),
    /// It was made by a newer version.
    #[error("manifest version {0} is not known to this program (it knows 1): a newer one is needed")]
    Version(u64),
    /// More than a limit allows.
    #[error("{what} is {value}, the limit is {limit}")]
    Limit {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        value: u64,
        /// How large it may be.
        limit: u64,
    },
    /// The piece size isn't a power of two in the allowed range.
    #[error("piece size {0} is not a power of two between 65536 and 16777216")]
    PieceSize(u64),
    /// A path can't be accepted.
    #[error("entry {index}: {reason}")]
    Path {
        /// Position of the entry in the manifest, from 0.
        index: usize,
        /// What is wrong with its path.
        reason: crate::path::PathError,
    },
    /// Paths aren't strictly ascending by their bytes; so a duplicate is refused too.
    #[error("entry {0}: paths are not in strictly ascending byte order")]
    Order(usize),
    /// An entry lies below another one that isn't a directory, or a directory listed as empty isn't.
    #[error("entry {0}: something that is not a plain parent directory has this entry below it")]
    Nested(usize),
    /// A symbolic link's target isn't a relative path that stays inside the tree.
    #[error("entry {0}: the link's target is not a relative path inside the tree")]
    LinkTarget(usize),
    /// An empty file's root must be the hash of nothing.
    #[error("entry {0}: the root of an empty file is wrong")]
    EmptyRoot(usize),
    /// Total size overflows or is beyond what any disk holds.
    #[error("the sizes add up to more than 2^63 bytes")]
    TotalSize,
    /// A single-file manifest must have exactly one entry, a file with an empty path.
    #[error("a single-file manifest must have exactly one file and no paths")]
    SingleFile,
    /// The manifest names another id than its content gives.
    #[error("the manifest's content has the id {actual}, not {expected}")]
    WrongId {
        /// The id that was asked for.
        expected: crate::ContentId,
        /// The id of what came.
        actual: crate::ContentId,
    },
    /// A hint (name, tracker, web seed) can't be accepted.
    #[error("hint refused: {0}")]
    Hint(&'static str),
}

/// What is wrong with bytes or behaviour seen on a connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The first bytes aren't ours: another protocol speaks on this port.
    #[error("the other side does not speak Shoal's peer protocol")]
    NotShoal,
    /// Versions don't overlap.
    #[error("the other side speaks version {theirs}, this program version {ours}")]
    Version {
        /// Version that we speak.
        ours: u8,
        /// Version that the peer speaks.
        theirs: u8,
    },
    /// The peer asks for a mode (such as encryption) that we don't have.
    #[error("the other side wants connection mode {0}, which this program does not have")]
    Mode(u8),
    /// The peer requires feature bits that we don't have.
    #[error("the other side requires features {0:#x} that this program does not have")]
    Features(u64),
    /// A frame is longer than its kind may be.
    #[error("frame of type {kind:#04x} with {length} bytes, more than its kind may have")]
    TooLong {
        /// Type byte of the frame.
        kind: u8,
        /// Announced body length.
        length: u32,
    },
    /// A frame's body doesn't have the form of its kind.
    #[error("malformed frame of type {0:#04x}")]
    Malformed(u8),
    /// A frame that isn't known and doesn't say that it may be skipped.
    #[error("unknown frame of type {0:#04x}")]
    Unknown(u8),
    /// A frame that its sender may not send at this moment.
    #[error("frame not allowed here: {0}")]
    Unexpected(&'static str),
    /// An index or range outside the content.
    #[error("out of range: {0}")]
    OutOfRange(&'static str),
}

impl WireError {
    /// Who is to blame.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::NotShoal | Self::Version { .. } | Self::Mode(_) | Self::Features(_) => Blame::Incompatible,
            _ => Blame::Peer,
        }
    }
}
