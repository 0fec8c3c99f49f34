//! What a content is called, on disk and on screen. The name in a manifest is a hint that anyone may have written.

use crate::failure::escape;
use shoal_protocol::Manifest;

/// The name that a content gets where the user gives none: the hint if it is harmless, else made from the id.
#[must_use]
pub(crate) fn plain_name(manifest: &Manifest) -> String {
    match &manifest.hints().name {
        Some(name) if !name.starts_with('.') => name.clone(),
        _ => format!("content-{}", &manifest.id().to_string()[..12]),
    }
}

/// What its own user calls a content: a seed's name may begin with a dot, though nobody's fetch makes a hidden file of it.
#[must_use]
pub(crate) fn given_name(manifest: &Manifest) -> String {
    manifest.hints().name.as_deref().map_or_else(|| shown_name(manifest), escape)
}

/// What a content is called on screen.
#[must_use]
pub(crate) fn shown_name(manifest: &Manifest) -> String {
    escape(&plain_name(manifest))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use shoal_protocol::manifest::{Kind, Shape};
    use shoal_protocol::{Entry, Hints};

    /// A manifest of one file with this name as its hint.
    pub(crate) fn named(name: &str) -> Manifest {
        let entry = Entry { path: String::new(), kind: Kind::File { size: 1, root: [1; 32], executable: false } };
        let hints = Hints { name: Some(name.to_owned()), ..Hints::default() };
        Manifest::new(Shape::File, 65_536, vec![entry], hints).unwrap()
    }

    #[test]
    fn a_hint_never_makes_a_hidden_file() {
        assert_eq!(plain_name(&named("model")), "model");
        assert!(plain_name(&named(".bashrc")).starts_with("content-"));
    }
}
