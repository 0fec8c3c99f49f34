//! Reads a request's head just far enough to tell an ordinary announce from everything else.
//!
//! Contract: pure. What is taken for an announce here is one in every reading: the exact request line, each line ended
//! by CR and LF, only headers from a short list, each of the two that matter once, and nothing that frames a body in
//! another way. Whatever is odd in the least goes to hyper untouched, so there is one judge of odd requests.

use shoal_protocol::limits::ANNOUNCE_BYTES;
use std::ops::Range;

/// Most bytes and lines of a head.
pub(crate) const MAX_HEAD_BYTES: usize = 8 << 10;
pub(crate) const MAX_HEADERS: usize = 32;
const REQUEST_LINE: &[u8] = b"POST /v1/announce HTTP/1.1";

/// What lies in front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// Not all of it came yet.
    Part,
    /// No head of HTTP/1, or one that is too long: the status to refuse it with.
    Bad(u16),
    /// A whole head of another kind.
    Other,
    /// An announce with its body, and whether the connection ends after it.
    Announce { body: Range<usize>, close: bool },
}

/// Looks at what a connection sent.
pub(crate) fn look(bytes: &[u8]) -> Found {
    // Empty lines before a request are passed over (RFC 9112, 2.2).
    let start = bytes.iter().position(|b| !b"\r\n".contains(b)).unwrap_or(bytes.len());
    match bytes.get(start) {
        Some(b'A'..=b'Z') => {}
        // TLS, HTTP/2 or a peer's frames: nothing is to be waited for.
        Some(_) => return Found::Bad(400),
        None if start > MAX_HEAD_BYTES => return Found::Bad(431),
        None => return Found::Part,
    }
    let (mut at, mut lines, mut head) = (start, 0, Head { ordinary: start == 0, ..Head::default() });
    loop {
        let Some(length) = bytes[at..].iter().position(|b| *b == b'\n') else {
            return if bytes.len() - start > MAX_HEAD_BYTES { Found::Bad(431) } else { Found::Part };
        };
        let line = &bytes[at..at + length];
        at += length + 1;
        let line = line.strip_suffix(b"\r").unwrap_or_else(|| {
            head.ordinary = false;
            line
        });
        if line.is_empty() {
            break;
        }
        if lines == 0 {
            head.ordinary &= line == REQUEST_LINE;
        } else if head.ordinary {
            head.ordinary = head.take(line).is_some();
        }
        lines += 1;
    }
    match head {
        Head { ordinary: true, host: true, json: true, length: Some(length), close }
            if at <= MAX_HEAD_BYTES && lines <= MAX_HEADERS =>
        {
            if bytes.len() < at + length {
                return Found::Part;
            }
            Found::Announce { body: at..at + length, close }
        }
        _ => Found::Other,
    }
}

#[derive(Debug, Default)]
struct Head {
    /// Nothing odd was seen so far.
    ordinary: bool,
    host: bool,
    json: bool,
    close: bool,
    length: Option<usize>,
}

impl Head {
    /// Takes one header; `None` if it is not one that an ordinary announce has.
    fn take(&mut self, line: &[u8]) -> Option<()> {
        let colon = line.iter().position(|b| *b == b':')?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if !value.iter().all(|b| (b' '..=b'~').contains(b)) {
            return None;
        }
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        let once = |seen: &mut bool| if std::mem::replace(seen, true) { None } else { Some(()) };
        match name.len() {
            4 if is("host") => once(&mut self.host),
            12 if is("content-type") && value.eq_ignore_ascii_case(b"application/json") => once(&mut self.json),
            14 if is("content-length") && self.length.is_none() => {
                self.length = Some(decimal(value).filter(|n| *n <= ANNOUNCE_BYTES)?);
                Some(())
            }
            10 if is("connection") => match value {
                b"keep-alive" => Some(()),
                b"close" => once(&mut self.close),
                _ => None,
            },
            10 if is("user-agent") => Some(()),
            6 if is("accept") => Some(()),
            15 if is("accept-encoding") => Some(()),
            _ => None,
        }
    }
}

/// A number without sign, space or leading zeros.
fn decimal(text: &[u8]) -> Option<usize> {
    let plain = matches!(text, [b'0'] | [b'1'..=b'9', ..]) && text.len() <= 6 && text.iter().all(u8::is_ascii_digit);
    plain.then(|| text.iter().fold(0, |n, digit| n * 10 + usize::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "POST /v1/announce HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\ncontent-length: 3\r\n";

    #[test]
    fn an_ordinary_announce_is_found_when_it_is_whole_and_not_before() {
        let text = format!("{GOOD}\r\nabcPOST");
        let body = text.find("abc").unwrap();
        for cut in 0..text.len() {
            let expected =
                if cut < body + 3 { Found::Part } else { Found::Announce { body: body..body + 3, close: false } };
            assert_eq!(look(&text.as_bytes()[..cut]), expected, "{cut}");
        }
        for more in ["user-agent: x/1\r\n", "Accept: */*\r\nACCEPT-ENCODING: gzip\r\n", "connection: keep-alive\r\n"] {
            assert!(matches!(look(format!("{GOOD}{more}\r\nabc").as_bytes()), Found::Announce { close: false, .. }));
        }
        let last = format!("{GOOD}Connection:close\r\n\r\nabc");
        assert!(matches!(look(last.as_bytes()), Found::Announce { close: true, .. }));
    }

    #[test]
    fn whatever_is_odd_is_left_to_hyper() {
        let whole = format!("{GOOD}\r\nabc");
        for (from, to) in [
            ("POST", "GET"),
            ("POST ", "POST  "),
            ("announce", "announce?x=1"),
            ("HTTP/1.1", "HTTP/1.0"),
            ("Host: t\r\n", ""),
            ("Host: t\r\n", "Host: t\n"),
            ("Host: t\r\n", "Host: t\r\nHost: t\r\n"),
            ("Host: t\r\n", "Host: t\r\n folded\r\n"),
            ("Host: t\r\n", "Host : t\r\n"),
            ("Host: t\r\n", "Host: \u{e4}\r\n"),
            ("Host: t\r\n", "Host: a\0b\r\n"),
            ("Host: t\r\n", "Host: a\rb\r\n"),
            ("Host: t\r\n", "Host: t\r\nnonsense\r\n"),
            ("Host: t\r\n", "Host: t\r\n: x\r\n"),
            ("Host: t\r\n", "Host: t\r\nTransfer-Encoding: chunked\r\n"),
            ("Host: t\r\n", "Host: t\r\nExpect: 100-continue\r\n"),
            ("Host: t\r\n", "Host: t\r\nUpgrade: h2c\r\n"),
            ("Host: t\r\n", "Host: t\r\nOrigin: http://evil.example\r\n"),
            ("Host: t\r\n", "Host: t\r\nX-Forwarded-For: 8.8.8.8\r\n"),
            ("Host: t\r\n", "Host: t\r\nconnection: upgrade\r\n"),
            ("application/json", "text/plain"),
            ("application/json", "application/json; charset=utf-8"),
            ("length: 3", "length: 3\r\ncontent-length: 3"),
            ("length: 3", "length: 3\r\ncontent-length: 4"),
            ("length: 3", "length: +3"),
            ("length: 3", "length: 03"),
            ("length: 3", "length: 0x3"),
            ("length: 3", "length: 3, 3"),
            ("length: 3", "length: "),
            ("length: 3", "length: 16385"),
            ("length: 3", "length: 18446744073709551619"),
            ("content-length: 3\r\n", ""),
        ] {
            let odd = whole.replacen(from, to, 1);
            assert_ne!(odd, whole);
            assert_eq!(look(odd.as_bytes()), Found::Other, "{odd:?}");
        }
        assert_eq!(look(format!("\r\n{whole}").as_bytes()), Found::Other);
        assert_eq!(look(format!("{GOOD}{}\r\nabc", "accept: x\r\n".repeat(40)).as_bytes()), Found::Other);
    }

    #[test]
    fn what_will_never_be_a_head_is_refused_at_once() {
        for bad in [&b"\x16\x03\x01"[..], b"shoal", b"\r\n\0", b" GET"] {
            assert_eq!(look(bad), Found::Bad(400));
        }
        for (length, expected) in [(MAX_HEAD_BYTES, Found::Part), (MAX_HEAD_BYTES + 1, Found::Bad(431))] {
            assert_eq!(look(&vec![b'A'; length]), expected);
        }
        assert_eq!(look(&b"\r\n".repeat(MAX_HEAD_BYTES)), Found::Bad(431));
    }
}
