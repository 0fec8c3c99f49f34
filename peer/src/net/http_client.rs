//! A small HTTP client: manifests, announces and what else is asked of a server.
//!
//! HTTP/1.1 with connections kept alive, TLS through the platform's own roots, at most five redirects, no decompression
//! and a cap on every answer. Names are resolved here, so that an address is checked before it is dialled and stays
//! the one that was checked. Proxies from the environment are never used: most of what is asked for lies in private
//! networks; where that may be why something failed, [`HttpError::Connect`]'s text says so.

pub use super::dialer::Nearest;
use super::dialer::{Blocked, Dialer};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::header::{ACCEPT, CONTENT_TYPE, LOCATION, RETRY_AFTER, USER_AGENT};
use hyper::http::uri::Scheme;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpInfo;
use hyper_util::client::legacy::{self as client, Client, ResponseFuture};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use shoal_protocol::address::{canonical, reach};
use shoal_protocol::announce::Refusal;
use shoal_protocol::link::{Url, UrlError};
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Redirects that are followed.
const REDIRECTS: usize = 5;
/// How long an idle connection is kept: longer than the shortest announce intervals.
const IDLE: Duration = Duration::from_secs(90);
/// In such a time the head of an answer must come, and then so much of its body each time.
const PACE: (Duration, usize) = (Duration::from_secs(30), 16 << 10);
/// More than any caller waits.
const LONGEST: Duration = Duration::from_secs(86_400);
/// How long a host to which another one sent us may take in all.
const SENT_ON: Duration = Duration::from_secs(120);
/// How much of an error's body is read for its text.
const REFUSAL_BYTES: usize = 4 << 10;

/// Why a request has no answer that can be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HttpError {
    /// Nobody answers there: name unknown, refused, unreachable, TLS refused.
    #[error("{0}")]
    Connect(String),
    /// The address may not be dialled on the word of who named it.
    #[error("{0} is an address that may not be used here")]
    Address(String),
    /// Too slow.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The server answered with an error.
    #[error("HTTP {status}{}", if .message.is_empty() { String::new() } else { format!(": {}", .message) })]
    Status {
        /// The status code.
        status: u16,
        /// What the server says of it; escaped and short.
        message: String,
        /// In how many seconds it is to be asked again, if it said so.
        retry_after_s: Option<u32>,
    },
    /// What went wrong at a server to which another one sent us on.
    #[error("{0}: {1}")]
    Elsewhere(String, Box<HttpError>),
    /// The connection broke, or what came isn't HTTP.
    #[error("{0}")]
    Broken(String),
    /// The answer is longer than allowed.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    /// A redirect that isn't followed.
    #[error("the redirect is not followed: {0}")]
    Redirect(String),
}

impl HttpError {
    /// Whether the server was there at all.
    #[must_use]
    pub fn answered(&self) -> bool {
        !matches!(self, Self::Connect(_) | Self::Address(_) | Self::Timeout(_))
    }

    /// Whether it may go away by itself.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Timeout(_) | Self::Broken(_) => true,
            Self::Status { status, .. } => *status == 404 || *status == 408 || *status == 429 || *status >= 500,
            Self::Address(_) | Self::TooLong(_) | Self::Redirect(_) => false,
            Self::Elsewhere(_, error) => error.may_pass(),
        }
    }
}

/// Whether a redirect led to the same server, perhaps to its encrypted port.
pub fn is_at_home(from: &Url, to: &Url) -> bool {
    from.host == to.host && (from.port == to.port || (to.tls && !from.tls))
}

fn elsewhere(url: &Url, error: HttpError) -> HttpError {
    HttpError::Elsewhere(url.authority(), Box::new(error))
}

/// A server's answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The body.
    pub body: Bytes,
    /// Where it came from, after redirects.
    pub url: Url,
    /// The address that was dialled for it.
    pub ip: IpAddr,
}

type Secure = Client<HttpsConnector<Dialer>, Full<Bytes>>;

/// The clients for one sort of addresses. The one for TLS is made when it is first needed: it reads all of the
/// platform's roots, which takes longer than a small fetch.
#[derive(Debug, Default)]
struct Clients {
    plain: OnceLock<Client<Dialer, Full<Bytes>>>,
    secure: OnceLock<Result<Secure, String>>,
}

impl Clients {
    /// Sends a request by the client that its scheme needs.
    fn request(&self, nearest: Nearest, request: Request<Full<Bytes>>) -> Result<ResponseFuture, HttpError> {
        if request.uri().scheme() != Some(&Scheme::HTTPS) {
            let client = self.plain.get_or_init(|| builder().build(Dialer { nearest }));
            return Ok(client.request(request));
        }
        let client = self.secure.get_or_init(|| {
            let tls = HttpsConnectorBuilder::new()
                .with_provider_and_platform_verifier(rustls::crypto::ring::default_provider())
                .map_err(|error| format!("TLS can't be set up: {error}"))?;
            Ok(builder().build(tls.https_only().enable_http1().wrap_connector(Dialer { nearest })))
        });
        let client = client.as_ref().map_err(|error| HttpError::Connect(error.clone()))?;
        Ok(client.request(request))
    }
}

fn builder() -> client::Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder.pool_idle_timeout(IDLE).pool_max_idle_per_host(2).pool_timer(TokioTimer::new());
    builder
}

/// The client. Clones share connections.
#[derive(Debug, Clone, Default)]
pub struct HttpClient {
    /// One for each nearest reach that may be dialled: anything, private networks and beyond, the internet only.
    /// Connections of one are never used by another.
    clients: Arc<[Clients; 3]>,
}

/// What is sent.
#[derive(Debug, Clone)]
struct Call<'a> {
    method: Method,
    accept: &'a str,
    content_type: &'a str,
    body: Bytes,
    cap: usize,
}

impl HttpClient {
    /// A client without connections yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gets at most `cap` bytes, following redirects: https stays https, and no redirect leads nearer than its source.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub async fn fetch_bytes(
        &self,
        url: &Url,
        accept: &str,
        cap: usize,
        timeout: Duration,
        nearest: Nearest,
    ) -> Result<Answer, HttpError> {
        let call = Call { method: Method::GET, accept, content_type: "", body: Bytes::new(), cap };
        within(timeout, self.follow(url, call, nearest)).await
    }

    /// Whether something is there: a HEAD request.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub async fn head(&self, url: &Url, timeout: Duration, nearest: Nearest) -> Result<(), HttpError> {
        let call = Call { method: Method::HEAD, accept: "*/*", content_type: "", body: Bytes::new(), cap: 0 };
        within(timeout, self.follow(url, call, nearest)).await.map(drop)
    }

    /// Posts JSON and reads an answer of at most `cap` bytes. Redirects are errors.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub async fn post_json(
        &self,
        url: &Url,
        body: Vec<u8>,
        cap: usize,
        timeout: Duration,
        nearest: Nearest,
    ) -> Result<Answer, HttpError> {
        let call = Call {
            method: Method::POST,
            accept: "application/json",
            content_type: "application/json",
            body: body.into(),
            cap,
        };
        within(timeout, self.once(url, &call, nearest)).await?.body()
    }

    /// Puts bytes. Redirects are errors.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub async fn put_bytes(
        &self,
        url: &Url,
        body: Bytes,
        timeout: Duration,
        nearest: Nearest,
    ) -> Result<Answer, HttpError> {
        let call = Call {
            method: Method::PUT,
            accept: "*/*",
            content_type: "application/octet-stream",
            body,
            cap: REFUSAL_BYTES,
        };
        within(timeout, self.once(url, &call, nearest)).await?.body()
    }

    async fn follow(&self, url: &Url, call: Call<'_>, mut nearest: Nearest) -> Result<Answer, HttpError> {
        let (first, mut url) = (url, url.clone());
        for hop in 0..=REDIRECTS {
            let reply = self.once(&url, &call, nearest);
            let reply = if hop == 0 || is_at_home(first, &url) {
                reply.await
            } else {
                within(SENT_ON, reply).await.map_err(|error| elsewhere(&url, error))
            };
            match reply? {
                Reply::Answer(answer) => return Ok(answer),
                Reply::Redirect { to, ip } => {
                    let next = redirect_target(&url, &to)?;
                    nearest = nearest.and(Nearest::named_by(reach(ip)));
                    url = next;
                }
            }
        }
        Err(HttpError::Redirect(format!("more than {REDIRECTS} in a row")))
    }

    async fn once(&self, url: &Url, call: &Call<'_>, nearest: Nearest) -> Result<Reply, HttpError> {
        let uri: Uri =
            url.to_string().parse().map_err(|_| HttpError::Broken("not a URL that HTTP can ask for".into()))?;
        let mut request = Request::builder()
            .method(&call.method)
            .uri(uri)
            .header(USER_AGENT, concat!("shoal/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, call.accept);
        if !call.content_type.is_empty() {
            request = request.header(CONTENT_TYPE, call.content_type);
        }
        let request = request
            .body(Full::new(call.body.clone()))
            .map_err(|error| HttpError::Broken(format!("the request can't be made: {error}")))?;
        // What is sent takes its own time before there is an answer.
        let head_time = if call.body.is_empty() { PACE.0 } else { LONGEST };
        let response = within(head_time, async {
            self.clients[nearest as usize].request(nearest, request)?.await.map_err(|error| explain(&error))
        })
        .await?;
        let ip = response
            .extensions()
            .get::<HttpInfo>()
            .map(|info| canonical(info.remote_addr().ip()))
            .ok_or_else(|| HttpError::Broken("the connection has no remote address".into()))?;
        let status = response.status();
        if status.is_redirection() {
            let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            return match to {
                Some(to) => Ok(Reply::Redirect { to: to.to_owned(), ip }),
                None => Err(HttpError::Status { status: status.as_u16(), message: String::new(), retry_after_s: None }),
            };
        }
        if !status.is_success() {
            return Err(refusal(status, response).await);
        }
        let body = read(response, call.cap).await?;
        Ok(Reply::Answer(Answer { body, url: url.clone(), ip }))
    }
}

enum Reply {
    Answer(Answer),
    Redirect { to: String, ip: IpAddr },
}

impl Reply {
    fn body(self) -> Result<Answer, HttpError> {
        match self {
            Self::Answer(answer) => Ok(answer),
            Self::Redirect { .. } => Err(HttpError::Redirect("only downloads follow redirects".into())),
        }
    }
}

async fn within<T>(timeout: Duration, what: impl Future<Output = Result<T, HttpError>>) -> Result<T, HttpError> {
    tokio::time::timeout(timeout, what).await.unwrap_or(Err(HttpError::Timeout(timeout)))
}

/// Where a `Location` leads; relative ones only from the root, which is what servers send.
fn redirect_target(from: &Url, to: &str) -> Result<Url, HttpError> {
    let target = if to.starts_with('/') && !to.starts_with("//") {
        // Parsed again, as a path may hold what URLs can't.
        Url::parse(&from.with_path(to).to_string())
    } else if let Some(rest) = to.strip_prefix("//") {
        Url::parse(&format!("{}://{rest}", if from.tls { "https" } else { "http" }))
    } else {
        Url::parse(to)
    };
    let target = target.map_err(|error: UrlError| HttpError::Redirect(error.to_string()))?;
    if from.tls && !target.tls {
        return Err(HttpError::Redirect("it leads from https to plain http".into()));
    }
    Ok(target)
}

/// Its head has come, so somebody is there.
fn slow_body() -> HttpError {
    HttpError::Broken(format!("too little of the answer came within {} s", PACE.0.as_secs()))
}

/// Reads a body, never more than `cap` bytes of it, as long as it comes at a pace.
async fn read(response: Response<hyper::body::Incoming>, cap: usize) -> Result<Bytes, HttpError> {
    let mut body = response.into_body();
    let mut out = BytesMut::new();
    let (mut due, mut counted) = (tokio::time::Instant::now() + PACE.0, 0);
    loop {
        let next = tokio::time::timeout_at(due, body.frame()).await.map_err(|_| slow_body())?;
        let Some(frame) = next else { return Ok(out.freeze()) };
        let frame = frame.map_err(|error| HttpError::Broken(format!("the connection broke: {error}")))?;
        if let Some(data) = frame.data_ref() {
            if out.len() + data.len() > cap {
                return Err(HttpError::TooLong(cap));
            }
            out.extend_from_slice(data);
            if out.len() - counted >= PACE.1 {
                (due, counted) = (tokio::time::Instant::now() + PACE.0, out.len());
            }
        }
    }
}

async fn refusal(status: StatusCode, response: Response<hyper::body::Incoming>) -> HttpError {
    let after = response.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
    let body = read(response, REFUSAL_BYTES).await.unwrap_or_default();
    let text = match serde_json::from_slice::<Refusal>(&body) {
        Ok(refusal) => refusal.error,
        Err(_) => status.canonical_reason().unwrap_or("").to_owned(),
    };
    let message = crate::failure::escape(&text.chars().take(200).collect::<String>());
    HttpError::Status { status: status.as_u16(), message, retry_after_s: after }
}

fn explain(error: &hyper_util::client::legacy::Error) -> HttpError {
    // The innermost cause says what happened; the outer ones only that a request failed.
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        if let Some(blocked) = inner.downcast_ref::<Blocked>() {
            return HttpError::Address(blocked.0.clone());
        }
        cause = inner;
    }
    if error.is_connect() {
        HttpError::Connect(format!("{cause}{}", proxy_note()))
    } else {
        HttpError::Broken(format!("the connection broke: {cause}"))
    }
}

/// Named in errors, so that nobody looks for the fault in a proxy that was never asked.
fn proxy_note() -> &'static str {
    let set = ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
    if set.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty())) {
        " (a proxy is set in the environment; it is not used)"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn nobody_is_sent_nearer_than_who_sends_it_is() {
        for (asked_by, sent_on_from, to, allowed) in [
            ("127.0.0.1", "127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "10.0.0.1", "127.0.0.1", false),
            ("127.0.0.1", "10.0.0.1", "10.0.0.2", true),
            ("127.0.0.1", "9.9.9.9", "10.0.0.2", false),
            ("127.0.0.1", "9.9.9.9", "8.8.8.8", true),
            ("10.0.0.1", "127.0.0.1", "127.0.0.1", false),
            ("9.9.9.9", "10.0.0.1", "10.0.0.2", false),
            ("9.9.9.9", "169.254.0.1", "8.8.8.8", true),
        ] {
            let near = |ip: &str| Nearest::named_by(reach(ip.parse().unwrap()));
            let left = near(asked_by).and(near(sent_on_from));
            assert_eq!(left.allows(to.parse().unwrap()), allowed, "{asked_by}, {sent_on_from} to {to}");
        }
    }

    #[test]
    fn redirects_never_lose_tls() {
        let from = url("https://a/m/x");
        assert!(redirect_target(&from, "http://a/m/x").is_err());
        assert_eq!(redirect_target(&from, "/y").unwrap(), url("https://a/y"));
        assert_eq!(redirect_target(&from, "//b/y").unwrap(), url("https://b/y"));
        assert_eq!(redirect_target(&url("http://a/"), "https://b/").unwrap(), url("https://b/"));
        assert!(redirect_target(&from, "file:///etc/passwd").is_err());
    }

    /// Serves canned answers, one connection each, and returns its address.
    async fn server(answers: Vec<String>) -> SocketAddr {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 1024];
                let _ = stream.read(&mut head).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        addr
    }

    async fn get(addr: SocketAddr, cap: usize) -> Result<Answer, HttpError> {
        let client = HttpClient::new();
        client
            .fetch_bytes(&url(&format!("http://{addr}/")), "*/*", cap, Duration::from_secs(5), Nearest::Anything)
            .await
    }

    #[tokio::test]
    async fn a_refusal_says_when_to_come_again() {
        for (line, after) in [("retry-after: 7\r\n", Some(7)), ("", None), ("retry-after: soon\r\n", None)] {
            let head = format!("HTTP/1.1 429 Too Many Requests\r\n{line}content-length: 16\r\nconnection: close");
            let refusal = format!("{head}\r\n\r\n{}", r#"{"error":"busy"}"#);
            let error = get(server(vec![refusal]).await, 99).await.unwrap_err();
            let HttpError::Status { status, message, retry_after_s } = &error else { panic!("{error}") };
            assert_eq!((*status, message.as_str(), *retry_after_s), (429, "busy", after));
        }
    }

    #[tokio::test]
    async fn answers_are_capped_and_redirects_followed() {
        let found = "HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned();
        let good = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello".to_owned();
        let answer = get(server(vec![found, good.clone()]).await, 5).await.unwrap();
        assert_eq!((&answer.body[..], answer.url.path.as_str()), (&b"hello"[..], "/x"));
        assert!(answer.ip.is_loopback());
        assert!(matches!(get(server(vec![good]).await, 4).await, Err(HttpError::TooLong(4))));
    }

    #[tokio::test]
    async fn errors_are_told_apart() {
        let gone =
            "HTTP/1.1 404 Not Found\r\ncontent-length: 15\r\nconnection: close\r\n\r\n{\"error\":\"nix\"}".to_owned();
        let error = get(server(vec![gone]).await, 5).await.unwrap_err();
        assert_eq!(error.to_string(), "HTTP 404: nix");
        assert!(error.answered() && error.may_pass());
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let error = get(closed, 5).await.unwrap_err();
        assert!(matches!(error, HttpError::Connect(_)) && !error.answered(), "{error}");
        let blocked = HttpClient::new();
        let loopback = url(&format!("http://{closed}/"));
        let error =
            blocked.fetch_bytes(&loopback, "*/*", 5, Duration::from_secs(5), Nearest::Global).await.unwrap_err();
        assert!(matches!(error, HttpError::Address(_)), "{error:?}");
    }
}
