//! The front of a connection: waits for a head at next to no cost, answers ordinary announces itself, and lets hyper have
//! the connection when anything else comes.
//!
//! Contract: while nothing or half a head has come, a connection holds its task and the bytes that came ([`SMALL`] at
//! most, or more by one of few permits); buffers are the thread's. hyper gets a connection with a whole head only, and
//! keeps it. An announce costs one read and one write: 12.4 µs of a core where hyper's
//! way costs 15.4 (4 s of 64 connections, one run each).

use crate::doors::Place;
use crate::http::refusal;
use crate::manifests::Refused;
use crate::patience::Pace;
use crate::quick::{Found, MAX_HEAD_BYTES, look};
use crate::service::Service;
use hyper::body::Body as _;
use hyper::rt::ReadBuf;
use shoal_protocol::Announce;
use shoal_protocol::limits::ANNOUNCE_BYTES;
use std::cell::RefCell;
use std::io::Write as _;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::OwnedSemaphorePermit;

/// Bytes of half a request that any connection may hold. Ordinary announces come whole and are never held.
const SMALL: usize = 2 << 10;
/// Connections that may hold more, up to the longest head and body: 24 MiB in all.
pub(crate) const LARGE_MOST: usize = 1_024;
/// Requests of one connection that are answered before others get their turn.
const TURN: usize = 8;
/// How long an address that asks too fast waits for its refusal. Nothing is read meanwhile, so a flood over kept
/// connections is as slow as this, and costs nobody else anything.
pub(crate) const REFUSAL_PAUSE: Duration = Duration::from_millis(250);

/// Why the front is done with a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Over,
    /// `held` begins with a whole head that isn't an ordinary announce.
    Other,
}

/// A connection that hyper doesn't have yet.
#[derive(Debug, Default)]
pub(crate) struct Front {
    /// What came and was not answered.
    pub(crate) held: Vec<u8>,
    /// Whether something may be whole in `held` before more is read.
    more: bool,
    large: Option<OwnedSemaphorePermit>,
    /// What could not be written at once.
    unsent: Vec<u8>,
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
    close: bool,
}

/// Who asks, and what watches over the connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guest<'a> {
    pub(crate) remote: IpAddr,
    pub(crate) local: IpAddr,
    pub(crate) pace: &'a Pace,
    pub(crate) place: &'a Place,
}

/// Buffers of a thread: one turn of one connection at a time uses them.
struct Desk {
    input: Box<[u8]>,
    body: Vec<u8>,
    output: Vec<u8>,
    date_s: u64,
    date: String,
}

thread_local! {
    static DESK: RefCell<Desk> = RefCell::new(Desk {
        input: vec![0; MAX_HEAD_BYTES + ANNOUNCE_BYTES].into(),
        body: Vec::new(),
        output: Vec::new(),
        date_s: 0,
        date: String::new(),
    });
}

impl Front {
    /// Whether an answer is still on its way out.
    pub(crate) fn is_sending(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Answers until the connection is over or hyper has to have it.
    pub(crate) fn poll<IO>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut IO,
        service: &Service,
        guest: Guest<'_>,
    ) -> Poll<End>
    where
        IO: hyper::rt::Read + hyper::rt::Write + Unpin,
    {
        for _ in 0..TURN {
            ready!(self.poll_send(cx, io, guest.pace));
            if self.close {
                let _ = ready!(Pin::new(&mut *io).poll_shutdown(cx));
                return Poll::Ready(End::Over);
            }
            let turn = DESK.with_borrow_mut(|desk| self.poll_desk(cx, io, service, guest, desk));
            if let Some(end) = ready!(turn) {
                return Poll::Ready(end);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Sends what could not be sent at once, after the pause that it was given.
    pub(crate) fn poll_send<IO>(&mut self, cx: &mut Context<'_>, io: &mut IO, pace: &Pace) -> Poll<()>
    where
        IO: hyper::rt::Write + Unpin,
    {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        while !self.unsent.is_empty() {
            match ready!(Pin::new(&mut *io).poll_write(cx, &self.unsent)) {
                Ok(sent) if sent > 0 => {
                    self.unsent.drain(..sent);
                    pace.idle();
                }
                _ => {
                    self.unsent.clear();
                    self.close = true;
                }
            }
        }
        Poll::Ready(())
    }

    /// Reads, looks, and answers one request if it is whole.
    fn poll_desk<IO>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut IO,
        service: &Service,
        guest: Guest<'_>,
        desk: &mut Desk,
    ) -> Poll<Option<End>>
    where
        IO: hyper::rt::Read + hyper::rt::Write + Unpin,
    {
        let mut came = 0;
        if !std::mem::take(&mut self.more) {
            let mut buffer = ReadBuf::new(&mut desk.input);
            if ready!(Pin::new(&mut *io).poll_read(cx, buffer.unfilled())).is_err() {
                return Poll::Ready(Some(End::Over));
            }
            came = buffer.filled().len();
            if came == 0 {
                return Poll::Ready(Some(End::Over));
            }
        }
        let held = std::mem::take(&mut self.held);
        let joined;
        let bytes = if held.is_empty() {
            &desk.input[..came]
        } else {
            joined = [&held, &desk.input[..came]].concat();
            &joined[..]
        };
        let (body, close) = match look(bytes) {
            Found::Announce { body, close } => (body, close),
            Found::Part => {
                return Poll::Ready(if self.hold(bytes, service, guest.pace) { None } else { Some(End::Over) });
            }
            Found::Other => {
                self.held = bytes.to_vec();
                return Poll::Ready(Some(End::Other));
            }
            Found::Bad(status) => {
                let what = if status == 431 { "the head of the request is too long" } else { "this is not HTTP/1.1" };
                service.count_refused();
                self.unsent = text(&Refused::new(status, what), desk);
                self.close = true;
                return Poll::Ready(None);
            }
        };
        let refused = service.announce_quickly(&bytes[body.clone()], guest.remote, guest.local, &mut desk.body).err();
        // What lies behind the request; nothing, mostly. Who sends more ahead than there is room for gets this answer only.
        let rest = &bytes[body.end..];
        let close = close || !self.keep(rest, service);
        self.more = !self.held.is_empty();
        guest.place.used(guest.pace.idle());
        if let Some(refused) = refused {
            self.close = close || refused.closes();
            self.pause = (refused.status == 429).then(|| Box::pin(tokio::time::sleep(REFUSAL_PAUSE)));
            self.unsent = text(&refused, desk);
            return Poll::Ready(None);
        }
        self.close = close;
        desk.write_head(close);
        // Mostly all of it goes at once.
        match Pin::new(&mut *io).poll_write(cx, &desk.output) {
            Poll::Ready(Ok(sent)) => self.unsent.extend_from_slice(&desk.output[sent..]),
            Poll::Ready(Err(_)) => return Poll::Ready(Some(End::Over)),
            Poll::Pending => self.unsent.extend_from_slice(&desk.output),
        }
        Poll::Ready(None)
    }

    /// Keeps half a request until more of it comes. `false` if there is no room for it.
    fn hold(&mut self, bytes: &[u8], service: &Service, pace: &Pace) -> bool {
        let kept = self.keep(bytes, service);
        if kept {
            pace.head();
        }
        kept
    }

    /// Keeps what came and was not looked at yet. `false` if there is no room for it.
    fn keep(&mut self, bytes: &[u8], service: &Service) -> bool {
        if bytes.len() <= SMALL {
            self.large = None;
        } else if self.large.is_none() {
            let Ok(permit) = service.inner.large.clone().try_acquire_owned() else { return false };
            self.large = Some(permit);
        }
        self.held.reserve_exact(bytes.len());
        self.held.extend_from_slice(bytes);
        true
    }
}

impl Desk {
    /// The answer with `body`, in `output`.
    fn write_head(&mut self, close: bool) {
        self.set_date();
        let Self { body, output, date, .. } = self;
        output.clear();
        output.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n");
        if close {
            output.extend_from_slice(b"connection: close\r\n");
        }
        output.extend_from_slice(b"content-length: ");
        crate::answer::decimal(output, body.len() as u32);
        output.extend_from_slice(b"\r\ndate: ");
        output.extend_from_slice(date.as_bytes());
        output.extend_from_slice(b"\r\n\r\n");
        output.extend_from_slice(body);
    }

    /// Writing the date takes longer than looking whether it is still the same.
    fn set_date(&mut self) {
        let now = SystemTime::now();
        let now_s = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if now_s != self.date_s || self.date.is_empty() {
            self.date_s = now_s;
            self.date = httpdate::fmt_http_date(now);
        }
    }
}

/// The same answer that hyper writes for a refusal.
fn text(refused: &Refused, desk: &mut Desk) -> Vec<u8> {
    desk.set_date();
    let (parts, body) = refusal(refused, None).into_parts();
    let length = body.size_hint().exact().unwrap_or(0);
    let mut out = Vec::with_capacity(256);
    // Writing to memory doesn't fail.
    let _ = write!(out, "HTTP/1.1 {}\r\ncontent-length: {length}\r\ndate: {}\r\n", parts.status, desk.date);
    for (name, value) in &parts.headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(&body.into_whole());
    out
}

impl Service {
    /// Answers an announce that came whole: `out` becomes its JSON.
    fn announce_quickly(&self, body: &[u8], remote: IpAddr, local: IpAddr, out: &mut Vec<u8>) -> Result<(), Refused> {
        let counters = &self.inner.counters;
        counters.requests.fetch_add(1, Ordering::Relaxed);
        let now_ms = self.now_ms();
        let asker = self.asker(remote, None);
        let answer = self.admit(now_ms, asker).and_then(|()| {
            let announce: Announce =
                serde_json::from_slice(body).map_err(|error| Refused::new(400, format!("not an announce: {error}")))?;
            self.announce_json(now_ms, &announce, asker, local, out)
        });
        answer.inspect_err(|_| {
            counters.refused.fetch_add(1, Ordering::Relaxed);
        })
    }

    fn count_refused(&self) {
        self.inner.counters.requests.fetch_add(1, Ordering::Relaxed);
        self.inner.counters.refused.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ServiceConfig;
    use crate::disk::{DiskConfig, DiskStore};
    use hyper_util::rt::TokioIo;
    use std::future::poll_fn;
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn who_sends_more_ahead_than_there_is_room_for_gets_one_answer_and_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let store = DiskStore::open(directory.path(), DiskConfig::default()).unwrap();
        let (service, pace) = (Service::new(ServiceConfig::default(), Arc::new(store)), Pace::new());
        let _all = service.inner.large.clone().try_acquire_many_owned(LARGE_MOST as u32).unwrap();
        let body = format!(r#"{{"swarm":"{:064x}","peer":"{:032x}","port":7171,"event":"progress","left":0}}"#, 1, 2);
        let head = "POST /v1/announce HTTP/1.1\r\nhost: t\r\ncontent-type: application/json";
        let one = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        for (count, answers) in [(SMALL / one.len(), SMALL / one.len()), (SMALL / one.len() + 2, 1)] {
            let (mut theirs, ours) = tokio::io::duplex(1 << 20);
            theirs.write_all(one.repeat(count).as_bytes()).await.unwrap();
            theirs.shutdown().await.unwrap();
            let here = IpAddr::from([127, 0, 0, 1]);
            let place = service.inner.doors.enter(here).unwrap();
            let guest = Guest { remote: here, local: here, pace: &pace, place: &place };
            let (mut front, mut io) = (Front::default(), TokioIo::new(ours));
            assert_eq!(poll_fn(|cx| front.poll(cx, &mut io, &service, guest)).await, End::Over);
            drop(io);
            let mut said = String::new();
            theirs.read_to_string(&mut said).await.unwrap();
            assert_eq!(said.matches("HTTP/1.1 200 OK").count(), answers, "{count} at once: {said}");
            assert_eq!(said.contains("connection: close"), answers < count, "{count} at once");
        }
    }

    #[test]
    fn what_half_requests_hold_is_bounded_for_one_and_for_all() {
        let directory = tempfile::tempdir().unwrap();
        let store = DiskStore::open(directory.path(), DiskConfig::default()).unwrap();
        let (service, pace) = (Service::new(ServiceConfig::default(), Arc::new(store)), Pace::new());
        let hold = |front: &mut Front, bytes: usize| front.hold(&vec![b'A'; bytes], &service, &pace);
        let mut large: Vec<Front> = (0..LARGE_MOST).map(|_| Front::default()).collect();
        assert!(large.iter_mut().all(|front| hold(front, SMALL + 1)));
        let mut next = Front::default();
        assert!(!hold(&mut next, SMALL + 1) && next.held.is_empty());
        assert!(hold(&mut next, SMALL) && next.held.capacity() == SMALL);
        next.held = Vec::new();
        large.pop();
        assert!(hold(&mut next, SMALL + 1), "one has ended");
    }
}
