//! An evil peer and an evil client with a choice of modes, each a row of the list of threats. Bounded by count and time,
//! whatever they are told. Used by tests in this process and by the programs `evil_peer` and `evil_client` by hand.

use crate::fuzz::Numbers;
use crate::loopback::{Content, Evil, hello};
use bytes::BytesMut;
use shoal_protocol::message::{Block, Hello};
use shoal_protocol::{Message, PeerId, SwarmId};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// How an evil peer behaves, behind hellos that are right.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PeerMode {
    /// R1: says it has all, and of its blocks such a part is wrong (0 to 1).
    Corrupt(f64),
    /// R7: says it has all, takes requests, and sends nothing.
    Stall,
    /// R7: sends blocks a byte at a time.
    Trickle,
    /// R7: sends all of a block but its last byte.
    Short,
    /// R8: says it has all, and rejects whatever is asked.
    Liar,
    /// R6: sends blocks that nobody asked for.
    Unasked,
    /// R4, R5: asks for everything, again and again, and reads nothing.
    Greedy,
    /// R2: random frames of right and wrong lengths.
    Noise,
    /// R10: connects and says nothing.
    Silent,
    /// R12: connects, greets or says hello, and is gone.
    Abort,
}

impl FromStr for PeerMode {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(percent) = text.strip_prefix("corrupt=").and_then(|t| t.strip_suffix('%')) {
            let percent: f64 = percent.parse().map_err(|_| format!("not a number: {percent}"))?;
            return Ok(Self::Corrupt((percent / 100.0).clamp(0.0, 1.0)));
        }
        Ok(match text {
            "stall" => Self::Stall,
            "trickle" => Self::Trickle,
            "short" => Self::Short,
            "liar" => Self::Liar,
            "unasked" => Self::Unasked,
            "greedy" => Self::Greedy,
            "noise" => Self::Noise,
            "silent" => Self::Silent,
            "abort" => Self::Abort,
            _ => {
                return Err(format!(
                    "{text}: corrupt=N%, stall, trickle, short, liar, unasked, greedy, noise, silent or abort"
                ));
            }
        })
    }
}

/// How much of it there is.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Connections at a time.
    pub connections: usize,
    /// Frames, connections or requests in all.
    pub count: u64,
    /// Time in all.
    pub time: Duration,
    /// Where the numbers come from that nothing else gives.
    pub seed: u64,
    /// Addresses they come from, where the target is on this machine: those of 127.32.0.0/11, which it owns whole.
    pub addresses: u32,
}

impl Bounds {
    fn address(&self, n: u64) -> Ipv4Addr {
        Ipv4Addr::from(0x7f20_0000 + (n % u64::from(self.addresses.max(1))) as u32)
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Tally {
    /// Connections that were made.
    pub connected: AtomicU64,
    /// Frames or requests that were sent.
    pub sent: AtomicU64,
    /// Answers that said yes.
    pub good: AtomicU64,
    /// Answers that said no.
    pub refused: AtomicU64,
}

impl Tally {
    fn left(&self, bounds: &Bounds) -> bool {
        self.sent.fetch_add(1, Ordering::Relaxed) < bounds.count
    }
}

/// Who finds a house full comes again after so long: modes are about what those do who are in, not a flood of dials.
const FULL_HOUSE: Duration = Duration::from_secs(1);

/// Plays one mode against a peer's port until a bound is reached. Modes that send blocks need the content.
pub async fn play(
    mode: PeerMode,
    target: SocketAddr,
    swarm: SwarmId,
    content: Option<&Content>,
    bounds: Bounds,
) -> Arc<Tally> {
    let tally = Arc::default();
    play_counted(mode, target, swarm, content, bounds, Arc::clone(&tally)).await;
    tally
}

/// The same, counting where others can see it meanwhile.
pub async fn play_counted(
    mode: PeerMode,
    target: SocketAddr,
    swarm: SwarmId,
    content: Option<&Content>,
    bounds: Bounds,
    tally: Arc<Tally>,
) {
    let mut playing = JoinSet::new();
    for n in 0..bounds.connections {
        let (tally, content) = (Arc::clone(&tally), content.cloned());
        playing.spawn(async move {
            let mut numbers = Numbers::new(bounds.seed ^ (n as u64) << 32);
            while tally.left(&bounds) {
                let ended = one(mode, target, swarm, content.as_ref(), &bounds, &tally, &mut numbers).await;
                if ended.is_err() && mode != PeerMode::Noise {
                    // It was shut out, as it should be; a moment, so that this is no mere flood of connections.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        });
    }
    let all = async { while playing.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(bounds.time, all).await;
}

/// A new name for each connection, as any liar has.
fn ours(swarm: SwarmId, numbers: &mut Numbers) -> Hello {
    let mut peer = [0; 16];
    peer[..8].copy_from_slice(&numbers.draw().to_le_bytes());
    Hello { peer: PeerId(peer), ..hello(swarm, 0) }
}

async fn one(
    mode: PeerMode,
    target: SocketAddr,
    swarm: SwarmId,
    content: Option<&Content>,
    bounds: &Bounds,
    tally: &Tally,
    numbers: &mut Numbers,
) -> io::Result<()> {
    let mut stream = connect_from(bounds.address(numbers.draw()), target).await?;
    match mode {
        PeerMode::Silent => {
            tally.connected.fetch_add(1, Ordering::Relaxed);
            // Its end is waited for; nothing else can come.
            let _ = stream.read(&mut [0]).await?;
            return Ok(());
        }
        PeerMode::Abort => {
            match numbers.draw() % 3 {
                0 => drop(stream),
                1 => drop(Evil::greet_over(stream).await?),
                _ => drop(Evil::greet_over(stream).await?.introduced(&ours(swarm, numbers)).await?),
            }
            tally.connected.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        _ => {}
    }
    let mut evil = match Evil::greet_over(stream).await?.introduced(&ours(swarm, numbers)).await {
        Ok(evil) => evil,
        Err(error) => {
            tokio::time::sleep(FULL_HOUSE).await;
            return Err(error);
        }
    };
    tally.connected.fetch_add(1, Ordering::Relaxed);
    match mode {
        PeerMode::Noise => noise(&mut evil, bounds, tally, numbers).await,
        PeerMode::Greedy => greedy(&mut evil, bounds, tally).await,
        PeerMode::Unasked => {
            evil.send(&Message::HaveNone).await?;
            while tally.left(bounds) {
                let block = Block { piece: numbers.draw() as u32 % 16, offset: 0, length: 1_000 };
                evil.send_block(block, &[7; 1_000]).await?;
            }
            Ok(())
        }
        mode => serve(&mut evil, mode, content, bounds, tally, numbers).await,
    }
}

/// Longest body of a kind that is sent whole; of a frame that is longer, or of no kind, the head is all that is read.
const WHOLE: u32 = 4_096;

/// A few frames of random bytes, then a question that only who is still there answers; so every frame is one that was
/// read, not one that was written behind an end.
async fn noise(evil: &mut Evil, bounds: &Bounds, tally: &Tally, numbers: &mut Numbers) -> io::Result<()> {
    evil.send(&Message::HaveNone).await?;
    let mut out = BytesMut::new();
    loop {
        for _ in 0..1 + numbers.draw() % 4 {
            if !tally.left(bounds) {
                return Ok(());
            }
            let kind = match numbers.draw() % 4 {
                0 => numbers.draw() as u8,
                1 => 0x80 | numbers.draw() as u8,
                _ => 1 + (numbers.draw() % 20) as u8,
            };
            let length = match (kind, numbers.draw() % 8) {
                // What has one length mostly has it.
                (0x02 | 0x04 | 0x05 | 0x09, 1..) => 0,
                (0x08 | 0x0c, 1..) => 12,
                (0x0d, 1..) => 13,
                (0x0a | 0x11, 1..) => 4,
                (0x0f, 1..) => 8,
                (_, 0) => numbers.draw() as u32,
                (_, 1) => numbers.draw() as u32 % WHOLE,
                _ => numbers.draw() as u32 % 64,
            };
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&[kind]);
            let sent = if length <= WHOLE { length } else { 0 };
            // Small numbers, so that some are pieces.
            for _ in 0..sent {
                let (byte, keep) = (numbers.draw() as u8, numbers.draw() as u8 & 1);
                out.extend_from_slice(&[byte.wrapping_mul(keep) & 0x1f]);
            }
            if length > WHOLE && kind & 0x80 == 0 && length <= 1 << 18 {
                // Its rest would be waited for.
                out.extend(std::iter::repeat_n(0, length as usize));
            }
        }
        Message::CvRequest { first: 0, count: 1 }.encode(&mut out);
        evil.stream.write_all(&out.split()).await?;
        loop {
            match evil.next().await? {
                Message::Cvs { first: 0, .. } => break,
                Message::Goodbye { .. } => return Err(io::ErrorKind::ConnectionAborted.into()),
                _ => {}
            }
        }
    }
}

async fn greedy(evil: &mut Evil, bounds: &Bounds, tally: &Tally) -> io::Result<()> {
    evil.send(&Message::HaveNone).await?;
    let depth = u64::from(evil.hello.as_ref().map_or(1, |hello| hello.queue_depth));
    for _ in 0..depth {
        if tally.left(bounds) {
            evil.send(&Message::Request(Block { piece: 0, offset: 0, length: 1 << 16 })).await?;
        }
    }
    // Nothing is read: the other side has to end it.
    let ended = async {
        while evil.stream.writable().await.is_ok() && evil.stream.try_write(&[0, 0, 0, 0, 2]).is_ok() {
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    };
    let _ = tokio::time::timeout(bounds.time, ended).await;
    Ok(())
}

/// Says it has all, and answers requests by the mode.
async fn serve(
    evil: &mut Evil,
    mode: PeerMode,
    content: Option<&Content>,
    bounds: &Bounds,
    tally: &Tally,
    numbers: &mut Numbers,
) -> io::Result<()> {
    evil.send(&Message::HaveAll).await?;
    loop {
        let block = match evil.next().await? {
            Message::Request(block) => block,
            Message::RequestAny => {
                let block = Block { piece: u32::MAX, offset: 0, length: 0 };
                let reason = shoal_protocol::message::RejectReason::NothingToAssign;
                evil.send(&Message::Reject { block, reason }).await?;
                continue;
            }
            _ => continue,
        };
        if !tally.left(bounds) {
            return Ok(());
        }
        let mut bytes = content.map_or_else(|| vec![0; block.length as usize], |content| content.block(block));
        match mode {
            PeerMode::Stall => {}
            PeerMode::Liar => {
                let reason = shoal_protocol::message::RejectReason::NotHad;
                evil.send(&Message::Reject { block, reason }).await?;
            }
            PeerMode::Trickle | PeerMode::Short => {
                evil.send(&Message::Block(block)).await?;
                let step = if mode == PeerMode::Trickle { 1 } else { bytes.len() - 1 };
                for part in bytes.chunks(step.max(1)) {
                    if mode == PeerMode::Short && part.len() < step {
                        break;
                    }
                    evil.stream.write_all(part).await?;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            PeerMode::Corrupt(part) => {
                if numbers.unit() < part {
                    let at = numbers.draw() as usize % bytes.len();
                    bytes[at] ^= 1;
                    tally.refused.fetch_add(1, Ordering::Relaxed);
                }
                evil.send_block(block, &bytes).await?;
            }
            _ => return Ok(()),
        }
    }
}

/// With 80 connections 20,000 a second, if the machine can.
const HAMMER_PAUSE: Duration = Duration::from_millis(4);

/// What an evil client does to a tracker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientMode {
    /// C1: announces for one swarm as fast as it can.
    Flood,
    /// C1: the same on a new connection each time, which doesn't wait for its answer.
    Hammer,
    /// C2: announces for random swarms.
    Swarms,
    /// C5: half a head, and nothing more.
    SlowHead,
    /// C5: a head, and a body that doesn't come.
    SlowBody,
    /// C6: heads as large as they get.
    LargeHead,
    /// C3: names others as its candidates.
    Poison,
}

impl FromStr for ClientMode {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "flood" => Self::Flood,
            "hammer" => Self::Hammer,
            "swarms" => Self::Swarms,
            "slow-head" => Self::SlowHead,
            "slow-body" => Self::SlowBody,
            "large-head" => Self::LargeHead,
            "poison" => Self::Poison,
            _ => return Err(format!("{text}: flood, hammer, swarms, slow-head, slow-body, large-head or poison")),
        })
    }
}

/// An announce as the wire has it.
#[must_use]
pub fn announce_request(swarm: &str, peer: u64, port: u16, more: &str) -> String {
    let body = format!(
        "{{\"swarm\":\"{swarm}\",\"peer\":\"{peer:032x}\",\"port\":{port},\"event\":\"started\",\"left\":1{more}}}"
    );
    let n = body.len();
    format!(
        "POST /v1/announce HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: {n}\r\n\r\n{body}"
    )
}

/// Attacks a tracker.
pub async fn attack(mode: ClientMode, target: SocketAddr, bounds: Bounds) -> Arc<Tally> {
    let tally = Arc::new(Tally::default());
    let mut playing = JoinSet::new();
    for n in 0..bounds.connections {
        let tally = Arc::clone(&tally);
        playing.spawn(async move {
            let mut numbers = Numbers::new(bounds.seed ^ (n as u64) << 32);
            let from = bounds.address(n as u64);
            while tally.left(&bounds) {
                if client(mode, target, from, &bounds, &tally, &mut numbers).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        });
    }
    let all = async { while playing.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(bounds.time, all).await;
    tally
}

/// Connects from an address of this host, where the target is one, too.
pub async fn connect_from(from: Ipv4Addr, target: SocketAddr) -> io::Result<TcpStream> {
    if target.ip() != IpAddr::V4(Ipv4Addr::LOCALHOST) {
        return TcpStream::connect(target).await;
    }
    let socket = TcpSocket::new_v4()?;
    socket.set_nodelay(true)?;
    socket.bind(SocketAddr::from((from, 0)))?;
    socket.connect(target).await
}

async fn client(
    mode: ClientMode,
    target: SocketAddr,
    from: Ipv4Addr,
    bounds: &Bounds,
    tally: &Tally,
    numbers: &mut Numbers,
) -> io::Result<()> {
    let mut stream = connect_from(from, target).await?;
    tally.connected.fetch_add(1, Ordering::Relaxed);
    let mut answer = vec![0; 64 << 10];
    match mode {
        ClientMode::SlowHead | ClientMode::SlowBody => {
            let part = if mode == ClientMode::SlowHead {
                "GET /healthz HTTP/1.1\r\nhost: t\r\n".to_owned()
            } else {
                announce_request(&"ab".repeat(32), 1, 7171, "")
                    .split_once("\r\n\r\n")
                    .map_or(String::new(), |(head, _)| format!("{head}\r\n\r\n{{"))
            };
            stream.write_all(part.as_bytes()).await?;
            let _ = stream.read(&mut answer).await?;
            return Ok(());
        }
        ClientMode::LargeHead => {
            stream.write_all(b"GET /healthz HTTP/1.1\r\n").await?;
            while tally.left(bounds) {
                stream.write_all(b"x-header: 0123456789012345678901234567890123456789\r\n").await?;
            }
            return Ok(());
        }
        _ => {}
    }
    if mode == ClientMode::Hammer {
        let request = announce_request(&"ab".repeat(32), numbers.draw(), 7171, "");
        let _ = stream.try_write(request.as_bytes());
        let left = tally.left(bounds);
        tokio::time::sleep(HAMMER_PAUSE).await;
        return if left { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) };
    }
    while tally.left(bounds) {
        let mut swarm = "ab".repeat(32);
        if mode == ClientMode::Swarms {
            swarm = (0..4).map(|_| format!("{:016x}", numbers.draw())).collect();
        }
        let more =
            if mode == ClientMode::Poison { ",\"candidates\":[\"10.66.0.1:7171\",\"10.66.0.1:7172\"]" } else { "" };
        let request = announce_request(&swarm, numbers.draw(), 1_024 + (numbers.draw() % 60_000) as u16, more);
        stream.write_all(request.as_bytes()).await?;
        match read_answer(&mut stream, &mut answer).await? {
            200 => tally.good.fetch_add(1, Ordering::Relaxed),
            _ => tally.refused.fetch_add(1, Ordering::Relaxed),
        };
    }
    Ok(())
}

/// Reads one answer with a Content-Length; gives its status.
///
/// # Errors
/// When the connection ends before.
pub async fn read_answer(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<u16> {
    let mut got = 0;
    loop {
        let read = stream.read(&mut buffer[got..]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        got += read;
        let Some(head) = buffer[..got].windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
        let length = text.split("content-length: ").nth(1).and_then(|t| t.lines().next()).and_then(|t| t.parse().ok());
        if got >= head + 4 + length.unwrap_or(0) {
            return Ok(text.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0));
        }
    }
}

/// Announces as honest peers do, each from an address of its own on a connection of its own, at a rate; gives how long
/// each answer took in microseconds, `None` for those that did not come.
pub async fn honest_announces(target: SocketAddr, per_s: u32, time: Duration) -> Vec<Option<u64>> {
    const PEERS: u32 = 50;
    let mut playing = JoinSet::new();
    let pause = Duration::from_secs_f64(f64::from(PEERS) / f64::from(per_s.max(1)));
    let (start, end) = (Instant::now(), Instant::now() + time);
    for n in 0..PEERS {
        playing.spawn(async move {
            let mut times = Vec::new();
            let mut stream = None;
            let mut buffer = vec![0; 64 << 10];
            let mut due = start + pause.mul_f64(f64::from(n) / f64::from(PEERS));
            while due < end {
                tokio::time::sleep_until(due.into()).await;
                let request = announce_request(&"cd".repeat(32), u64::from(n), 7_171, "");
                let asking = async {
                    if stream.is_none() {
                        stream = Some(connect_from(Ipv4Addr::from(0x7f40_0001 + n), target).await?);
                    }
                    let Some(stream) = &mut stream else { return Err(io::ErrorKind::NotConnected.into()) };
                    stream.write_all(request.as_bytes()).await?;
                    read_answer(stream, &mut buffer).await
                };
                // From when it was due: who is held up by the answer before has waited, too.
                let status = tokio::time::timeout(Duration::from_secs(2), asking).await;
                if matches!(status, Ok(Ok(200))) {
                    times.push(Some(due.elapsed().as_micros() as u64));
                } else {
                    times.push(None);
                    stream = None;
                }
                due += pause;
            }
            times
        });
    }
    let mut out = Vec::new();
    while let Some(times) = playing.join_next().await {
        out.extend(times.unwrap_or_default());
    }
    out
}
