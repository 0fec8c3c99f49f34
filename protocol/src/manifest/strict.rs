//! What serde's derived code would let through and a manifest must not have.
//!
//! Derived structs can also be read from an array, enums from an object, options from `null`; and a list is read to its
//! end before anyone counts it. A manifest has one way to say a thing, and 256 MiB of it must not become gigabytes.

use super::Shape;
use crate::error::ManifestError;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// A struct that is written as an object.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visit<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Visit<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        d.deserialize_map(Visit(PhantomData))
    }
}

/// A field that may be absent, but not `null`.
pub(super) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Option<T>, D::Error> {
    T::deserialize(d).map(Some)
}

/// The same for a struct that is written as an object.
pub(super) fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Object::deserialize(d).map(|object: Object<T>| object.0)
}

/// A list that is given up at the first element too many.
pub(super) fn at_most<'de, D, T, const N: usize>(d: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Visit<T, const N: usize>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for Visit<T, N> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {N}")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut out = Vec::new();
            while let Some(one) = list.next_element()? {
                if out.len() == N {
                    return Err(A::Error::invalid_length(N + 1, &self));
                }
                out.push(one);
            }
            Ok(out)
        }
    }
    d.deserialize_seq(Visit::<T, N>(PhantomData))
}

/// One word out of a few.
pub(super) fn word<'de, D, T: Copy>(d: D, words: &'static [(&'static str, T)]) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
{
    struct Visit<T: 'static>(&'static [(&'static str, T)]);
    impl<T: Copy> Visitor<'_> for Visit<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let words: Vec<_> = self.0.iter().map(|(word, _)| *word).collect();
            write!(f, "one of: {}", words.join(", "))
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            let found = self.0.iter().find(|(word, _)| *word == text);
            found.map(|(_, value)| *value).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
        }
    }
    d.deserialize_str(Visit(words))
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        word(d, &[("file", Self::File), ("tree", Self::Tree)])
    }
}

/// A parser's complaint without what could hurt a terminal or a log: it may quote the hostile text at any length.
pub(super) fn complaint(error: &serde_json::Error) -> ManifestError {
    const LONGEST: usize = 200;
    let text = error.to_string();
    let mut out = String::new();
    for c in text.chars() {
        if out.len() > LONGEST {
            out.push('…');
            break;
        }
        if crate::path::is_forbidden(c) { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    ManifestError::Json(out)
}
