//! The four kinds of identifiers, as types that can't be mixed up.

use std::fmt;
use std::str::FromStr;

/// A BLAKE3 hash or chaining value: 32 bytes.
pub type Hash = [u8; 32];

/// Writes bytes as lower-case hex.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        out.push(char::from(DIGITS[usize::from(b >> 4)]));
        out.push(char::from(DIGITS[usize::from(b & 15)]));
    }
    out
}

/// Reads exactly `N` bytes of lower-case hex; upper case is refused so that an id has one spelling.
#[must_use]
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != N * 2 {
        return None;
    }
    let nibble = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(out)
}

/// The text isn't the hex form of an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id: {0} lower-case hexadecimal digits are expected")]
pub struct BadId(usize);

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $bytes]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&to_hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), &to_hex(&self.0)[..8])
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                from_hex(text).map(Self).ok_or(BadId($bytes * 2))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                // Read where it lies: a string of its own for each id was a tenth of reading an announce.
                struct Text;
                impl serde::de::Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(concat!(stringify!($bytes), " bytes in lower-case hexadecimal digits"))
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                d.deserialize_str(Text)
            }
        }
    };
}

id! {
    /// Names a content: the BLAKE3 hash of the manifest's canonical binary encoding. Not the `b3sum` of any file.
    ContentId, 32
}
id! {
    /// Names a swarm on the wire. For open swarms it follows from the content id; a private swarm will derive it from its key.
    SwarmId, 32
}
id! {
    /// A peer's random name for one run of its process; recognises double connections and oneself.
    PeerId, 16
}

impl ContentId {
    /// The swarm in which this content is shared openly.
    #[must_use]
    pub fn open_swarm(&self) -> SwarmId {
        SwarmId(blake3::derive_key("shoal v1 open swarm id", &self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_has_one_spelling() {
        let id = ContentId([0xab; 32]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id.to_string().to_uppercase().parse::<ContentId>().is_err());
        assert!("ab".parse::<ContentId>().is_err());
        assert!(from_hex::<1>("0g").is_none());
    }

    #[test]
    fn a_swarm_id_is_not_the_content_id() {
        let id = ContentId([7; 32]);
        assert_ne!(id.0, id.open_swarm().0);
        assert_ne!(id.open_swarm(), ContentId([8; 32]).open_swarm());
    }
}
