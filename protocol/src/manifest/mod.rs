//! What a content is: the manifest.
//!
//! The **content part** (file or tree, piece size, entries) is what the content id names. The **hints** (name,
//! trackers, web seeds) stand beside it and are believed only as far as any stranger's word. There are two spellings:
//! JSON for people ([`json`]) and the canonical binary form ([`binary`]), whose BLAKE3 hash is the content id. Whatever
//! door a manifest comes through, [`Manifest::new`] checks it, and all other code takes only this type.

pub mod binary;
pub mod json;
mod strict;

use crate::error::ManifestError;
use crate::geometry::Geometry;
use crate::id::{ContentId, Hash};
use crate::limits::{ENTRIES, HINT_URLS, MANIFEST_BYTES};
use crate::link::Url;
use crate::path::{check_component, check_path, link_target_is_inside};

/// The BLAKE3 hash of no bytes: the root of every empty file.
pub const EMPTY_ROOT: Hash = [
    0xaf, 0x13, 0x49, 0xb9, 0xf5, 0xf9, 0xa1, 0xa6, 0xa0, 0x40, 0x4d, 0xea, 0x36, 0xdc, 0xc9, 0x49, 0x9b, 0xcb, 0x25,
    0xc9, 0xad, 0xc1, 0x12, 0xb7, 0xcc, 0x9a, 0x93, 0xca, 0xe4, 0x1f, 0x32, 0x62,
];

/// Whether a content is one file or a tree. One file and a directory that holds one file are different contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// One file; its name is only a hint.
    File,
    /// A directory tree.
    Tree,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File {
        /// Its size in bytes.
        size: u64,
        /// Its BLAKE3 root: what `b3sum` prints.
        root: Hash,
        /// Whether it may be executed.
        executable: bool,
    },
    /// An empty directory. Directories that hold something follow from the paths and aren't listed.
    EmptyDirectory,
    /// A symbolic link.
    Link {
        /// Where it points: relative, inside the tree.
        target: String,
    },
}

/// One entry of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path relative to the content's root, `/` between components; empty for a single file.
    pub path: String,
    /// What it is.
    pub kind: Kind,
}

impl Entry {
    /// Size in bytes; 0 for what isn't a file.
    #[must_use]
    pub fn size(&self) -> u64 {
        if let Kind::File { size, .. } = self.kind { size } else { 0 }
    }

    /// The root if it is a file.
    #[must_use]
    pub fn root(&self) -> Option<&Hash> {
        if let Kind::File { root, .. } = &self.kind { Some(root) } else { None }
    }
}

/// What stands beside the content: outside the id, changeable by anyone, believed accordingly.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hints {
    /// What to call it where the user doesn't say: one path component.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "strict::present")]
    pub name: Option<String>,
    /// Trackers, as base URLs.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "strict::at_most::<_, _, HINT_URLS>")]
    pub trackers: Vec<String>,
    /// Web seeds, as URLs.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "strict::at_most::<_, _, HINT_URLS>")]
    pub web_seeds: Vec<String>,
}

impl Hints {
    /// Whether nothing is hinted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn check(&self) -> Result<(), ManifestError> {
        if self.name.as_ref().is_some_and(|name| check_component(name).is_err()) {
            return Err(ManifestError::Hint("the name is not one plain path component"));
        }
        if self.trackers.len() > HINT_URLS || self.web_seeds.len() > HINT_URLS {
            return Err(ManifestError::Hint("too many trackers or web seeds"));
        }
        if self.trackers.iter().chain(&self.web_seeds).any(|url| Url::parse(url).is_err()) {
            return Err(ManifestError::Hint("a tracker or web seed is not a valid URL"));
        }
        Ok(())
    }
}

/// A valid manifest. There is no other kind.
#[derive(Debug, Clone)]
pub struct Manifest {
    shape: Shape,
    entries: Vec<Entry>,
    geometry: Geometry,
    id: ContentId,
    binary_len: u32,
    hints: Hints,
}

impl Manifest {
    /// Checks everything that can be checked without touching a disk.
    ///
    /// # Errors
    /// Says which rule is broken, naming entries by index.
    pub fn new(shape: Shape, piece_size: u64, entries: Vec<Entry>, hints: Hints) -> Result<Self, ManifestError> {
        let limit =
            |what, value: usize, limit: usize| ManifestError::Limit { what, value: value as u64, limit: limit as u64 };
        if entries.len() > ENTRIES {
            return Err(limit("the number of entries", entries.len(), ENTRIES));
        }
        hints.check()?;
        match shape {
            Shape::File => match entries.as_slice() {
                [Entry { path, kind: Kind::File { .. } }] if path.is_empty() => {}
                _ => return Err(ManifestError::SingleFile),
            },
            Shape::Tree => check_tree(&entries)?,
        }
        for (index, entry) in entries.iter().enumerate() {
            if let Kind::File { size: 0, root, .. } = &entry.kind
                && *root != EMPTY_ROOT
            {
                return Err(ManifestError::EmptyRoot(index));
            }
        }
        let piece_size = u32::try_from(piece_size).map_err(|_| ManifestError::PieceSize(piece_size))?;
        let files =
            (0..).zip(&entries).filter(|(_, e)| matches!(e.kind, Kind::File { .. })).map(|(i, e)| (i, e.size()));
        let geometry = Geometry::new(piece_size, files)?;
        let mut out = Self { shape, entries, geometry, id: ContentId([0; 32]), binary_len: 0, hints };
        let mut hasher = blake3::Hasher::new();
        let mut length = 0;
        binary::write(&out, |bytes| {
            length += bytes.len();
            hasher.update(bytes);
        });
        if length > MANIFEST_BYTES {
            return Err(limit("the manifest's length in bytes", length, MANIFEST_BYTES));
        }
        out.binary_len = length as u32;
        out.id = ContentId(hasher.finalize().into());
        Ok(out)
    }

    /// Reads either spelling, told apart by the first byte.
    ///
    /// # Errors
    /// When it isn't a valid manifest.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MANIFEST_BYTES {
            return Err(ManifestError::Limit {
                what: "the manifest's length in bytes",
                value: bytes.len() as u64,
                limit: MANIFEST_BYTES as u64,
            });
        }
        if bytes.first() == binary::MAGIC.first() { binary::parse(bytes) } else { json::parse(bytes) }
    }

    /// Reads either spelling and insists on an id.
    ///
    /// # Errors
    /// When it isn't a valid manifest, or has another id.
    pub fn parse_with_id(bytes: &[u8], expected: ContentId) -> Result<Self, ManifestError> {
        let manifest = Self::parse(bytes)?;
        if manifest.id == expected {
            Ok(manifest)
        } else {
            Err(ManifestError::WrongId { expected, actual: manifest.id })
        }
    }

    /// The content id.
    #[must_use]
    pub fn id(&self) -> ContentId {
        self.id
    }

    /// File or tree.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The entries in byte order of their paths.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The pieces.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Piece size in bytes.
    #[must_use]
    pub fn piece_size(&self) -> u32 {
        self.geometry.piece_size()
    }

    /// Payload bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.geometry.bytes()
    }

    /// Number of files.
    #[must_use]
    pub fn files(&self) -> usize {
        self.entries.iter().filter(|e| matches!(e.kind, Kind::File { .. })).count()
    }

    /// Length of the canonical binary form of the content part.
    #[must_use]
    pub fn binary_len(&self) -> u32 {
        self.binary_len
    }

    /// The hints.
    #[must_use]
    pub fn hints(&self) -> &Hints {
        &self.hints
    }

    /// The same content with other hints.
    ///
    /// # Errors
    /// When a hint isn't acceptable.
    pub fn with_hints(self, hints: Hints) -> Result<Self, ManifestError> {
        hints.check()?;
        Ok(Self { hints, ..self })
    }

    /// The root of the file at an entry index; the root of nothing for what isn't a file.
    #[must_use]
    pub fn root(&self, entry: u32) -> Hash {
        self.entries.get(entry as usize).and_then(|e| e.root().copied()).unwrap_or(EMPTY_ROOT)
    }
}

/// Paths ascend strictly, every one is acceptable, nothing lies below something that isn't a directory, and links stay inside.
fn check_tree(entries: &[Entry]) -> Result<(), ManifestError> {
    // Lengths of the earlier paths that the path before begins with, as text, and its own. In byte order everything
    // between a path and what it begins is begun by it too, so no other entry can be an ancestor. A set of all paths
    // would do as well, but looking up every prefix of deep paths hashes some 30 times the manifest's own bytes.
    let mut open: Vec<usize> = Vec::new();
    let mut previous = "";
    for (index, entry) in entries.iter().enumerate() {
        let path = entry.path.as_str();
        check_path(path).map_err(|reason| ManifestError::Path { index, reason })?;
        if previous.as_bytes() >= path.as_bytes() {
            return Err(ManifestError::Order(index));
        }
        if let Kind::Link { target } = &entry.kind
            && !link_target_is_inside(path, target)
        {
            return Err(ManifestError::LinkTarget(index));
        }
        let shared = common_prefix(previous, path);
        while open.last().is_some_and(|length| *length > shared) {
            open.pop();
        }
        // A shorter one has the same byte behind it as in the path before, where it was no slash.
        if open.last() == Some(&shared) && path.as_bytes().get(shared) == Some(&b'/') {
            return Err(ManifestError::Nested(index));
        }
        open.push(path.len());
        previous = path;
    }
    Ok(())
}

fn common_prefix(a: &str, b: &str) -> usize {
    a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count()
}
