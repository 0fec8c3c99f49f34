//! Real engines on this host's loopback, their contents, and an evil peer that speaks the wire by hand.

use bytes::{Buf, BytesMut};
use shoal_peer::engine::{Engine, EngineConfig, Fetching, Handle, Seeding, TrackerUrl};
use shoal_peer::store::{Download, DownloadOptions, Existing, MemorySource, Opened, Source, SyncMode};
use shoal_protocol::address::Reach;
use shoal_protocol::codec::Codec;
use shoal_protocol::handshake::{GREETING_BYTES, Greeting};
use shoal_protocol::link::Url;
use shoal_protocol::manifest::{Entry, Hints, Kind, Shape};
use shoal_protocol::message::{Block, Hello};
use shoal_protocol::{Hash, Manifest, Message, PeerId, SwarmId, tree};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Nothing on this host takes longer, however busy it is; only what hangs does.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A content with its bytes.
#[derive(Debug, Clone)]
pub struct Content {
    /// What it is.
    pub manifest: Arc<Manifest>,
    /// The bytes of each entry.
    pub files: Arc<Vec<Vec<u8>>>,
    /// All CVs.
    pub cvs: Vec<Hash>,
}

/// Bytes that no compression and no luck makes equal to others.
#[must_use]
pub fn bytes(seed: u64, size: usize) -> Vec<u8> {
    let mut out = vec![0; size];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

impl Content {
    /// One file.
    ///
    /// # Panics
    /// When the sizes make no content.
    #[must_use]
    pub fn file(seed: u64, size: usize, piece: u32) -> Self {
        Self::of(Shape::File, vec![(String::new(), bytes(seed, size))], piece)
    }

    /// A tree of files `f00000` and so on with these sizes.
    #[must_use]
    pub fn tree(seed: u64, sizes: &[usize], piece: u32) -> Self {
        let file = |(n, size): (usize, &usize)| (format!("f{n:05}"), bytes(seed + n as u64, *size));
        Self::of(Shape::Tree, sizes.iter().enumerate().map(file).collect(), piece)
    }

    /// One file of given bytes.
    ///
    /// # Panics
    /// When the sizes make no content.
    #[must_use]
    pub fn of_bytes(bytes: Vec<u8>, piece: u32) -> Self {
        Self::of(Shape::File, vec![(String::new(), bytes)], piece)
    }

    #[allow(clippy::unwrap_used)] // A test that can't make its content can't go on.
    fn of(shape: Shape, files: Vec<(String, Vec<u8>)>, piece: u32) -> Self {
        let entry = |(path, bytes): &(String, Vec<u8>)| {
            let root = *blake3::hash(bytes).as_bytes();
            Entry { path: path.clone(), kind: Kind::File { size: bytes.len() as u64, root, executable: false } }
        };
        let manifest = Manifest::new(shape, piece.into(), files.iter().map(entry).collect(), Hints::default()).unwrap();
        let mut cvs = Vec::new();
        for large in manifest.geometry().large() {
            for (n, part) in files[large.entry as usize].1.chunks(piece as usize).enumerate() {
                cvs.push(tree::piece_cv(n as u64 * u64::from(piece), part).unwrap());
            }
        }
        let files = files.into_iter().map(|(_, bytes)| bytes).collect();
        Self { manifest: Arc::new(manifest), files: Arc::new(files), cvs }
    }

    /// Its bytes as a source.
    #[must_use]
    pub fn source(&self) -> MemorySource {
        MemorySource::new(Arc::clone(&self.manifest), self.files.to_vec())
    }

    /// The bytes of a block.
    #[must_use]
    pub fn block(&self, block: Block) -> Vec<u8> {
        let mut out = vec![0; block.length as usize];
        if self.source().read(block, &mut out).is_err() {
            out.fill(0);
        }
        out
    }

    /// The swarm.
    #[must_use]
    pub fn swarm(&self) -> SwarmId {
        self.manifest.id().open_swarm()
    }

    /// Whether what lies under a path is this content, byte for byte.
    #[must_use]
    pub fn is_at(&self, path: &Path) -> bool {
        self.manifest.entries().iter().zip(self.files.iter()).all(|(entry, bytes)| {
            let path = if entry.path.is_empty() { path.to_owned() } else { path.join(&entry.path) };
            std::fs::read(path).is_ok_and(|found| found == *bytes)
        })
    }

    /// Serves it.
    #[must_use]
    pub fn seed(&self, engine: &Engine, trackers: &[Url]) -> Handle {
        self.seed_from(engine, Arc::new(self.source()), trackers)
    }

    /// Serves it from another source.
    #[must_use]
    pub fn seed_from(&self, engine: &Engine, source: Arc<dyn Source>, trackers: &[Url]) -> Handle {
        engine.seed(Seeding {
            manifest: Arc::clone(&self.manifest),
            source,
            cvs: self.cvs.clone(),
            trackers: trackers.iter().cloned().map(Into::into).collect(),
        })
    }

    /// Fetches it to `dir/out`.
    #[must_use]
    pub fn fetch(&self, engine: &Engine, dir: &Path, peers: &[SocketAddr], trackers: &[Url]) -> Handle {
        self.fetch_told(engine, dir, peers, trackers.iter().cloned().map(Into::into).collect())
    }

    /// The same by trackers that were named by somebody.
    #[must_use]
    pub fn fetch_told(&self, engine: &Engine, dir: &Path, peers: &[SocketAddr], trackers: Vec<TrackerUrl>) -> Handle {
        let Opened::Open(download) = self.open(dir) else { panic!("it is there already") };
        engine.fetch(Fetching {
            manifest: Arc::clone(&self.manifest),
            download: Arc::new(download),
            trackers,
            peers: peers.to_vec(),
        })
    }

    /// Opens the place of a fetch.
    #[allow(clippy::unwrap_used)] // A test without a disk can't go on.
    #[must_use]
    pub fn open(&self, dir: &Path) -> Opened {
        let options = DownloadOptions {
            resume: true,
            sync: SyncMode::None,
            existing: Existing::Refuse,
            giver: Reach::Loopback,
            state_dir: dir.join("state"),
        };
        let go = AtomicBool::new(false);
        Download::open(Arc::clone(&self.manifest), &dir.join("out"), &options, &|_, _| {}, &go, &|_| {}).unwrap()
    }
}

/// An engine on loopback.
#[allow(clippy::unwrap_used)] // A test without a port can't go on.
pub async fn engine() -> Engine {
    Engine::start(EngineConfig::on_loopback()).await.unwrap()
}

/// A URL of something on loopback.
#[allow(clippy::unwrap_used)] // It is always one.
#[must_use]
pub fn url(addr: SocketAddr) -> Url {
    Url::parse(&format!("http://{addr}")).unwrap()
}

/// Waits for the end of a fetch.
///
/// # Panics
/// When it fails or takes too long.
pub async fn complete(handle: &mut Handle) -> PathBuf {
    let stats = handle.stats.clone();
    match tokio::time::timeout(PATIENCE, handle.complete()).await {
        Ok(Ok(path)) => path,
        Ok(Err(failure)) => panic!("the fetch failed: {failure:?}"),
        Err(_) => panic!("the fetch hangs: {:?}", *stats.borrow()),
    }
}

/// A connection whose frames are made by hand.
#[derive(Debug)]
pub struct Evil {
    /// The socket.
    pub stream: TcpStream,
    buffer: BytesMut,
    codec: Codec,
    /// What the other side said of itself.
    pub hello: Option<Hello>,
}

/// What an evil peer says of itself.
#[must_use]
pub fn hello(swarm: SwarmId, name: u8) -> Hello {
    Hello {
        swarm,
        peer: PeerId([name; 16]),
        features: 0,
        port: 0,
        queue_depth: 256,
        needs_manifest: false,
        spreads: false,
        no_upload: false,
        zone: String::new(),
        client: "evil".into(),
    }
}

impl Evil {
    /// Dials and exchanges greetings and hellos.
    ///
    /// # Errors
    /// When the network fails or the other side refuses.
    pub async fn dial(addr: SocketAddr, ours: &Hello) -> io::Result<Self> {
        Self::greet(addr).await?.introduced(ours).await
    }

    /// The rest of a dial, after the greetings.
    ///
    /// # Errors
    /// When the network fails, or no hello comes.
    pub async fn introduced(mut self, ours: &Hello) -> io::Result<Self> {
        self.send(&Message::Hello(Box::new(ours.clone()))).await?;
        match self.next().await? {
            Message::Hello(theirs) => self.hello = Some(*theirs),
            other => return Err(io::Error::other(format!("{other:?}"))),
        }
        Ok(self)
    }

    /// Dials and exchanges greetings only.
    ///
    /// # Errors
    /// When the network fails.
    pub async fn greet(addr: SocketAddr) -> io::Result<Self> {
        Self::greet_over(TcpStream::connect(addr).await?).await
    }

    /// Exchanges greetings on a connection that stands.
    ///
    /// # Errors
    /// When the network fails.
    pub async fn greet_over(mut stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.write_all(&Greeting { random: [7; 16] }.to_bytes()).await?;
        let mut greeting = [0; GREETING_BYTES];
        stream.read_exact(&mut greeting).await?;
        Ok(Self { stream, buffer: BytesMut::new(), codec: Codec::default(), hello: None })
    }

    /// Takes a connection and answers greetings and hello.
    ///
    /// # Errors
    /// When the network fails.
    pub async fn accept(listener: &TcpListener, ours: &Hello) -> io::Result<Self> {
        Self::accept_any(listener, |_| ours.clone()).await
    }

    /// Takes a connection and answers its hello with what is made of it.
    ///
    /// # Errors
    /// When the network fails, or no hello comes.
    pub async fn accept_any(listener: &TcpListener, ours: impl FnOnce(&Hello) -> Hello) -> io::Result<Self> {
        let (stream, _) = listener.accept().await?;
        Self::answer(stream, ours).await
    }

    /// Answers on a connection that was taken.
    ///
    /// # Errors
    /// When the network fails, or no hello comes.
    pub async fn answer(mut stream: TcpStream, ours: impl FnOnce(&Hello) -> Hello) -> io::Result<Self> {
        let mut greeting = [0; GREETING_BYTES];
        stream.set_nodelay(true)?;
        stream.read_exact(&mut greeting).await?;
        stream.write_all(&Greeting { random: [8; 16] }.to_bytes()).await?;
        let mut evil = Self { stream, buffer: BytesMut::new(), codec: Codec::default(), hello: None };
        let Message::Hello(theirs) = evil.next().await? else { return Err(io::ErrorKind::InvalidData.into()) };
        evil.send(&Message::Hello(Box::new(ours(&theirs)))).await?;
        evil.hello = Some(*theirs);
        Ok(evil)
    }

    /// Sends a frame; of a block its header only.
    ///
    /// # Errors
    /// When the network fails.
    pub async fn send(&mut self, message: &Message) -> io::Result<()> {
        let mut out = BytesMut::new();
        message.encode(&mut out);
        self.stream.write_all(&out).await
    }

    /// Sends a block with its payload.
    ///
    /// # Errors
    /// When the network fails.
    pub async fn send_block(&mut self, block: Block, payload: &[u8]) -> io::Result<()> {
        self.send(&Message::Block(block)).await?;
        self.stream.write_all(payload).await
    }

    /// The next frame; payload of blocks is thrown away.
    ///
    /// # Errors
    /// At the end, and when nothing comes for long.
    pub async fn next(&mut self) -> io::Result<Message> {
        let frame = async {
            loop {
                match self.codec.next(&mut self.buffer).map_err(io::Error::other)? {
                    Some(Message::Block(block)) => {
                        let mut left = block.length as usize;
                        loop {
                            let now = left.min(self.buffer.len());
                            self.buffer.advance(now);
                            left -= now;
                            if left == 0 {
                                return Ok(Message::Block(block));
                            }
                            self.read().await?;
                        }
                    }
                    Some(message) => return Ok(message),
                    None => self.read().await?,
                }
            }
        };
        tokio::time::timeout(PATIENCE, frame).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    async fn read(&mut self) -> io::Result<()> {
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// Reads until the other side ends it; gives its last words.
    ///
    /// # Panics
    /// When it doesn't end.
    pub async fn last_words(&mut self) -> Option<Message> {
        let mut last = None;
        loop {
            match self.next().await {
                Ok(goodbye @ Message::Goodbye { .. }) => last = Some(goodbye),
                Ok(_) => {}
                Err(error) => {
                    assert_ne!(error.kind(), io::ErrorKind::TimedOut, "the connection goes on");
                    return last;
                }
            }
        }
    }
}

/// A tracker that answers every announce with the same bytes.
#[allow(clippy::unwrap_used)] // A test without a port can't go on.
pub async fn fake_tracker(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let mut request = vec![0; 32 << 10];
                let _ = stream.read(&mut request).await;
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    answer.len()
                );
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(&answer).await;
                let _ = stream.shutdown().await;
                // Until the other side has closed, so that nothing that it has yet to read is thrown away.
                while stream.read(&mut request).await.is_ok_and(|n| n > 0) {}
            });
        }
    });
    addr
}

/// One HTTP request by hand: the status line, headers and body as they came.
///
/// # Errors
/// When the network fails.
pub async fn http(addr: SocketAddr, request: impl AsRef<[u8]>) -> io::Result<(u16, String, Vec<u8>)> {
    let exchange = async {
        let mut stream = TcpStream::connect(addr).await?;
        // It may have answered and gone before all is sent; then its answer, or its end, is what counts.
        let _ = stream.write_all(request.as_ref()).await;
        let mut all = Vec::new();
        if let Err(error) = stream.read_to_end(&mut all).await
            && all.is_empty()
        {
            return Err(error);
        }
        let head = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(all.len());
        let text = String::from_utf8_lossy(&all[..head]).to_ascii_lowercase();
        let status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        Ok((status, text, all.split_off((head + 4).min(all.len()))))
    };
    tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
