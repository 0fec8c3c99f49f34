//! Links, as people and manifests hand them on.

use shoal_protocol::limits::URL_BYTES;
use shoal_protocol::link::Url;

/// Any text.
pub fn link(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(url) = Url::parse(text) else { return };
    let shown = url.to_string();
    // What is dialled and sent in a head has nothing in it that ends a line or names somebody else.
    assert!(shown.bytes().all(|b| b.is_ascii_graphic()) && !shown.contains('#'), "{shown}");
    assert!(!url.authority().contains(['/', '@', '?', '#']) && url.port > 0 && url.path.starts_with('/'), "{shown}");
    if shown.len() > URL_BYTES {
        // With its port written out it is longer than what may be read.
        return;
    }
    let again = Url::parse(&shown).unwrap_or_else(|error| panic!("{shown}: {error}"));
    assert_eq!(again, url, "{text} shown is another one");
    assert_eq!(again.with_path("/v1/announce").base(), url.base());
    if let Some(id) = url.content_id() {
        assert!(text.contains(&id.to_string()), "{id} isn't in {text}");
    }
}
