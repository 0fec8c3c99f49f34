//! The JSON form of a manifest: for people and for tools.
//!
//! Strict: unknown keys, duplicate keys, values of another type and fields that don't belong to an entry's kind are
//! refused. The id is that of the content, not of this text.

use super::strict::{self, Object};
use super::{EMPTY_ROOT, Entry, Hints, Kind, Manifest, Shape};
use crate::error::ManifestError;
use crate::id::{ContentId, Hash, from_hex, to_hex};
use crate::limits::ENTRIES;
use serde::Deserialize;
use std::borrow::Cow;

const VERSION: u64 = 1;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    shoal: u64,
    #[serde(default, deserialize_with = "strict::present")]
    id: Option<ContentId>,
    kind: Shape,
    piece_size: u64,
    #[serde(deserialize_with = "strict::at_most::<_, _, ENTRIES>")]
    entries: Vec<Object<Row>>,
    #[serde(default, deserialize_with = "strict::object")]
    hints: Hints,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    #[serde(default, deserialize_with = "strict::present")]
    path: Option<String>,
    kind: RowKind,
    #[serde(default, deserialize_with = "strict::present")]
    size: Option<u64>,
    #[serde(default, deserialize_with = "strict::present")]
    blake3: Option<Hex>,
    #[serde(default)]
    executable: bool,
    #[serde(default, deserialize_with = "strict::present")]
    target: Option<String>,
}

#[derive(Clone, Copy, PartialEq)]
enum RowKind {
    File,
    Dir,
    Link,
}

impl<'de> Deserialize<'de> for RowKind {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        strict::word(d, &[("file", Self::File), ("dir", Self::Dir), ("link", Self::Link)])
    }
}

/// A hash, read in place: a million roots as text would double the memory.
struct Hex(Hash);

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <Cow<'de, str>>::deserialize(d)?;
        let wrong = || serde::de::Error::custom("blake3 is not 64 lower-case hexadecimal digits");
        from_hex(&text).map(Self).ok_or_else(wrong)
    }
}

/// Reads only the version, to tell a manifest of the future from a broken one.
#[derive(Deserialize)]
struct VersionOnly {
    shoal: u64,
}

impl Manifest {
    /// The JSON form, one entry a line, ending with a newline.
    #[must_use]
    pub fn to_json(&self) -> String {
        use std::fmt::Write as _;
        let quote = |text: &str| serde_json::to_string(text).unwrap_or_default();
        let mut out = String::with_capacity(256 + self.entries.len() * 140);
        let shape = if self.shape == Shape::File { "file" } else { "tree" };
        let _ = write!(
            out,
            "{{\"shoal\":{VERSION},\"id\":\"{}\",\"kind\":\"{shape}\",\"piece_size\":{},",
            self.id,
            self.piece_size()
        );
        if !self.hints.is_empty() {
            let _ = write!(out, "\"hints\":{},", serde_json::to_string(&self.hints).unwrap_or_default());
        }
        out.push_str("\"entries\":[");
        for (n, entry) in self.entries.iter().enumerate() {
            out.push_str(if n == 0 { "\n{" } else { ",\n{" });
            if self.shape == Shape::Tree {
                let _ = write!(out, "\"path\":{},", quote(&entry.path));
            }
            let _ = match &entry.kind {
                Kind::File { size, root, executable } => {
                    let executable = if *executable { ",\"executable\":true" } else { "" };
                    write!(out, "\"kind\":\"file\",\"size\":{size},\"blake3\":\"{}\"{executable}}}", to_hex(root))
                }
                Kind::EmptyDirectory => write!(out, "\"kind\":\"dir\"}}"),
                Kind::Link { target } => write!(out, "\"kind\":\"link\",\"target\":{}}}", quote(target)),
            };
        }
        out.push_str("\n]}\n");
        out
    }
}

/// Reads the JSON form.
///
/// # Errors
/// When it isn't a valid manifest, or names another id than its content has.
pub fn parse(bytes: &[u8]) -> Result<Manifest, ManifestError> {
    let Object::<Document>(document) =
        serde_json::from_slice(bytes).map_err(|error| match serde_json::from_slice::<Object<VersionOnly>>(bytes) {
            Ok(Object(VersionOnly { shoal })) if shoal != VERSION => ManifestError::Version(shoal),
            _ => strict::complaint(&error),
        })?;
    if document.shoal != VERSION {
        return Err(ManifestError::Version(document.shoal));
    }
    let shape = document.kind;
    let entries = document.entries.into_iter().enumerate().map(|(index, row)| read_row(shape, index, row.0));
    let manifest = Manifest::new(shape, document.piece_size, entries.collect::<Result<_, _>>()?, document.hints)?;
    match document.id {
        Some(expected) if expected != manifest.id => Err(ManifestError::WrongId { expected, actual: manifest.id }),
        _ => Ok(manifest),
    }
}

fn read_row(shape: Shape, index: usize, row: Row) -> Result<Entry, ManifestError> {
    let wrong = |what: &str| ManifestError::Json(format!("entry {index}: {what}"));
    let path = match (shape, row.path) {
        (Shape::File, None) => String::new(),
        (Shape::File, Some(_)) => return Err(ManifestError::SingleFile),
        (Shape::Tree, Some(path)) => path,
        (Shape::Tree, None) => return Err(wrong("the path is missing")),
    };
    let kind = match (row.kind, row.size, row.blake3, row.executable, row.target) {
        (RowKind::File, Some(size), root, executable, None) => {
            let root: Hash = match root {
                Some(hex) => hex.0,
                None if size == 0 => EMPTY_ROOT,
                None => return Err(wrong("blake3 is missing")),
            };
            Kind::File { size, root, executable }
        }
        (RowKind::Dir, None, None, false, None) => Kind::EmptyDirectory,
        (RowKind::Link, None, None, false, Some(target)) => Kind::Link { target },
        _ => return Err(wrong("its fields don't belong to its kind")),
    };
    Ok(Entry { path, kind })
}
