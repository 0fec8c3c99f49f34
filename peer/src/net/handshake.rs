//! The beginning of a connection: greetings, then hellos.
//!
//! The dialler's first bytes name nothing; the swarm is named in its hello, after the answer. Each side measures the round
//! trip between what it sent and what came back. Each step must happen within [`HANDSHAKE`].

use super::doors::Admission;
use super::socket;
use crate::swarm::Lack;
use bytes::BytesMut;
use rustix::io::Errno;
use shoal_protocol::codec::Codec;
use shoal_protocol::handshake::{GREETING_BYTES, Greeting, missing_features};
use shoal_protocol::limits::PORT_MIN;
use shoal_protocol::message::{GoodbyeReason, Hello};
use shoal_protocol::{Message, WireError};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest time for each step before the first frame after the hellos.
pub const HANDSHAKE: Duration = Duration::from_secs(5);
/// Longest time until a connection is there at all: TCP sends a third first packet after three seconds, and the address may be
/// that of a victim whom somebody named to thousands of us. Whom we have reason to trust is dialled again soon.
const DIAL: Duration = Duration::from_millis(2_900);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The network.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What the other side sent.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The other side said no.
    #[error("the peer refused: {0:?}")]
    Refused(GoodbyeReason),
    /// Too slow.
    #[error("no answer in time")]
    Timeout,
}

impl HandshakeError {
    /// What was lacking for a dial, where it says little of the other side.
    #[must_use]
    pub fn lack(&self) -> Option<Lack> {
        let Self::Io(error) = self else { return None };
        match Errno::from_io_error(error)? {
            Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM => Some(Lack::Means),
            Errno::NETDOWN | Errno::NETUNREACH | Errno::ADDRNOTAVAIL => Some(Lack::Route),
            _ => None,
        }
    }
}

/// A stream with the bytes that came behind what was already taken.
#[derive(Debug)]
pub struct Opened {
    /// The stream.
    pub stream: TcpStream,
    /// Bytes read ahead.
    pub buffer: BytesMut,
    /// The codec, in step with the buffer.
    pub codec: Codec,
    /// What the other side said.
    pub hello: Hello,
    /// The measured round trip.
    pub rtt: Duration,
    /// A frame that was read already: what a peer has, once it got its manifest from us.
    pub early: Option<Message>,
    /// Its place among the incoming connections, given back when the connection ends.
    pub admission: Option<Admission>,
}

/// Dials and exchanges hellos.
///
/// # Errors
/// See [`HandshakeError`].
pub async fn connect(addr: SocketAddr, hello: &Hello) -> Result<Opened, HandshakeError> {
    let stream = tokio::time::timeout(DIAL, socket::connect(addr)).await.map_err(|_| HandshakeError::Timeout)??;
    dial(stream, hello).await
}

fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

/// Opens a connection that we dialled.
///
/// # Errors
/// See [`HandshakeError`].
pub async fn dial(mut stream: TcpStream, ours: &Hello) -> Result<Opened, HandshakeError> {
    let open = async {
        let sent = Instant::now();
        stream.write_all(&Greeting { random: random()? }.to_bytes()).await?;
        read_greeting(&mut stream).await?;
        let rtt = sent.elapsed();
        send(&mut stream, &Message::Hello(Box::new(ours.clone()))).await?;
        let (mut buffer, mut codec) = (BytesMut::with_capacity(8 << 10), Codec::default());
        let hello = read_hello(&mut stream, &mut buffer, &mut codec).await?;
        if hello.swarm != ours.swarm {
            return Err(WireError::Unexpected("another swarm in the answer").into());
        }
        Ok(Opened { stream, buffer, codec, hello, rtt, early: None, admission: None })
    };
    tokio::time::timeout(HANDSHAKE, open).await.unwrap_or(Err(HandshakeError::Timeout))
}

/// Takes a connection that was dialled to us, up to the other side's hello; ours is still to be sent.
///
/// # Errors
/// See [`HandshakeError`].
pub async fn accept(mut stream: TcpStream) -> Result<Opened, HandshakeError> {
    let open = async {
        let theirs = read_greeting(&mut stream).await;
        // Who speaks another version learns from our greeting which one this is.
        let answer =
            matches!(&theirs, Ok(_) | Err(HandshakeError::Wire(WireError::Version { .. } | WireError::Mode(_))));
        if answer {
            stream.write_all(&Greeting { random: random()? }.to_bytes()).await?;
        }
        theirs?;
        let sent = Instant::now();
        let (mut buffer, mut codec) = (BytesMut::with_capacity(8 << 10), Codec::default());
        let hello = read_hello(&mut stream, &mut buffer, &mut codec).await?;
        Ok(Opened { stream, buffer, codec, hello, rtt: sent.elapsed(), early: None, admission: None })
    };
    tokio::time::timeout(HANDSHAKE, open).await.unwrap_or(Err(HandshakeError::Timeout))
}

async fn read_greeting(stream: &mut TcpStream) -> Result<Greeting, HandshakeError> {
    let mut bytes = [0; GREETING_BYTES];
    stream.read_exact(&mut bytes).await?;
    Ok(Greeting::from_bytes(&bytes)?)
}

async fn read_hello(stream: &mut TcpStream, buffer: &mut BytesMut, codec: &mut Codec) -> Result<Hello, HandshakeError> {
    match next(stream, buffer, codec).await? {
        Message::Hello(hello) => match missing_features(hello.features) {
            0 => {
                // A port that nobody may dial is none.
                let port = if hello.port < PORT_MIN { 0 } else { hello.port };
                Ok(Hello { port, ..*hello })
            }
            missing => {
                let text = format!("features that are not known here: {missing:#x}");
                let _ = send(stream, &Message::Goodbye { reason: GoodbyeReason::Protocol, text }).await;
                Err(WireError::Features(missing).into())
            }
        },
        Message::Goodbye { reason, .. } => Err(HandshakeError::Refused(reason)),
        _ => Err(WireError::Unexpected("something before the hello").into()),
    }
}

/// Reads the next frame; for the beginning of connections, where speed doesn't matter.
///
/// # Errors
/// See [`HandshakeError`].
pub async fn next(stream: &mut TcpStream, buffer: &mut BytesMut, codec: &mut Codec) -> Result<Message, HandshakeError> {
    loop {
        if let Some(message) = codec.next(buffer)? {
            return Ok(message);
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}

/// Sends one frame.
///
/// # Errors
/// When the network fails.
pub async fn send(stream: &mut TcpStream, message: &Message) -> io::Result<()> {
    let mut out = BytesMut::new();
    message.encode(&mut out);
    stream.write_all(&out).await
}

/// Sends a goodbye and closes, without waiting long.
pub async fn refuse(mut stream: TcpStream, reason: GoodbyeReason) {
    let farewell = Message::Goodbye { reason, text: String::new() };
    let _ = tokio::time::timeout(Duration::from_secs(1), send(&mut stream, &farewell)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_lacks_is_told_from_what_is_not_there() {
        for (errno, lack) in [
            (Errno::MFILE, Some(Lack::Means)),
            (Errno::NOBUFS, Some(Lack::Means)),
            (Errno::NETUNREACH, Some(Lack::Route)),
            (Errno::ADDRNOTAVAIL, Some(Lack::Route)),
            (Errno::HOSTUNREACH, None),
            (Errno::CONNREFUSED, None),
        ] {
            assert_eq!(HandshakeError::Io(errno.into()).lack(), lack, "{errno:?}");
        }
        assert_eq!(HandshakeError::Timeout.lack(), None);
    }
}
