//! Which paths and names a manifest may hold.
//!
//! The rules here are those of every platform; what only some refuse (backslashes, reserved names, clashing case) is
//! checked where files are written. Nothing is ever repaired: a bad path is refused, as a renamed file is a surprise.

use crate::limits::{COMPONENT_BYTES, PATH_BYTES, PATH_DEPTH};

/// Why a path or a name is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// No bytes at all.
    #[error("the path is empty")]
    Empty,
    /// Starts with a slash.
    #[error("the path is absolute")]
    Absolute,
    /// Two slashes in a row, or one at the end.
    #[error("the path has an empty component")]
    EmptyComponent,
    /// `.` or `..` as a component.
    #[error("the path has a component '.' or '..'")]
    Dots,
    /// NUL, a control character, or one that changes the direction of text.
    #[error("the path holds the character U+{0:04X}, which is not allowed in names")]
    Character(u32),
    /// Longer than a limit.
    #[error("the path or one of its components is too long or too deep")]
    TooLong,
    /// A slash in what must be one component.
    #[error("the name is more than one path component")]
    NotOneComponent,
}

/// Characters that could hide or reorder what a person reads: C0, DEL, C1, and bidirectional controls.
pub(crate) fn is_forbidden(c: char) -> bool {
    matches!(u32::from(c),
        0..=0x1f | 0x7f..=0x9f | 0x061c | 0x200e | 0x200f | 0x2028..=0x202e | 0x2066..=0x2069)
}

/// Checks one component of a path.
///
/// # Errors
/// Says which rule the component breaks.
pub fn check_component(name: &str) -> Result<(), PathError> {
    if name.is_empty() {
        return Err(PathError::EmptyComponent);
    }
    if name == "." || name == ".." {
        return Err(PathError::Dots);
    }
    if name.len() > COMPONENT_BYTES {
        return Err(PathError::TooLong);
    }
    if name.contains('/') {
        return Err(PathError::NotOneComponent);
    }
    match name.chars().find(|c| is_forbidden(*c)) {
        Some(c) => Err(PathError::Character(c.into())),
        None => Ok(()),
    }
}

/// Checks a relative path with `/` between its components.
///
/// # Errors
/// Says which rule the path breaks.
pub fn check_path(path: &str) -> Result<(), PathError> {
    if path.is_empty() {
        return Err(PathError::Empty);
    }
    if path.starts_with('/') {
        return Err(PathError::Absolute);
    }
    if path.len() > PATH_BYTES {
        return Err(PathError::TooLong);
    }
    let mut depth = 0;
    for component in path.split('/') {
        check_component(component)?;
        depth += 1;
    }
    if depth > PATH_DEPTH { Err(PathError::TooLong) } else { Ok(()) }
}

/// Whether a link at `path` may point at `target`: relative, and inside the tree however it is resolved.
///
/// `..` may stand only at the start, and at most as often as the link lies deep. Further back it could follow another
/// link of the tree and climb from where that one leads (`k -> .` makes `k/../..` escape, though it looks harmless).
/// A link's own parents are real directories (a manifest can't nest below a link), so leading `..` climb real ones, and
/// what follows only descends, through other links for which the same holds.
#[must_use]
pub fn link_target_is_inside(path: &str, target: &str) -> bool {
    if target.is_empty() || target.len() > PATH_BYTES || target.starts_with('/') {
        return false;
    }
    let mut climbable = path.split('/').count() - 1;
    let mut descended = false;
    for component in target.split('/') {
        match component {
            "." => {}
            ".." if descended || climbable == 0 => return false,
            ".." => climbable -= 1,
            name if check_component(name).is_err() => return false,
            _ => descended = true,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_escape_or_deceive_are_refused() {
        for bad in [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "../a",
            "a/..",
            "a/../b",
            "a/./b",
            "a\0b",
            "a\nb",
            "a\u{1b}[1m",
            "\u{7f}",
            "\u{85}",
            "a\u{202e}b",
            "\u{2066}",
            "\u{200f}",
            "\u{2028}",
        ] {
            assert!(check_path(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "a/b", "...", ".hidden", "a b", "ä/ö", "a\\b", "aux.c", "C:", "~"] {
            assert_eq!(check_path(good), Ok(()), "{good:?}");
        }
    }

    #[test]
    fn length_limits_hold_just_below_at_and_above() {
        assert!(check_component(&"x".repeat(254)).is_ok());
        assert!(check_component(&"x".repeat(255)).is_ok());
        assert!(check_component(&"x".repeat(256)).is_err());
        assert!(check_path(&["a"; 63].join("/")).is_ok());
        assert!(check_path(&["a"; 64].join("/")).is_ok());
        assert!(check_path(&["a"; 65].join("/")).is_err());
        let long = format!("{}/{}", ["x".repeat(255).as_str(); 3].join("/"), "y".repeat(255));
        assert_eq!(long.len(), 1023);
        assert!(check_path(&long).is_ok());
        assert!(check_path(&format!("{}/z", &long[..1022])).is_ok());
        assert!(check_path(&format!("{long}/z")).is_err());
    }

    #[test]
    fn links_stay_inside_at_every_step() {
        assert!(link_target_is_inside("a", "b"));
        assert!(link_target_is_inside("d/a", "../b"));
        assert!(link_target_is_inside("d/a", ".."));
        assert!(link_target_is_inside("d/e/a", "../../x/./y"));
        for (path, target) in [
            ("a", ".."),
            ("a", "../b"),
            ("d/a", "../../b"),
            ("a", "/etc"),
            ("a", ""),
            ("a", "x/../../b"),
            ("a", "b\0"),
            ("d/a", "../../d/b"),
            ("a", "b//c"),
            ("d/a", "k/../b"),
            ("d/e/a", "../x/../../y"),
        ] {
            assert!(!link_target_is_inside(path, target), "{path} -> {target}");
        }
    }
}
