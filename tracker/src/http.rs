//! HTTP on connections: reads requests, asks the [`Service`], writes answers.
//!
//! Contract: one request at a time on a connection, whatever it pipelines. A head has 8 KiB and 32 headers at most and
//! 5 seconds; a body must announce its length, has 16 KiB (a manifest: the manifest's limit) and comes with a pause of
//! 5 seconds at most; 30 idle seconds end a connection. Refusals are JSON ([`Refusal`]), and come with a pause to who
//! asks too fast. There are no CORS headers, an announce needs the JSON content type, and what a web page sends under its
//! own name (`Origin`) changes nothing, also where its name was made to lead here.

use crate::doors::Place;
use crate::front::{End, Front, Guest, REFUSAL_PAUSE};
use crate::manifests::{Part, Refused};
use crate::patience::{Pace, Paced};
use crate::payload::Payload;
use crate::quick::{MAX_HEAD_BYTES, MAX_HEADERS};
use crate::routes::{Route, byte_range, route};
use crate::service::{HEAVY_MIB, SPELLED_KIB, Service};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use shoal_protocol::announce::Refusal;
use shoal_protocol::limits::{ANNOUNCE_BYTES, CV_BATCH, MANIFEST_BYTES, PIECES};
use shoal_protocol::tree::make_content_batch;
use shoal_protocol::{Announce, ContentId};
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// The least that hyper accepts, and enough for any head.
const MAX_BUFFER: usize = 16 << 10;
/// Bytes of CVs, of 32,768 pieces, up to which some of them are given with their proofs.
const RANGED_CVS: u64 = 1 << 20;
/// How long a manifest request waits for memory that others hold.
const HEAVY_WAIT: Duration = Duration::from_secs(5);
/// Slowest pace of a body, and of what lies beyond its first MiB: a long one holds memory that others wait for.
const BODY_BYTES_PER_S: u64 = 16 << 10;
const LONG_BODY_BYTES_PER_S: u64 = 256 << 10;
/// Memory for a body is asked for in steps as it comes, so that who only announces a long one takes nothing from others.
const BODY_STEP: usize = 1 << 20;
const MANIFEST_TYPE: &str = "application/vnd.shoal.manifest";
const JSON: &str = "application/json";
const BINARY: &str = "application/octet-stream";

type Answer = Response<Payload>;

/// Serves one connection until it ends, is too slow, or `shutdown` is called and the request at hand is answered.
pub(crate) async fn serve<IO, F, R>(
    io: Paced<IO>,
    timeouts: &crate::service::Timeouts,
    place: &Arc<Place>,
    shutdown: CancellationToken,
    handle: F,
) where
    IO: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> R,
    R: Future<Output = Answer>,
{
    let pace = io.pace.clone();
    let service = hyper::service::service_fn(|request| {
        pace.busy();
        place.busy();
        let answer = handle(request);
        let (pace, place) = (pace.clone(), place.clone());
        async move {
            let answer = answer.await;
            pace.idle();
            if answer.status() == StatusCode::TOO_MANY_REQUESTS {
                place.idle();
                tokio::time::sleep(REFUSAL_PAUSE).await;
                place.busy();
            }
            // What is still to be sent isn't idle: others must not cut it off, unless nothing of it is taken. The head goes
            // out before the body and counts as part of it here.
            match answer.body().size_hint().exact().unwrap_or(0) {
                0 => place.idle(),
                bytes => {
                    pace.owe(bytes);
                    place.sending();
                }
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        // `Pace` keeps the times, with one timer for a connection instead of one for each request.
        .header_read_timeout(None)
        .keep_alive(true)
        .half_close(false)
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(MAX_BUFFER)
        .serve_connection(io, service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = pace.expired(timeouts) => return,
        () = place.evicted() => return,
        () = shutdown.cancelled() => {
            if pace.fresh() {
                return;
            }
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = pace.expired(timeouts) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "connection ended");
    }
}

impl Service {
    /// Serves one connection: HTTP/1.1, until it ends, is too slow, or `shutdown` is cancelled.
    pub async fn serve_connection<IO>(&self, io: IO, remote: SocketAddr, local: SocketAddr, shutdown: CancellationToken)
    where
        IO: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        // Counted here, so that it holds for a peer that embeds this as well.
        if !self.welcomes(self.now_ms(), remote.ip()) {
            self.inner.counters.rate_limited.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let Some(place) = self.inner.doors.enter(remote.ip()).map(Arc::new) else { return };
        let (remote, local) = (remote.ip(), local.ip());
        let (mut io, mut front, pace) = (io, Front::default(), Pace::new());
        let timeouts = &self.inner.config.timeouts;
        let guest = Guest { remote, local, pace: &pace, place: &place };
        let end = tokio::select! {
            biased;
            end = poll_fn(|cx| front.poll(cx, &mut io, self, guest)) => Some(end),
            () = pace.expired(timeouts) => return,
            () = place.evicted() => return,
            () = shutdown.cancelled() => None,
        };
        match end {
            Some(End::Over) => return,
            Some(End::Other) => {}
            None => {
                if front.is_sending() {
                    tokio::select! {
                        () = poll_fn(|cx| front.poll_send(cx, &mut io, &pace)) => {}
                        () = pace.expired(timeouts) => return,
                    }
                }
                if front.held.is_empty() {
                    return;
                }
            }
        }
        let handle = |request| self.handle(request, remote, local);
        let (ahead, answer_step) = (std::mem::take(&mut front.held), timeouts.answer_step);
        let io = Paced { ahead, io, pace, place: Arc::clone(&place), answer_step };
        // On the heap, so that those who only wait don't take the room of one that is served.
        Box::pin(serve(io, timeouts, &place, shutdown, handle)).await;
    }

    async fn handle(&self, request: Request<Incoming>, remote: IpAddr, local: IpAddr) -> Answer {
        let counters = &self.inner.counters;
        counters.requests.fetch_add(1, Ordering::Relaxed);
        let head = request.method() == Method::HEAD;
        let mut answer = match self.answer(request, remote, local).await {
            Ok(answer) => answer,
            Err((refused, allow)) => {
                counters.refused.fetch_add(1, Ordering::Relaxed);
                refusal(&refused, allow)
            }
        };
        if head {
            let length = answer.body().size_hint().exact().unwrap_or(0);
            answer.headers_mut().insert(header::CONTENT_LENGTH, length.into());
            *answer.body_mut() = Payload::whole(Bytes::new());
        }
        answer
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        remote: IpAddr,
        local: IpAddr,
    ) -> Result<Answer, (Refused, Option<&'static str>)> {
        // A proxy may add a line of its own behind one that its client made up.
        let forwarded =
            request.headers().get_all("x-forwarded-for").iter().next_back().map(|v| v.to_str().unwrap_or(""));
        let asker = self.asker(remote, forwarded);
        check_framing(&request).map_err(plain)?;
        let route = route(request.method(), request.uri().path(), request.uri().query())?;
        // Whoever watches a tracker may ask as often as it likes: that costs nothing.
        if route != Route::Health {
            self.admit(self.now_ms(), asker).map_err(plain)?;
        }
        match route {
            Route::Health => Ok(ok("text/plain", "ok\n")),
            Route::Announce => self.announce_request(request, asker, local).await,
            Route::Scrape(ids) => Ok(json(&self.scrape(&ids))),
            Route::Manifest(id, binary) => self.manifest(request.headers(), id, binary, asker).await,
            Route::Cvs(id, None) => self.file(request.headers(), id, Part::Cvs, BINARY, None).await,
            Route::Cvs(id, Some((first, count))) => self.cv_batch(id, first, count).await,
            Route::Put(id, part) => self.put(request, id, part).await,
        }
        .map_err(plain)
    }

    async fn announce_request(
        &self,
        request: Request<Incoming>,
        asker: IpAddr,
        local: IpAddr,
    ) -> Result<Answer, Refused> {
        let kind = text(request.headers(), "content-type").unwrap_or_default();
        if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(JSON) {
            return Err(Refused::new(415, "an announce has the content type application/json"));
        }
        let length = body_length(request.headers(), ANNOUNCE_BYTES as u64)?;
        let (body, _memory) = self.read_body(request.into_body(), length).await?;
        let announce: Announce =
            serde_json::from_slice(&body).map_err(|error| Refused::new(400, format!("not an announce: {error}")))?;
        let mut handout = Vec::new();
        self.announce_json(self.now_ms(), &announce, asker, local, &mut handout)?;
        Ok(ok(JSON, handout))
    }

    async fn manifest(
        &self,
        headers: &HeaderMap,
        id: ContentId,
        binary: Option<bool>,
        asker: IpAddr,
    ) -> Result<Answer, Refused> {
        let binary = binary.unwrap_or_else(|| text(headers, "accept").is_some_and(|a| a.contains(MANIFEST_TYPE)));
        let source = self.inner.manifests.clone();
        let length = blocking(move || source.part_len(&id, Part::Manifest)).await?.ok_or_else(|| unknown(&id))?;
        // JSON spells an entry in about twice the bytes.
        let size = if binary { length } else { length * 2 };
        if size > self.inner.config.redirect_from
            && let Some(url) = self.inner.manifests.redirect(&id, asker)
            && let Ok(location) = HeaderValue::from_str(&url)
        {
            let mut answer = Response::new(Payload::whole("another peer has it\n"));
            *answer.status_mut() = StatusCode::TEMPORARY_REDIRECT;
            answer.headers_mut().insert(header::LOCATION, location);
            return Ok(answer);
        }
        let _permit = self.heavy(length * 4).await?;
        let source = self.inner.manifests.clone();
        let manifest = blocking(move || source.manifest(&id)).await?.ok_or_else(|| unknown(&id))?;
        if binary {
            let content_length = manifest.binary_len();
            drop(manifest);
            return self.file(headers, id, Part::Manifest, MANIFEST_TYPE, Some(content_length)).await;
        }
        let kib = u32::try_from(size >> 10).unwrap_or(u32::MAX).min(SPELLED_KIB);
        let spelled = budget(&self.inner.spelled, kib).await?;
        let text = blocking(move || manifest.to_json()).await?;
        let mut answer = Response::new(Payload::holding(text, Some(spelled)));
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
        answer.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
        Ok(answer)
    }

    /// A stored part, whole or a range of it.
    async fn file(
        &self,
        headers: &HeaderMap,
        id: ContentId,
        part: Part,
        kind: &'static str,
        content_length: Option<u32>,
    ) -> Result<Answer, Refused> {
        let source = self.inner.manifests.clone();
        let length = blocking(move || source.part_len(&id, part)).await?.ok_or_else(|| unknown(&id))?;
        let range = text(headers, "range").map_or(Ok(None), |range| byte_range(range, length))?;
        let partial = range.clone();
        let range = range.unwrap_or(0..length);
        let source = self.inner.manifests.clone();
        let mut answer = Response::new(Payload::file(source, id, part, range.clone()));
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if let Some(n) = content_length {
            headers.insert(HeaderName::from_static("shoal-content-length"), n.into());
            headers.insert(header::VARY, HeaderValue::from_static("accept"));
        }
        if partial.is_some() {
            let text = format!("bytes {}-{}/{length}", range.start, range.end.saturating_sub(1));
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert(header::CONTENT_RANGE, value);
            }
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        Ok(answer)
    }

    async fn cv_batch(&self, id: ContentId, first: u32, count: u32) -> Result<Answer, Refused> {
        if count > CV_BATCH {
            return Err(Refused::new(
                400,
                format!("count is {count}, at most {CV_BATCH} pieces are asked for at once"),
            ));
        }
        let source = self.inner.manifests.clone();
        let length = blocking(move || source.part_len(&id, Part::Cvs)).await?.ok_or_else(|| unknown(&id))?;
        // A batch takes the hash tree of its whole file: of a large one that is a third of a second for each question.
        if length > RANGED_CVS {
            return Err(Refused::new(400, "there are too many CVs to give some of them; ask for all, or for a Range"));
        }
        let _permit = self.heavy(length).await?;
        let source = self.inner.manifests.clone();
        blocking(move || {
            let manifest = source.manifest(&id).ok_or_else(|| unknown(&id))?;
            let pieces = manifest.geometry().pieces();
            if first >= pieces || count > pieces - first {
                return Err(Refused::new(416, format!("the content has {pieces} pieces")));
            }
            let cvs = source.part(&id, Part::Cvs).ok_or_else(|| unknown(&id))?;
            let batch = make_content_batch(manifest.geometry(), cvs.as_chunks().0, first, count);
            Ok(ok(BINARY, batch.as_flattened().to_vec()))
        })
        .await?
    }

    async fn put(&self, request: Request<Incoming>, id: ContentId, part: Part) -> Result<Answer, Refused> {
        self.inner.manifests.accepts_put(&id)?;
        let limit = match part {
            Part::Manifest => MANIFEST_BYTES as u64,
            Part::Cvs => PIECES * 32,
        };
        let length = body_length(request.headers(), limit)?;
        let (body, _memory) = self.read_body(request.into_body(), length).await?;
        // What is read out of it.
        let _permit = self.heavy(body.len() as u64).await?;
        let source = self.inner.manifests.clone();
        let new = blocking(move || source.put(&id, part, &body)).await??;
        let mut answer = Response::new(Payload::whole(Bytes::new()));
        *answer.status_mut() = if new { StatusCode::CREATED } else { StatusCode::OK };
        Ok(answer)
    }

    /// Reads a body whose length was announced and checked. Memory grows with what has come.
    async fn read_body(
        &self,
        mut body: Incoming,
        length: u32,
    ) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Refused> {
        let pause = self.inner.config.timeouts.body;
        let mut out = Vec::new();
        let mut memory: Option<OwnedSemaphorePermit> = None;
        // A byte now and then is not progress: the whole has a time, too.
        let end = tokio::time::Instant::now() + body_time(length, pause);
        loop {
            // What is there needs no timer, and most announces come whole with their head.
            let frame = match poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx))).await {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    let deadline = end.min(tokio::time::Instant::now() + pause);
                    let frame = tokio::time::timeout_at(deadline, body.frame()).await;
                    frame.map_err(|_| Refused::new(408, "the body came too slowly"))?
                }
            };
            let data = match frame {
                None if out.len() == length as usize => return Ok((out.into(), memory)),
                None | Some(Err(_)) => return Err(Refused::new(400, "the body ended early")),
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            };
            if data.len() == length as usize {
                return Ok((data, memory));
            }
            let (before, after) = (out.len() / BODY_STEP, (out.len() + data.len()) / BODY_STEP);
            if after > before
                && let Some(more) = self.heavy(((after - before) * BODY_STEP) as u64).await?
            {
                match &mut memory {
                    Some(held) => held.merge(more),
                    None => memory = Some(more),
                }
            }
            if out.is_empty() {
                out.reserve((length as usize).min(64 << 10));
            }
            out.extend_from_slice(&data);
        }
    }

    /// Memory for a large request: what others hold is waited for, but not for ever. Small ones need none.
    async fn heavy(&self, bytes: u64) -> Result<Option<OwnedSemaphorePermit>, Refused> {
        let mib = u32::try_from(bytes >> 20).unwrap_or(u32::MAX).min(HEAVY_MIB);
        if mib == 0 {
            return Ok(None);
        }
        budget(&self.inner.heavy, mib).await.map(Some)
    }
}

/// Takes part of a budget, once there is enough of it.
async fn budget(of: &Arc<Semaphore>, permits: u32) -> Result<OwnedSemaphorePermit, Refused> {
    match tokio::time::timeout(HEAVY_WAIT, of.clone().acquire_many_owned(permits)).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(Refused::later(503, "busy with other large manifests; try again", 5)),
    }
}

fn plain(refused: Refused) -> (Refused, Option<&'static str>) {
    (refused, None)
}

fn unknown(id: &ContentId) -> Refused {
    Refused::new(404, format!("{id} is not known here; its seed puts it when it announces"))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// What could be read in two ways by two programs is refused, and the connection ends after it.
fn check_framing(request: &Request<Incoming>) -> Result<(), Refused> {
    let headers = request.headers();
    if headers.contains_key(header::TRANSFER_ENCODING) {
        // hyper drops a Content-Length beside it, so this is the place where both together are refused, too.
        return Err(Refused::new(400, "a body needs a Content-Length; Transfer-Encoding is not taken"));
    }
    let reads = *request.method() == Method::GET || *request.method() == Method::HEAD;
    if reads && !request.body().is_end_stream() {
        return Err(Refused::new(400, "GET and HEAD have no body"));
    }
    if !reads && headers.contains_key(header::ORIGIN) {
        // Even where the page's name leads here, as after DNS rebinding.
        return Err(Refused::new(403, "web pages can't announce or put anything"));
    }
    if headers.get_all(header::HOST).iter().count() > 1 {
        return Err(Refused::new(400, "more than one Host header"));
    }
    Ok(())
}

fn body_length(headers: &HeaderMap, limit: u64) -> Result<u32, Refused> {
    let length: u64 = text(headers, "content-length")
        .and_then(|t| t.parse().ok())
        .ok_or_else(|| Refused::new(411, "a body with a Content-Length is expected"))?;
    u32::try_from(length)
        .ok()
        .filter(|n| u64::from(*n) <= limit)
        .ok_or_else(|| Refused::new(413, format!("the body has {length} bytes, the limit is {limit}")))
}

/// How long a body may take.
fn body_time(length: u32, pause: Duration) -> Duration {
    let length = u64::from(length);
    let (first, rest) = (length.min(BODY_STEP as u64), length.saturating_sub(BODY_STEP as u64));
    pause + Duration::from_secs(first / BODY_BYTES_PER_S + rest / LONG_BODY_BYTES_PER_S)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refused> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Refused::new(500, "internal error; the tracker's log says more"))
}

pub(crate) fn ok(kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Payload::whole(body));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

pub(crate) fn json(value: &impl serde::Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => ok(JSON, body),
        Err(error) => refusal(&Refused::new(500, error.to_string()), None),
    }
}

pub(crate) fn refusal(refused: &Refused, allow: Option<&'static str>) -> Answer {
    let mut answer = json_text(&Refusal { error: refused.error.clone() });
    *answer.status_mut() = StatusCode::from_u16(refused.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = answer.headers_mut();
    if let Some(allow) = allow {
        headers.insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    if let Some(after_s) = refused.retry_after_s {
        headers.insert(header::RETRY_AFTER, after_s.into());
    }
    if refused.closes() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

fn json_text(refusal: &Refusal) -> Answer {
    ok(JSON, serde_json::to_vec(refusal).unwrap_or_default())
}
