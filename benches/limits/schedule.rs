//! How long a tracker takes under a load that doesn't wait for it: announces fall due by a fixed schedule, and each is timed
//! from when it was due, so whatever holds up the one before is seen.

use benches::Result;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

/// As many as the other load has.
const CONNECTIONS: usize = 64;
/// How long answers may be late after the last announce.
const PATIENCE: Duration = Duration::from_secs(5);
const SWARMS: u32 = 1_000;
const PEERS: u32 = 20_000;

/// A connection with at most one request on its way.
struct Line {
    stream: TcpStream,
    /// When the requests that have not been answered were due; the first one is on its way.
    due: VecDeque<Instant>,
    got: Vec<u8>,
}

/// Seconds that each announce of `per_s` took over so many seconds, shortest first.
pub(crate) fn times(port: u16, per_s: f64, seconds: u32) -> Result<Vec<f64>> {
    run(port, per_s, seconds).map_err(|error| format!("the schedule: {error}"))
}

fn run(port: u16, per_s: f64, seconds: u32) -> std::io::Result<Vec<f64>> {
    let poll = epoll::create(CreateFlags::CLOEXEC)?;
    let mut lines = Vec::new();
    for n in 0..CONNECTIONS {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        epoll::add(&poll, &stream, EventData::new_u64(n as u64), EventFlags::IN)?;
        lines.push(Line { stream, due: VecDeque::new(), got: Vec::new() });
    }
    let all = (per_s * f64::from(seconds)) as usize;
    let (mut sent, mut times, mut peer) = (0_usize, Vec::with_capacity(all), 0_u32);
    let mut events: Vec<Event> = Vec::with_capacity(CONNECTIONS);
    let mut buffer = vec![0; 64 << 10];
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds.into()) + PATIENCE;
    while times.len() < all {
        let now = Instant::now();
        if now > end {
            return Err(std::io::Error::other(format!("{} of {all} announces were not answered", all - times.len())));
        }
        let fallen = ((now - start).as_secs_f64() * per_s) as usize;
        while sent < all && sent <= fallen {
            let line = &mut lines[sent % CONNECTIONS];
            line.due.push_back(start + Duration::from_secs_f64(sent as f64 / per_s));
            if line.due.len() == 1 {
                line.ask(&mut peer)?;
            }
            sent += 1;
        }
        // Not waiting keeps the schedule; it takes a core, which is part of what the tracker has to bear.
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        events.clear();
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&none))?;
        for event in &events {
            let Some(line) = lines.get_mut(event.data.u64() as usize) else { continue };
            if line.is_answered(&mut buffer)? {
                let due = line.due.pop_front().unwrap_or(start);
                times.push(due.elapsed().as_secs_f64());
                if !line.due.is_empty() {
                    line.ask(&mut peer)?;
                }
            }
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

impl Line {
    fn ask(&mut self, peer: &mut u32) -> std::io::Result<()> {
        // Some peer, never the same one soon.
        *peer = (*peer + 7_919) % PEERS;
        let n = *peer;
        let body = format!(
            "{{\"swarm\":\"{:064x}\",\"peer\":\"{:032x}\",\"port\":{},\"event\":\"progress\",\"left\":{},\"want\":50}}",
            n % SWARMS + 1,
            n + 1,
            2_000 + n,
            n % 7
        );
        let length = body.len();
        let text = format!(
            "POST /v1/announce HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        // A request fits into an empty socket.
        self.stream.write_all(text.as_bytes())
    }

    fn is_answered(&mut self, buffer: &mut [u8]) -> std::io::Result<bool> {
        match self.stream.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.got.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        let Some(head) = self.got.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(false) };
        let text = String::from_utf8_lossy(&self.got[..head]);
        if !text.starts_with("HTTP/1.1 200") {
            return Err(std::io::Error::other(text.into_owned()));
        }
        let length = text.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse::<usize>().ok());
        let whole = self.got.len() >= head + 4 + length.unwrap_or(0);
        if whole {
            self.got.clear();
        }
        Ok(whole)
    }
}
