//! Ways to move a file from one host to all others.

use harness::netns::{self, Net, Peers, Process, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// Between two looks whether something has started.
const LOOK: Duration = Duration::from_millis(20);
const LOOKS: u32 = 500;

/// One run: a net, a content, and a directory for all that comes of it.
#[derive(Debug)]
pub(crate) struct Scene<'a> {
    pub(crate) net: &'a Net,
    pub(crate) dir: &'a Path,
    /// It's called `content`.
    pub(crate) content: &'a Path,
    /// Hosts from this one on stand behind a thin link.
    pub(crate) far: usize,
    /// Whether hosts say on which side they are.
    pub(crate) labels: bool,
}

/// How far a host is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Progress {
    pub(crate) done: f64,
    pub(crate) sent: f64,
    pub(crate) rate: f64,
    pub(crate) rate_up: f64,
}

/// A system under measurement.
pub(crate) trait System {
    fn name(&self) -> &'static str;
    /// What is measured, in words.
    fn version(&self) -> String;
    /// Starts what host 0 needs to serve, and waits until it does. Gives what the others need to know.
    fn serve(&self, scene: &Scene<'_>) -> Result<(Vec<Process>, String)>;
    /// Starts a fetch; it stays and serves when it has all, if the system can.
    fn fetch(&self, scene: &Scene<'_>, host: usize, link: &str) -> Result<Process>;
    /// Appears when a host has everything.
    fn marker(&self, scene: &Scene<'_>, host: usize) -> PathBuf {
        scene.dir.join(format!("done{host}"))
    }
    /// The copy.
    fn copy(&self, scene: &Scene<'_>, host: usize) -> PathBuf {
        scene.dir.join(format!("copy{host}"))
    }
    /// How far a host is, if it tells.
    fn progress(&self, _: &Scene<'_>, _host: usize) -> Option<Progress> {
        None
    }
    /// Bytes of payload that all hosts received, if they tell.
    fn received(&self, _: &Scene<'_>) -> Option<u64> {
        None
    }
    /// Bytes that the origin sent of what it had sent before, while something wasn't out yet, if it tells.
    fn repeated(&self, _: &Scene<'_>) -> Option<u64> {
        None
    }
    /// Whether those who fetch send, too.
    fn shares(&self) -> bool {
        true
    }
}

fn first_line(program: &Path, words: &[&str]) -> String {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output();
    let said = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    String::from_utf8_lossy(&said).lines().next().unwrap_or("unknown").to_owned()
}

fn wait_for(what: &str, path: &Path) -> Result<()> {
    for _ in 0..LOOKS {
        if path.exists() {
            return Ok(());
        }
        sleep(LOOK);
    }
    Err(format!("{what} doesn't start"))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|error| format!("can't write {}: {error}", path.display()))
}

fn folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|error| format!("can't make {}: {error}", path.display()))
}

/// Shoal as anyone runs it.
pub(crate) struct Shoal(pub(crate) PathBuf);

impl Shoal {
    fn peers<'a>(&'a self, scene: &'a Scene<'_>) -> Peers<'a> {
        Peers { net: scene.net, program: &self.0, dir: scene.dir }
    }

    fn zone(scene: &Scene<'_>, host: usize) -> &'static [&'static str] {
        match (scene.labels && scene.far < scene.net.hosts(), host < scene.far) {
            (false, _) => &[],
            (true, true) => &["--zone", "near"],
            (true, false) => &["--zone", "far"],
        }
    }
}

impl System for Shoal {
    fn name(&self) -> &'static str {
        "shoal"
    }

    fn version(&self) -> String {
        first_line(&self.0, &["--version"])
    }

    fn serve(&self, scene: &Scene<'_>) -> Result<(Vec<Process>, String)> {
        let (seed, link) = self.peers(scene).seed(0, scene.content, Self::zone(scene, 0))?;
        Ok((vec![seed], link))
    }

    fn fetch(&self, scene: &Scene<'_>, host: usize, link: &str) -> Result<Process> {
        self.peers(scene).fetch(host, link, Self::zone(scene, host))
    }

    fn marker(&self, scene: &Scene<'_>, host: usize) -> PathBuf {
        // The name appears when all is verified and flushed.
        self.copy(scene, host)
    }

    fn progress(&self, scene: &Scene<'_>, host: usize) -> Option<Progress> {
        let last = self.peers(scene).last(host, "progress")?;
        let number = |name: &str| last[name].as_f64();
        Some(Progress {
            done: number("done")?,
            sent: number("sent")?,
            rate: number("rate")?,
            rate_up: number("rate_up")?,
        })
    }

    fn repeated(&self, scene: &Scene<'_>) -> Option<u64> {
        self.peers(scene).last(0, "progress")?["repeated"].as_u64()
    }

    fn received(&self, scene: &Scene<'_>) -> Option<u64> {
        let peers = self.peers(scene);
        (1..scene.net.hosts()).map(|host| peers.last(host, "complete")?["downloaded"].as_u64()).sum()
    }
}

/// nginx on the origin, curl on all others; nothing is verified.
pub(crate) struct Http {
    nginx: PathBuf,
    curl: PathBuf,
}

impl Http {
    pub(crate) fn find() -> Option<Self> {
        Some(Self { nginx: netns::find("nginx")?, curl: netns::find("curl")? })
    }
}

impl System for Http {
    fn name(&self) -> &'static str {
        "http"
    }

    fn version(&self) -> String {
        format!("{}, {}", first_line(&self.nginx, &["-v"]), first_line(&self.curl, &["--version"]))
    }

    fn serve(&self, scene: &Scene<'_>) -> Result<(Vec<Process>, String)> {
        let (dir, pid) = (scene.dir.display(), scene.dir.join("nginx.pid"));
        let root = scene.content.parent().unwrap_or(Path::new("/")).display();
        let listen = format!("{}:8080", scene.net.addr(0));
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary: String =
            temporary.iter().map(|kind| format!("{kind}_temp_path {dir}/nginx-{kind};\n")).collect();
        let config = format!(
            "user root;\ndaemon off;\nworker_processes 1;\npid {};\nerror_log {dir}/nginx.log;\nevents {{}}\n\
             http {{\naccess_log off;\nsendfile on;\ntcp_nopush on;\n{temporary}\
             server {{ listen {listen}; root {root}; }}\n}}\n",
            pid.display(),
        );
        write(&scene.dir.join("nginx.conf"), &config)?;
        let mut command = scene.net.command(0, &self.nginx);
        command.arg("-e").arg(scene.dir.join("nginx.log")).arg("-c").arg(scene.dir.join("nginx.conf"));
        let server = Process::start(command, scene.dir, "nginx")?;
        wait_for("nginx", &pid)?;
        Ok((vec![server], format!("http://{listen}/content")))
    }

    fn fetch(&self, scene: &Scene<'_>, host: usize, link: &str) -> Result<Process> {
        let mut command = scene.net.command(host, "sh");
        // Retried, as the server may need a moment from its pid file to its socket.
        command.args(["-c", r#""$0" -sS --retry 9 --retry-connrefused --retry-delay 1 -o "$2" "$1" && : >"$3""#]);
        command.arg(&self.curl).arg(link).arg(self.copy(scene, host)).arg(self.marker(scene, host));
        Process::start(command, scene.dir, &format!("curl{host}"))
    }

    fn shares(&self) -> bool {
        false
    }
}

/// What BitTorrent programs need around them.
struct Torrent {
    python: PathBuf,
}

impl Torrent {
    fn find(module: &str) -> Option<Self> {
        let pythons = [Some(PathBuf::from("/usr/bin/python3")), netns::find("python3")];
        let has = |python: &PathBuf| {
            let output = Command::new(python).args(["-c", &format!("import {module}")]).output();
            output.is_ok_and(|output| output.status.success())
        };
        pythons.into_iter().flatten().find(has).map(|python| Self { python })
    }

    /// The torrent's file, and on host 0 a tracker for it.
    fn serve(&self, scene: &Scene<'_>) -> Result<Process> {
        let (addr, script) = (scene.net.addr(0).to_string(), self.script(scene));
        write(&script, include_str!("bt.py"))?;
        let mut command = Command::new(&self.python);
        command.arg(&script).arg("make").arg(scene.content).arg(Self::file(scene));
        let made = command.arg(format!("http://{addr}:6969/announce")).status().map_err(|error| error.to_string())?;
        if !made.success() {
            return Err("can't make a torrent".to_owned());
        }
        let mut command = scene.net.command(0, &self.python);
        command.arg(script).args(["track", &addr, "6969"]);
        let tracker = Process::start(command, scene.dir, "tracker")?;
        // It only opens a socket; a program that comes before would ask again soon, but it would be measured.
        sleep(Duration::from_millis(500));
        Ok(tracker)
    }

    fn script(&self, scene: &Scene<'_>) -> PathBuf {
        scene.dir.join("bt.py")
    }

    fn file(scene: &Scene<'_>) -> PathBuf {
        scene.dir.join("content.torrent")
    }
}

/// aria2's BitTorrent.
pub(crate) struct Aria2 {
    program: PathBuf,
    torrent: Torrent,
}

impl Aria2 {
    pub(crate) fn find() -> Option<Self> {
        Some(Self { program: netns::find("aria2c")?, torrent: Torrent::find("hashlib")? })
    }

    fn run(&self, scene: &Scene<'_>, host: usize, folder: &Path, words: &[&str]) -> Result<Process> {
        let mut command = scene.net.command(host, &self.program);
        command.args(["--no-conf", "--quiet", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false"]);
        command.args([
            "--listen-port=6881",
            "--seed-ratio=0.0",
            "--bt-max-peers=0",
            "--bt-request-peer-speed-limit=1000M",
        ]);
        command.args(["--bt-tracker-interval=2", "--file-allocation=none"]).args(words);
        command.arg(format!("--dir={}", folder.display())).arg(Torrent::file(scene));
        Process::start(command, scene.dir, &format!("aria{host}"))
    }
}

impl System for Aria2 {
    fn name(&self) -> &'static str {
        "aria2"
    }

    fn version(&self) -> String {
        first_line(&self.program, &["--version"])
    }

    fn serve(&self, scene: &Scene<'_>) -> Result<(Vec<Process>, String)> {
        let tracker = self.torrent.serve(scene)?;
        let folder = scene.content.parent().unwrap_or(Path::new("/"));
        let seed = self.run(scene, 0, folder, &["--bt-seed-unverified=true"])?;
        sleep(Duration::from_secs(1));
        Ok((vec![seed, tracker], String::new()))
    }

    fn fetch(&self, scene: &Scene<'_>, host: usize, _: &str) -> Result<Process> {
        use std::os::unix::fs::PermissionsExt as _;
        let hook = scene.dir.join(format!("hook{host}"));
        write(&hook, &format!("#!/bin/sh\n: >'{}'\n", self.marker(scene, host).display()))?;
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o700)).map_err(|error| error.to_string())?;
        let folder = scene.dir.join(format!("folder{host}"));
        self.run(scene, host, &folder, &[&format!("--on-bt-download-complete={}", hook.display())])
    }

    fn copy(&self, scene: &Scene<'_>, host: usize) -> PathBuf {
        scene.dir.join(format!("folder{host}/content"))
    }
}

/// rqbit, as it comes but for what would look for peers elsewhere.
pub(crate) struct Rqbit {
    program: PathBuf,
    curl: PathBuf,
    torrent: Torrent,
}

impl Rqbit {
    pub(crate) fn find() -> Option<Self> {
        let (program, curl) = (netns::find("rqbit")?, netns::find("curl")?);
        Some(Self { program, curl, torrent: Torrent::find("hashlib")? })
    }

    /// It tells over HTTP when it is done, which is asked 20 times a second.
    fn run(&self, scene: &Scene<'_>, host: usize, folder: &Path) -> Result<Process> {
        // The program takes the place of the shell, so that it ends with it; who asks ends after it.
        const SCRIPT: &str = r#"
            (while kill -0 $$ && ! "$4" -s 127.0.0.1:3030/torrents/0/stats/v1 | grep -q '"finished":true'; do
                sleep 0.05
            done; : >"$3") 2>/dev/null &
            exec "$0" --disable-dht --disable-lsd --tracker-refresh-interval 2s --listen-port 6881 --ipv4-only \
                --http-api-listen-addr 127.0.0.1:3030 download --overwrite -o "$1" "$2""#;
        let mut command = scene.net.command(host, "sh");
        command.args(["-c", SCRIPT]).arg(&self.program).arg(folder).arg(Torrent::file(scene));
        command.arg(self.marker(scene, host)).arg(&self.curl);
        Process::start(command, scene.dir, &format!("rqbit{host}"))
    }
}

impl System for Rqbit {
    fn name(&self) -> &'static str {
        "rqbit"
    }

    fn version(&self) -> String {
        first_line(&self.program, &["--version"])
    }

    fn serve(&self, scene: &Scene<'_>) -> Result<(Vec<Process>, String)> {
        let tracker = self.torrent.serve(scene)?;
        let seed = self.run(scene, 0, scene.content.parent().unwrap_or(Path::new("/")))?;
        wait_for("rqbit", &self.marker(scene, 0))?;
        Ok((vec![seed, tracker], String::new()))
    }

    fn fetch(&self, scene: &Scene<'_>, host: usize, _: &str) -> Result<Process> {
        self.run(scene, host, &scene.dir.join(format!("folder{host}")))
    }

    fn copy(&self, scene: &Scene<'_>, host: usize) -> PathBuf {
        scene.dir.join(format!("folder{host}/content"))
    }
}

/// libtorrent, tuned as its guide says.
pub(crate) struct Libtorrent(Torrent);

impl Libtorrent {
    pub(crate) fn find() -> Option<Self> {
        Torrent::find("libtorrent").map(Self)
    }

    fn run(&self, scene: &Scene<'_>, host: usize, folder: &Path) -> Result<Process> {
        let mut command = scene.net.command(host, &self.0.python);
        command.arg(self.0.script(scene)).arg("libtorrent").arg(scene.net.addr(host).to_string());
        command.arg(Torrent::file(scene)).arg(folder).arg(self.marker(scene, host));
        if host > 0 {
            command.arg(scene.net.addr(0).to_string());
        }
        Process::start(command, scene.dir, &format!("libtorrent{host}"))
    }
}

impl System for Libtorrent {
    fn name(&self) -> &'static str {
        "libtorrent"
    }

    fn version(&self) -> String {
        format!("libtorrent {}", first_line(&self.0.python, &["-c", "import libtorrent; print(libtorrent.version)"]))
    }

    fn serve(&self, scene: &Scene<'_>) -> Result<(Vec<Process>, String)> {
        let tracker = self.0.serve(scene)?;
        let seed = self.run(scene, 0, scene.content.parent().unwrap_or(Path::new("/")))?;
        wait_for("libtorrent", &self.marker(scene, 0))?;
        Ok((vec![seed, tracker], String::new()))
    }

    fn fetch(&self, scene: &Scene<'_>, host: usize, _: &str) -> Result<Process> {
        let path = scene.dir.join(format!("folder{host}"));
        folder(&path)?;
        self.run(scene, host, &path)
    }

    fn copy(&self, scene: &Scene<'_>, host: usize) -> PathBuf {
        scene.dir.join(format!("folder{host}/content"))
    }
}
