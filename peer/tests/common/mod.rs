//! Real processes for the tests: each test has a world of its own (a directory, processes, ports that the system chose)
//! that ends with it. Tests wait for facts (a record, a line, an end), each with a deadline, and never for time.
#![allow(dead_code, reason = "every test binary takes its own part of this")]

#[cfg(target_os = "linux")]
pub(crate) mod trace;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// How long any single fact may take: far more than it does, as the machine may be busy with other things.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// Bytes in a MiB.
pub(crate) const MIB: usize = 1 << 20;

/// Says what isn't tested here and why, past the test runner, which hides what passing tests print.
pub(crate) fn skipped(why: &str) {
    let mut stderr = std::io::stderr().lock();
    writeln!(stderr, "skipped: {why}").unwrap();
}

/// A test's directory. At its end background processes that its fetches left are ended, too.
pub(crate) struct World {
    dir: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The program, with nothing of the surrounding environment that could change what it does.
    pub(crate) fn command(&self, program: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SHOAL_")) {
            command.env_remove(name);
        }
        command.env("XDG_STATE_HOME", self.path("state")).env("XDG_CONFIG_HOME", self.path("config"));
        command.env_remove("RUST_LOG").current_dir(self.dir.path()).stdin(Stdio::null()).args(words);
        command
    }

    pub(crate) fn peer(&self, words: &[&str]) -> Command {
        self.command(Path::new(env!("CARGO_BIN_EXE_peer")), words)
    }

    /// Starts `peer` with records on stdout.
    pub(crate) fn start(&self, words: &[&str]) -> Running {
        let mut command = self.peer(&["--json"]);
        Running::of(command.args(words), words)
    }

    /// Runs `peer` to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Done {
        self.start(words).end()
    }

    /// A fetch on a port of its own that leaves when it is done.
    pub(crate) fn fetch(&self, what: &str, out: &str, more: &[&str]) -> Running {
        let mut words = vec!["fetch", what, "-o", out, "--listen", "127.0.0.1:0"];
        if !more.contains(&"--stall-timeout") {
            words.extend(["--stall-timeout", "60s"]);
        }
        words.extend(more);
        self.start(&words)
    }

    /// A seed that serves.
    pub(crate) fn seed(&self, paths: &[&str], more: &[&str]) -> Seed {
        self.seed_at("127.0.0.1:0", paths, more)
    }

    pub(crate) fn seed_at(&self, listen: &str, paths: &[&str], more: &[&str]) -> Seed {
        let mut words = vec!["seed", "--listen", listen];
        words.extend(more);
        words.extend(paths);
        let running = self.start(&words);
        let links: Vec<String> = (0..paths.len())
            .map(|n| text(&running.wait_nth("a link", n, |record| record["type"] == "ready"), "link"))
            .collect();
        Seed { link: links[0].clone(), links, running }
    }

    /// The tracker's program, built from the sources as they are.
    pub(crate) fn tracker_program() -> PathBuf {
        static BUILT: OnceLock<PathBuf> = OnceLock::new();
        let built = BUILT.get_or_init(|| {
            let program = Path::new(env!("CARGO_BIN_EXE_peer")).with_file_name("tracker");
            let profile = program.parent().and_then(Path::file_name).unwrap();
            let profile = if profile == "debug" { "dev".as_ref() } else { profile };
            let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            build.args(["build", "--quiet", "--locked", "-p", "shoal-tracker", "--bin", "tracker", "--profile"]);
            build.arg(profile).arg("--target-dir").arg(program.ancestors().nth(2).unwrap());
            assert!(build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
            program
        });
        built.clone()
    }

    pub(crate) fn tracker(&self) -> Tracker {
        self.tracker_at("127.0.0.1:0")
    }

    pub(crate) fn tracker_at(&self, listen: &str) -> Tracker {
        let data = self.path("tracker-data");
        let words = ["--json", "--no-config", "--listen", listen, "--admin-listen", "off", "--data"];
        let mut command = self.command(&Self::tracker_program(), &words);
        let running = Running::of(command.arg(data), &words);
        let url = text(&running.wait("a URL", |record| record["type"] == "ready"), "url");
        Tracker { url, running }
    }

    /// The background processes that are on the list.
    pub(crate) fn background(&self) -> Vec<Value> {
        let Ok(found) = fs::read_dir(self.path("state/shoal/background")) else { return Vec::new() };
        let files = found.flatten().filter(|entry| entry.path().extension().is_some_and(|e| e == "json"));
        files.filter_map(|entry| serde_json::from_slice(&fs::read(entry.path()).ok()?).ok()).collect()
    }

    /// Asks every listed background process to end, and waits until none is listed.
    pub(crate) fn end_background(&self) {
        for entry in self.background() {
            signal_pid(entry["pid"].as_u64().unwrap(), Signal::TERM);
        }
        eventually("background processes end", || self.background().is_empty());
    }

    /// A file of reproducible bytes.
    pub(crate) fn file(&self, name: &str, bytes: usize) -> Vec<u8> {
        let data = content(name, bytes);
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &data).unwrap();
        data
    }

    /// A tree with all that a content may have: files of many sizes, an executable, an empty file and directory, links.
    pub(crate) fn tree(&self, name: &str, large: usize) {
        self.file(&format!("{name}/large/a.bin"), large);
        self.file(&format!("{name}/large/b.bin"), large / 3 + 1);
        for n in 0..40 {
            self.file(&format!("{name}/small/{n:02}"), n * 997);
        }
        self.file(&format!("{name}/bin/tool"), 5_000);
        fs::set_permissions(self.path(name).join("bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir_all(self.path(name).join("empty/deep")).unwrap();
        std::os::unix::fs::symlink("../large/a.bin", self.path(name).join("small/link")).unwrap();
        std::os::unix::fs::symlink("nowhere", self.path(name).join("dangling")).unwrap();
    }

    /// Whether two places hold the same: bytes, kinds, links and executable bits.
    pub(crate) fn assert_same(&self, one: &str, other: &str) {
        let (one, other) = (listing(&self.path(one)), listing(&self.path(other)));
        assert_eq!(one, other);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for entry in self.background() {
            if let Some(pid) = entry["pid"].as_u64() {
                signal_pid(pid, Signal::KILL);
            }
        }
    }
}

/// A seed and what it published.
pub(crate) struct Seed {
    pub(crate) running: Running,
    pub(crate) link: String,
    pub(crate) links: Vec<String>,
}

impl Seed {
    /// HOST:PORT.
    pub(crate) fn addr(&self) -> String {
        host_of(&self.link)
    }

    pub(crate) fn id(&self) -> String {
        self.link.rsplit('/').next().unwrap().to_owned()
    }

    /// Ends it as a user would; its result tells what it sent.
    pub(crate) fn stop(mut self) -> Value {
        self.running.signal(Signal::INT);
        let done = self.running.end();
        assert_eq!(done.code, 0, "{done:?}");
        done.result()
    }
}

pub(crate) struct Tracker {
    pub(crate) url: String,
    running: Running,
}

impl Tracker {
    pub(crate) fn kill(self) {
        self.running.kill();
    }
}

/// What a process has said so far.
#[derive(Default)]
struct Said {
    out: Vec<u8>,
    err: String,
    records: Vec<Value>,
    open: usize,
}

type Shared = Arc<(Mutex<Said>, Condvar)>;

/// A process that is killed when this is dropped.
pub(crate) struct Running {
    child: Child,
    said: Shared,
    words: String,
    started: Instant,
}

impl Running {
    pub(crate) fn of(command: &mut Command, words: &[&str]) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = Shared::default();
        said.0.lock().unwrap().open = 2;
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let shared = Arc::clone(&said);
        std::thread::spawn(move || {
            each_line(out, |line| {
                let mut said = shared.0.lock().unwrap();
                said.out.extend(line);
                said.records.extend(serde_json::from_slice::<Value>(line).ok());
                shared.1.notify_all();
            });
            closed(&shared);
        });
        let shared = Arc::clone(&said);
        std::thread::spawn(move || {
            each_line(err, |line| {
                shared.0.lock().unwrap().err.push_str(&String::from_utf8_lossy(line));
                shared.1.notify_all();
            });
            closed(&shared);
        });
        Self { child, said, words: words.join(" "), started: Instant::now() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        signal_pid(self.child.id().into(), signal);
    }

    /// Waits for a record; panics with all that was said if it doesn't come.
    pub(crate) fn wait(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        self.wait_nth(what, 0, is_it)
    }

    fn wait_nth(&self, what: &str, nth: usize, is_it: impl Fn(&Value) -> bool) -> Value {
        self.until(what, |said| said.records.iter().filter(|record| is_it(record)).nth(nth).cloned())
    }

    /// Waits for a record or the end, whichever comes first.
    pub(crate) fn wait_or_end(&self, is_it: impl Fn(&Value) -> bool) -> Option<Value> {
        self.until("record, and no end", |said| {
            let found = said.records.iter().find(|record| is_it(record)).cloned();
            if found.is_none() && said.open > 0 { None } else { Some(found) }
        })
    }

    /// Waits until stderr has this.
    pub(crate) fn wait_for_talk(&self, words: &str) {
        self.until(words, |said| said.err.contains(words).then_some(()));
    }

    /// Waits until so many bytes are verified.
    pub(crate) fn wait_for_done(&self, bytes: u64) -> Value {
        self.wait("progress", |r| r["type"] == "progress" && r["done"].as_u64().is_some_and(|done| done >= bytes))
    }

    pub(crate) fn records(&self) -> Vec<Value> {
        self.said.0.lock().unwrap().records.clone()
    }

    fn until<T>(&self, what: &str, mut look: impl FnMut(&Said) -> Option<T>) -> T {
        let start = Instant::now();
        let mut said = self.said.0.lock().unwrap();
        loop {
            if let Some(found) = look(&said) {
                return found;
            }
            let left = DEADLINE.saturating_sub(start.elapsed());
            assert!(
                said.open > 0 && !left.is_zero(),
                "{}: no {what} in {:?}\n{}\n{}",
                self.words,
                start.elapsed(),
                String::from_utf8_lossy(&said.out),
                said.err
            );
            said = self.said.1.wait_timeout(said, left).unwrap().0;
        }
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Kills it as a power cut would.
    pub(crate) fn kill(mut self) -> Done {
        self.child.kill().unwrap();
        self.end_by(DEADLINE)
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> Done {
        self.end_by(DEADLINE * 2)
    }

    fn end_by(&mut self, limit: Duration) -> Done {
        let start = Instant::now();
        // Both pipes are closed by the end, unless someone else was given them: that is a bug, too.
        let mut said = self.said.0.lock().unwrap();
        while said.open > 0 {
            let left = limit.saturating_sub(start.elapsed());
            assert!(!left.is_zero(), "{}: no end in {limit:?}\n{}", self.words, said.err);
            said = self.said.1.wait_timeout(said, left).unwrap().0;
        }
        let (out, err, records) = (std::mem::take(&mut said.out), std::mem::take(&mut said.err), said.records.clone());
        drop(said);
        let status = self.child.wait().unwrap();
        assert!(!err.contains("panicked") && !err.contains("internal error"), "{}: {err}", self.words);
        let words = self.words.clone();
        Done { code: status.code().unwrap_or(-1), status, out, err, records, words, elapsed: self.started.elapsed() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn each_line(from: impl std::io::Read, mut take: impl FnMut(&[u8])) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        take(&line);
        line.clear();
    }
}

fn closed(shared: &Shared) {
    shared.0.lock().unwrap().open -= 1;
    shared.1.notify_all();
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Done {
    /// -1 for a signal.
    pub(crate) code: i32,
    pub(crate) status: ExitStatus,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
    pub(crate) records: Vec<Value>,
    pub(crate) words: String,
    pub(crate) elapsed: Duration,
}

impl Done {
    /// The last record, which must be the result.
    pub(crate) fn result(&self) -> Value {
        let last = self.records.last().cloned().unwrap_or_default();
        assert!(last["type"] == "result" && last["exit"] == self.code, "{self:?}");
        last
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        self.exits(0)
    }

    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Value {
        assert_eq!(self.code, code, "{}\n{}", self.words, self.err);
        self.result()
    }
}

/// A file or directory as a person would compare it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Directory,
    File { bytes: u64, hash: String, executable: bool },
    Link(PathBuf),
}

pub(crate) fn listing(root: &Path) -> BTreeMap<PathBuf, Node> {
    let mut out = BTreeMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(relative) = open.pop() {
        let path = if relative.as_os_str().is_empty() { root.to_owned() } else { root.join(&relative) };
        let found = fs::symlink_metadata(&path).unwrap();
        let node = if found.is_symlink() {
            Node::Link(fs::read_link(&path).unwrap())
        } else if found.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| relative.join(entry.unwrap().file_name())));
            Node::Directory
        } else {
            let data = fs::read(&path).unwrap();
            let executable = found.permissions().mode() & 0o111 != 0;
            Node::File { bytes: found.len(), hash: blake3::hash(&data).to_string(), executable }
        };
        out.insert(relative, node);
    }
    out
}

/// Bytes that follow from a seed.
pub(crate) fn content(seed: &str, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut out);
    out
}

/// Waits for something that nobody reports, such as a file that appears.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn signal_pid(pid: u64, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = kill_process(pid, signal);
}

pub(crate) fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_else(|| panic!("no {field} in {value}")).to_owned()
}

pub(crate) fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| panic!("no {field} in {value}"))
}

pub(crate) fn host_of(link: &str) -> String {
    link.trim_start_matches("http://").split('/').next().unwrap().to_owned()
}

/// The loopback port at which a process listens: its end of a link.
pub(crate) fn port_of(pid: u32) -> u16 {
    let mut found = None;
    eventually("a listening port", || {
        let inodes: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
            .map(|dir| {
                dir.flatten().filter_map(|fd| Some(fs::read_link(fd.path()).ok()?.display().to_string())).collect()
            })
            .unwrap_or_default();
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        found = table.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let own = inodes.contains(&format!("socket:[{}]", fields.get(9)?));
            let port = fields.get(1)?.split(':').nth(1)?;
            (own && fields[3] == "0A").then(|| u16::from_str_radix(port, 16).ok()).flatten()
        });
        found.is_some()
    });
    found.unwrap()
}

/// A port at which nobody listens.
pub(crate) fn closed_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Answers every request with the same bytes.
pub(crate) fn server(status: &str, body: Vec<u8>) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
        }
    });
    port
}
