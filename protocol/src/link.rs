//! Links: the URL that one person gives another, `http://HOST:PORT/m/ID`.

use crate::id::ContentId;
use crate::limits::URL_BYTES;
use std::fmt;

/// An HTTP URL in the parts that Shoal needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Url {
    /// Whether it is `https`.
    pub tls: bool,
    /// Host name or address, IPv6 without brackets.
    pub host: String,
    /// Port, also where the text named none.
    pub port: u16,
    /// Path with query, starting with a slash.
    pub path: String,
}

/// Why a URL is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not http or https.
    #[error("a URL must start with http:// or https://")]
    Scheme,
    /// No host, or characters that no host has.
    #[error("the URL has no valid host")]
    Host,
    /// Not a port number.
    #[error("the URL has no valid port")]
    Port,
    /// User and password belong into files, not into URLs.
    #[error("a URL with a user name or password is not accepted")]
    Credentials,
    /// A `#fragment`: a key of a private swarm, which this version doesn't have.
    #[error("the link has a '#' part, which only a version with private swarms understands; nothing was fetched")]
    Fragment,
    /// Too long, or with spaces or control characters.
    #[error("the URL is too long or holds characters that URLs can't have")]
    Form,
}

impl Url {
    /// Reads a URL.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let (tls, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(UrlError::Scheme),
        };
        if text.len() > URL_BYTES || text.bytes().any(|b| !b.is_ascii_graphic()) {
            return Err(UrlError::Form);
        }
        if rest.contains('#') {
            return Err(UrlError::Fragment);
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err(UrlError::Credentials);
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => {
                let (host, port) = v6.split_once(']').ok_or(UrlError::Host)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| UrlError::Host)?;
                (host, port.strip_prefix(':').or(if port.is_empty() { None } else { Some("?") }))
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_' | b':');
        if host.is_empty() || !host.bytes().all(plain) {
            return Err(UrlError::Host);
        }
        let port = match port {
            None => {
                if tls {
                    443
                } else {
                    80
                }
            }
            Some(digits) if digits.bytes().all(|c| c.is_ascii_digit()) => {
                digits.parse().ok().filter(|p| *p > 0).ok_or(UrlError::Port)?
            }
            Some(_) => return Err(UrlError::Port),
        };
        let path = match path.as_bytes().first() {
            None => "/".to_owned(),
            Some(b'/') => path.to_owned(),
            Some(_) => format!("/{path}"),
        };
        Ok(Self { tls, host: host.to_ascii_lowercase(), port, path })
    }

    /// The same server with another path.
    #[must_use]
    pub fn with_path(&self, path: &str) -> Self {
        Self { path: path.to_owned(), ..self.clone() }
    }

    /// `HOST:PORT`, as a `Host` header or for dialling.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The server, without a path.
    #[must_use]
    pub fn base(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }

    /// The tracker that it names, whose requests lie below its path: without a query, and for a link without its `/m/ID`.
    #[must_use]
    pub fn tracker(&self) -> Self {
        let path = self.path.split('?').next().unwrap_or_default();
        let path =
            if self.content_id().is_some() { path.rsplit_once("/m/").map_or(path, |(own, _)| own) } else { path };
        self.with_path(&format!("{}/", path.trim_end_matches('/')))
    }

    /// What lies below the path: `request` begins with a slash.
    #[must_use]
    pub fn below(&self, request: &str) -> Self {
        self.with_path(&format!("{}{request}", self.path.trim_end_matches('/')))
    }

    /// How a tracker is written: as short as it can be.
    #[must_use]
    pub fn name(&self) -> String {
        self.tracker().to_string().trim_end_matches('/').to_owned()
    }

    /// The content id, when the path is that of a link: `/m/ID` at its end.
    #[must_use]
    pub fn content_id(&self) -> Option<ContentId> {
        let path = self.path.split('?').next()?;
        let (_, id) = path.rsplit_once("/m/")?;
        id.parse().ok()
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.base(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read_whole() {
        let id = "ab".repeat(32);
        let url = Url::parse(&format!("http://10.0.0.1:7171/m/{id}")).unwrap();
        assert_eq!((url.tls, url.host.as_str(), url.port), (false, "10.0.0.1", 7171));
        assert_eq!(url.content_id().unwrap().to_string(), id);
        assert_eq!(url.base(), "http://10.0.0.1:7171");
        let v6 = Url::parse("https://[::1]/x?y=1").unwrap();
        assert_eq!((v6.authority().as_str(), v6.port, v6.path.as_str()), ("[::1]:443", 443, "/x?y=1"));
        assert_eq!(v6.content_id(), None);
        assert_eq!(Url::parse("http://Host").unwrap().to_string(), "http://host:80/");
    }

    #[test]
    fn a_tracker_may_lie_below_a_path() {
        let id = "ab".repeat(32);
        for (text, tracker) in [
            ("http://t", "http://t:80"),
            ("http://t/", "http://t:80"),
            ("https://t/shoal", "https://t:443/shoal"),
            ("https://t/shoal/?x=1", "https://t:443/shoal"),
            (&format!("http://t/m/{id}"), "http://t:80"),
            (&format!("http://t/a/b/m/{id}?x"), "http://t:80/a/b"),
            ("http://t/m/x", "http://t:80/m/x"),
        ] {
            let url = Url::parse(text).unwrap().tracker();
            assert_eq!((url.name().as_str(), url.tracker()), (tracker, url.clone()), "{text}");
            assert_eq!(url.below("/v1/announce").to_string(), format!("{tracker}/v1/announce"));
        }
    }

    #[test]
    fn bad_urls_are_refused() {
        for (text, error) in [
            ("ftp://a", UrlError::Scheme),
            ("a", UrlError::Scheme),
            ("http://", UrlError::Host),
            ("http://:80/", UrlError::Host),
            ("http://a:0/", UrlError::Port),
            ("http://a:65536/", UrlError::Port),
            ("http://a:+5/", UrlError::Port),
            ("http://u:p@a/", UrlError::Credentials),
            ("http://a/m/x#key", UrlError::Fragment),
            ("http://a b/", UrlError::Form),
            ("http://[::1", UrlError::Host),
            ("http://[x]/", UrlError::Host),
            ("http://[::1]7/", UrlError::Port),
            ("http://a\\b/", UrlError::Host),
        ] {
            assert_eq!(Url::parse(text), Err(error), "{text}");
        }
    }
}
