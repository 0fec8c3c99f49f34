//! Which request is which: method, path and query to a route, before any body is read.
//!
//! Contract: pure and strict. The first thing that isn't understood ends it with 400; nothing has two readings: no
//! percent encoding (no value that we know needs it), no repeated single-valued parameter, no unknown parameter.

use crate::manifests::{Part, Refused};
use hyper::Method;
use shoal_protocol::limits::SCRAPE_IDS;
use shoal_protocol::{ContentId, SwarmId};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `POST /v1/announce`
    Announce,
    /// `GET /v1/scrape?swarm=ID&swarm=ID`
    Scrape(Vec<SwarmId>),
    /// `GET /m/ID`; whether the binary form is asked for in the query.
    Manifest(ContentId, Option<bool>),
    /// `GET /m/ID/cvs`, with a range of pieces or all.
    Cvs(ContentId, Option<(u32, u32)>),
    /// `PUT /m/ID` and `PUT /m/ID/cvs`
    Put(ContentId, Part),
    /// `GET /healthz`
    Health,
}

/// Finds the route. `HEAD` is as `GET`.
///
/// # Errors
/// 400, 404, or 405 with the methods that are allowed in the second place.
pub fn route(method: &Method, path: &str, query: Option<&str>) -> Result<Route, (Refused, Option<&'static str>)> {
    let bad = |text: String| (Refused::new(400, text), None);
    let wrong_method = |allow: &'static str| (Refused::new(405, format!("this path takes {allow} only")), Some(allow));
    let reads = *method == Method::GET || *method == Method::HEAD;
    let pairs = pairs(query).map_err(bad)?;
    let none = |route: Route| match pairs.first() {
        None => Ok(route),
        Some((name, _)) => Err(bad(format!("unknown parameter '{name}'"))),
    };
    match path {
        "/v1/announce" if *method == Method::POST => return none(Route::Announce),
        "/v1/announce" => return Err(wrong_method("POST")),
        "/v1/scrape" if reads => return scrape(&pairs).map(Route::Scrape).map_err(bad),
        "/v1/scrape" => return Err(wrong_method("GET, HEAD")),
        "/healthz" if reads => return none(Route::Health),
        "/healthz" => return Err(wrong_method("GET, HEAD")),
        _ => {}
    }
    let Some(rest) = path.strip_prefix("/m/") else {
        return Err((
            Refused::new(404, "no such path; this is a Shoal tracker: /m/ID, /v1/announce, /v1/scrape"),
            None,
        ));
    };
    let (id, part) = match rest.strip_suffix("/cvs") {
        Some(id) => (id, Part::Cvs),
        None => (rest, Part::Manifest),
    };
    let id: ContentId = id.parse().map_err(|error| bad(format!("in the path: {error}")))?;
    match part {
        _ if *method == Method::PUT => none(Route::Put(id, part)),
        _ if !reads => Err(wrong_method("GET, HEAD, PUT")),
        Part::Manifest => match pairs.as_slice() {
            [] => Ok(Route::Manifest(id, None)),
            [("format", "binary")] => Ok(Route::Manifest(id, Some(true))),
            [("format", "json")] => Ok(Route::Manifest(id, Some(false))),
            _ => Err(bad("the only parameter is format=json or format=binary".into())),
        },
        Part::Cvs => match pairs.as_slice() {
            [] => Ok(Route::Cvs(id, None)),
            [("first", first), ("count", count)] | [("count", count), ("first", first)] => {
                let range = number(first).zip(number(count).filter(|n| *n > 0));
                range.map(|r| Route::Cvs(id, Some(r))).ok_or_else(|| bad("first and count are plain numbers".into()))
            }
            _ => Err(bad("the parameters are first=N and count=M, both or none".into())),
        },
    }
}

/// A number without sign, space or leading zeros.
fn number(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

fn pairs(query: Option<&str>) -> Result<Vec<(&str, &str)>, String> {
    let Some(query) = query else { return Ok(Vec::new()) };
    let pair = |text| match str::split_once(text, '=') {
        Some((name, value)) if !name.is_empty() && plain(name) && plain(value) => Ok((name, value)),
        _ => Err("the query is not of the form name=value&name=value with plain characters".to_owned()),
    };
    let pairs: Vec<_> = query.split('&').take(SCRAPE_IDS + 1).map(pair).collect::<Result<_, _>>()?;
    Ok(pairs)
}

fn plain(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

fn scrape(pairs: &[(&str, &str)]) -> Result<Vec<SwarmId>, String> {
    if pairs.is_empty() || pairs.len() > SCRAPE_IDS {
        return Err(format!("a scrape names between 1 and {SCRAPE_IDS} swarms: /v1/scrape?swarm=ID&swarm=ID"));
    }
    let id = |(name, value): &(&str, &str)| match *name {
        "swarm" => value.parse().map_err(|error| format!("swarm: {error}")),
        other => Err(format!("unknown parameter '{other}'")),
    };
    pairs.iter().map(id).collect()
}

/// A single range of bytes. `Ok(None)` when the header asks for something else, which is then ignored (RFC 9110, 14.2).
///
/// # Errors
/// When the range lies behind the end.
pub fn byte_range(header: &str, length: u64) -> Result<Option<std::ops::Range<u64>>, Refused> {
    let Some((first, last)) = header.strip_prefix("bytes=").and_then(|r| r.split_once('-')) else { return Ok(None) };
    let digits =
        |text: &str| -> Option<u64> { if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None } };
    let range = match (first, last) {
        ("", last) => match digits(last) {
            Some(n) => length.saturating_sub(n)..length,
            None => return Ok(None),
        },
        (first, "") => match digits(first) {
            Some(first) => first..length,
            None => return Ok(None),
        },
        (first, last) => match (digits(first), digits(last)) {
            (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(length),
            _ => return Ok(None),
        },
    };
    if range.start >= range.end {
        return Err(Refused::new(416, format!("the range lies behind the end; there are {length} bytes")));
    }
    Ok(Some(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(method: &Method, target: &str) -> u16 {
        let (path, query) = target.split_once('?').map_or((target, None), |(p, q)| (p, Some(q)));
        route(method, path, query).map_or_else(|(refused, _)| refused.status, |_| 200)
    }

    #[test]
    fn every_target_has_one_reading() {
        let id = "ab".repeat(32);
        for (method, target, expected) in [
            (Method::GET, "/healthz".to_owned(), 200),
            (Method::HEAD, format!("/m/{id}"), 200),
            (Method::GET, format!("/m/{id}?format=binary"), 200),
            (Method::GET, format!("/m/{id}?format=binary&format=json"), 400),
            (Method::GET, format!("/m/{id}?x=1"), 400),
            (Method::GET, format!("/m/{id}?"), 400),
            (Method::GET, format!("/m/{}", id.to_uppercase()), 400),
            (Method::GET, format!("/m/{id}/"), 400),
            (Method::GET, "/m/../etc/passwd".into(), 400),
            (Method::GET, format!("/m/{id}/cvs"), 200),
            (Method::GET, format!("/m/{id}/cvs?count=2&first=0"), 200),
            (Method::GET, format!("/m/{id}/cvs?first=0"), 400),
            (Method::GET, format!("/m/{id}/cvs?first=0&count=0"), 400),
            (Method::GET, format!("/m/{id}/cvs?first=+1&count=1"), 400),
            (Method::GET, format!("/m/{id}/cvs?first=01&count=1"), 400),
            (Method::GET, format!("/m/{id}/cvs?first=1&first=1"), 400),
            (Method::PUT, format!("/m/{id}"), 200),
            (Method::PUT, format!("/m/{id}/cvs"), 200),
            (Method::DELETE, format!("/m/{id}"), 405),
            (Method::GET, "/v1/announce".into(), 405),
            (Method::POST, "/v1/announce".into(), 200),
            (Method::POST, "/v1/announce?x=1".into(), 400),
            (Method::GET, "/v1/scrape".into(), 400),
            (Method::GET, format!("/v1/scrape?swarm={id}"), 200),
            (Method::GET, format!("/v1/scrape?swarm={id}%00"), 400),
            (Method::GET, format!("/v1/scrape?swarm={id}&"), 400),
            (Method::GET, format!("/v1/scrape?peer={id}"), 400),
            (Method::GET, format!("/v1/scrape?{}", vec![format!("swarm={id}"); 50].join("&")), 200),
            (Method::GET, format!("/v1/scrape?{}", vec![format!("swarm={id}"); 51].join("&")), 400),
            (Method::GET, "/".into(), 404),
            (Method::GET, "/metrics".into(), 404),
        ] {
            assert_eq!(status(&method, &target), expected, "{method} {target}");
        }
    }

    #[test]
    fn ranges_are_single_and_inside() {
        let good = |text| byte_range(text, 10).unwrap();
        assert_eq!(good("bytes=0-3"), Some(0..4));
        assert_eq!(good("bytes=4-"), Some(4..10));
        assert_eq!(good("bytes=-3"), Some(7..10));
        assert_eq!(good("bytes=-30"), Some(0..10));
        assert_eq!(good("bytes=5-99"), Some(5..10));
        for ignored in ["bytes=0-1,3-4", "bytes=3-1", "bytes=a-b", "items=0-1", "bytes=-", "bytes=+1-2", "bytes=1"] {
            assert_eq!(good(ignored), None, "{ignored}");
        }
        for beyond in ["bytes=10-", "bytes=10-11", "bytes=-0"] {
            assert_eq!(byte_range(beyond, 10).unwrap_err().status, 416, "{beyond}");
        }
    }
}
