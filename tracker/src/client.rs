//! Asks a running tracker: one GET, one answer, within a few seconds.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use shoal_protocol::link::Url;
use std::time::Duration;
use tokio::net::TcpStream;

/// For the whole exchange.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer: a full list of peers.
const MAX_BYTES: usize = 16 << 20;

/// Status and body of an answer.
pub(crate) async fn get(url: &Url) -> Result<(u16, Bytes), String> {
    let wrong = |error: &dyn std::fmt::Display| format!("{url}: {error}");
    let exchange = async {
        let stream = TcpStream::connect((url.host.as_str(), url.port)).await.map_err(|e| wrong(&e))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| wrong(&e))?;
        let task = tokio::spawn(connection);
        let request = Request::get(&url.path)
            .header(header::HOST, url.authority())
            .body(Empty::<Bytes>::new())
            .map_err(|e| wrong(&e))?;
        let answer = sender.send_request(request).await.map_err(|e| wrong(&e))?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await.map_err(|e| wrong(&e))?;
        task.abort();
        Ok((status, body.to_bytes()))
    };
    tokio::time::timeout(TIMEOUT, exchange).await.unwrap_or_else(|_| Err(format!("{url}: no answer within 5 s")))
}
