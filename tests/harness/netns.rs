//! Small networks on this machine: hosts in network namespaces of their own, each on a line with an uplink and a
//! downlink of a certain rate, bridged in one zone or in several that thin links join. Real programs run in them.
//!
//! Needs root, `ip` and `tc` (iproute2) and `ethtool`; loss needs `nft`. [`lacking`] says what isn't there. Everything
//! is called after the process that made it. Namespaces go when their [`Net`] goes, also in a panic; what a killed
//! process left behind goes when the next one builds a net.

use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What goes wrong is said.
pub type Result<T> = std::result::Result<T, String>;

/// Payload of a full segment by what a shaper counts of it: 1,448 of 1,514 bytes, at MTU 1500 with timestamps.
pub const PAYLOAD: f64 = 0.957;
/// Before the process number in the names of namespaces.
const PREFIX: &str = "shoalns";
/// How long a shaper's queue may get; what is more is dropped, as on real lines.
const QUEUE: &str = "100ms";
/// How long a program may take to say that it serves, or to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The line of a host, in Mbit/s.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// From the host.
    pub up: f64,
    /// To the host.
    pub down: f64,
}

/// Which addresses the hosts have; they have no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Only IPv4.
    V4,
    /// Only IPv6.
    V6,
}

/// Why there can be no nets here, if so.
#[must_use]
pub fn lacking(tools: &[&str]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".to_owned());
    }
    for tool in ["ip", "tc", "ethtool"].iter().chain(tools) {
        if find(tool).is_none() {
            return Some(format!("{tool} is not installed"));
        }
    }
    // Root in a container may still lack the right.
    Net::build(&[&[]], 0.0, Family::V4).err().map(|error| format!("no right to make network namespaces: {error}"))
}

/// Where a program lies, if it is installed.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|dir| dir.join(program)).find(|path| path.is_file())
}

#[derive(Debug)]
struct Host {
    namespace: String,
    addr: IpAddr,
    zone: usize,
}

/// Hosts and what joins them.
#[derive(Debug)]
pub struct Net {
    tag: String,
    hosts: Vec<Host>,
    zones: usize,
}

impl Net {
    /// Hosts around one bridge.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn star(lines: &[Line], family: Family) -> Result<Self> {
        Self::build(&[lines], 0.0, family)
    }

    /// Zones with hosts, each joined to the one before it by a link of `thin` Mbit/s. Hosts are numbered through.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn zones(zones: &[&[Line]], thin: f64, family: Family) -> Result<Self> {
        Self::build(zones, thin, family)
    }

    fn build(zones: &[&[Line]], thin: f64, family: Family) -> Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        sweep();
        let tag = format!("{PREFIX}-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        // From here on dropping it cleans up, however far this gets.
        let mut net = Self { tag, hosts: Vec::new(), zones: zones.len() };
        for (zone, lines) in zones.iter().enumerate() {
            let hub = net.hub(zone);
            ip(&["netns", "add", &hub])?;
            ip(&["-n", &hub, "link", "add", "br0", "type", "bridge"])?;
            ip(&["-n", &hub, "link", "set", "br0", "up"])?;
            if zone > 0 {
                net.join(zone, thin)?;
            }
            for line in *lines {
                net.add(zone, *line, family)?;
            }
        }
        Ok(net)
    }

    fn hub(&self, zone: usize) -> String {
        format!("{}-hub{zone}", self.tag)
    }

    fn join(&self, zone: usize, thin: f64) -> Result<()> {
        let (near, far) = (self.hub(zone - 1), self.hub(zone));
        let (to, back) = (format!("to{zone}"), format!("from{zone}"));
        ip(&["-n", &near, "link", "add", &to, "type", "veth", "peer", "name", &back, "netns", &far])?;
        for (hub, device) in [(&near, &to), (&far, &back)] {
            ip(&["-n", hub, "link", "set", device, "master", "br0", "up"])?;
            shape(hub, device, thin)?;
        }
        Ok(())
    }

    fn add(&mut self, zone: usize, line: Line, family: Family) -> Result<()> {
        let n = self.hosts.len();
        let (hub, namespace, port) = (self.hub(zone), format!("{}-{n}", self.tag), format!("v{n}"));
        // Each zone has a subnet; all of them are on one link.
        let (last, subnet) = u8::try_from(n + 1).ok().zip(u8::try_from(zone).ok()).ok_or("too many hosts")?;
        let (addr, width): (IpAddr, u8) = match family {
            Family::V4 => (Ipv4Addr::new(10, 77, subnet, last).into(), 16),
            Family::V6 => (Ipv6Addr::new(0xfd77, 0, 0, subnet.into(), 0, 0, 0, last.into()).into(), 48),
        };
        ip(&["netns", "add", &namespace])?;
        self.hosts.push(Host { namespace: namespace.clone(), addr, zone });
        ip(&["-n", &namespace, "link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", &hub])?;
        let addr = format!("{addr}/{width}");
        let mut words = vec!["-n", &namespace, "addr", "add", &addr, "dev", "eth0"];
        if family == Family::V6 {
            // Nobody else has it, and an address that is still being checked can't be used.
            words.push("nodad");
        }
        ip(&words)?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
        ip(&["-n", &hub, "link", "set", &port, "master", "br0", "up"])?;
        shape(&namespace, "eth0", line.up)?;
        shape(&hub, &port, line.down)
    }

    /// How many hosts there are.
    #[must_use]
    pub fn hosts(&self) -> usize {
        self.hosts.len()
    }

    /// The address of a host.
    #[must_use]
    pub fn addr(&self, host: usize) -> IpAddr {
        self.hosts[host].addr
    }

    /// Has a host lose so many in a hundred of the packets that reach it.
    ///
    /// # Errors
    /// When `nft` or the kernel refuses.
    pub fn lose(&self, host: usize, percent: u32) -> Result<()> {
        self.filter(host, &format!("meta iifname eth0 numgen random mod 100 < {percent} drop"))
    }

    /// Pulls a host's cable, or puts it back.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn plug(&self, host: usize, plugged: bool) -> Result<()> {
        let state = if plugged { "up" } else { "down" };
        ip(&["-n", &self.hub(self.hosts[host].zone), "link", "set", &format!("v{host}"), state])
    }

    /// Sets the congestion control that the hosts' programs get by default. The machine's own stays.
    ///
    /// # Errors
    /// When the kernel hasn't got it.
    pub fn control(&self, name: &str) -> Result<()> {
        let set = format!("net.ipv4.tcp_congestion_control={name}");
        self.hosts.iter().try_for_each(|host| ip(&["netns", "exec", &host.namespace, "sysctl", "-qw", &set]))
    }

    /// Bytes that a host has sent, as its line counts them.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn sent(&self, host: usize) -> Result<u64> {
        transmitted(&self.hosts[host].namespace, "eth0")
    }

    /// Bytes that went into a zone from the one before it, as the link counts them.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn crossed(&self, zone: usize) -> Result<u64> {
        transmitted(&self.hub(zone - 1), &format!("to{zone}"))
    }

    /// Runs something of this program on a host, in a thread of its own: sockets that it makes are that host's.
    ///
    /// # Errors
    /// When the namespace can't be entered.
    pub fn inside<T: Send + 'static>(
        &self,
        host: usize,
        what: impl FnOnce() -> T + Send + 'static,
    ) -> Result<std::thread::JoinHandle<T>> {
        let path = format!("/run/netns/{}", self.hosts[host].namespace);
        let namespace = File::open(&path).map_err(|error| format!("{path}: {error}"))?;
        let (sender, receiver) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            let entered = rustix::thread::move_into_link_name_space(namespace.as_fd(), kind);
            let fine = entered.is_ok();
            let _ = sender.send(entered);
            fine.then(what)
        });
        let entered = receiver.recv().map_err(|error| error.to_string())?;
        entered.map_err(|error| format!("{path}: {error}"))?;
        Ok(std::thread::spawn(move || thread.join().ok().flatten().unwrap_or_else(|| panic!("on a host"))))
    }

    /// Has a host throw away packets that are longer than this and count no reason for it, as a path that hides its MTU.
    ///
    /// # Errors
    /// When `nft` or the kernel refuses.
    pub fn swallow_longer_than(&self, host: usize, bytes: u32) -> Result<()> {
        let rule = format!("meta iifname eth0 meta length > {bytes} drop");
        self.filter(host, &rule)
    }

    /// Has a host answer no connection, and counts who tries: see [`Net::tries`].
    ///
    /// # Errors
    /// When `nft` or the kernel refuses.
    pub fn play_dead(&self, host: usize) -> Result<()> {
        self.filter(host, "meta iifname eth0 tcp flags & (syn | ack) == syn counter drop")
    }

    /// How many first packets of connections a dead host has seen.
    ///
    /// # Errors
    /// When `nft` doesn't say.
    pub fn tries(&self, host: usize) -> Result<u64> {
        let words = ["netns", "exec", &self.hosts[host].namespace, "nft", "list", "table", "inet", "shoal"];
        let said = call("ip", &words)?;
        let count = said.split("packets ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        count.ok_or_else(|| format!("nft doesn't count: {said}"))
    }

    fn filter(&self, host: usize, rule: &str) -> Result<()> {
        let table = format!("table inet shoal {{\nchain lossy {{ type filter hook input priority 0; {rule}; }}\n}}");
        ip(&["netns", "exec", &self.hosts[host].namespace, "nft", &table])
    }

    /// A command that will run on a host.
    #[must_use]
    pub fn command(&self, host: usize, program: impl AsRef<OsStr>) -> Command {
        // It replaces itself with the program, so signals and the end need no go-between.
        let mut command = Command::new(find("ip").unwrap_or_else(|| "ip".into()));
        command.args(["netns", "exec", &self.hosts[host].namespace]).arg(program).stdin(Stdio::null());
        command
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let hubs = (0..self.zones).map(|zone| self.hub(zone));
        for name in self.hosts.iter().map(|host| host.namespace.clone()).chain(hubs) {
            remove(&name);
        }
    }
}

/// Limits what a device sends.
fn shape(namespace: &str, device: &str, mbit: f64) -> Result<()> {
    // Segments, not super-packets, must pass the shapers.
    let off = ["tso", "off", "gso", "off", "gro", "off"];
    ip(&[&["netns", "exec", namespace, "ethtool", "-K", device], &off[..]].concat())?;
    // Enough for what comes between two looks of the shaper at its clock.
    let (rate, burst) = (format!("{}bit", (mbit * 1e6) as u64), format!("{}", (mbit * 160.0).max(16_384.0) as u64));
    let shaper = ["root", "tbf", "rate", &rate, "burst", &burst, "latency", QUEUE];
    call("tc", &[&["-n", namespace, "qdisc", "add", "dev", device], &shaper[..]].concat()).map(|_| ())
}

fn transmitted(namespace: &str, device: &str) -> Result<u64> {
    let out = call("ip", &["-n", namespace, "-s", "-j", "link", "show", device])?;
    let record: Value = serde_json::from_str(&out).map_err(|error| format!("ip said {out}: {error}"))?;
    record[0]["stats64"]["tx"]["bytes"].as_u64().ok_or_else(|| format!("ip doesn't count: {out}"))
}

fn ip(words: &[&str]) -> Result<()> {
    call("ip", words).map(|_| ())
}

fn call(program: &str, words: &[&str]) -> Result<String> {
    let path = find(program).ok_or_else(|| format!("{program} is not installed"))?;
    let output = Command::new(path).args(words).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{program} {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

/// Ends what runs in a namespace, and then the namespace: one that is in use would live on without a name.
fn remove(name: &str) {
    for pid in call("ip", &["netns", "pids", name]).unwrap_or_default().lines() {
        if let Some(pid) = pid.trim().parse().ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    let _ = ip(&["netns", "del", name]);
}

/// Removes the namespaces of processes that are no more.
fn sweep() {
    for name in call("ip", &["netns", "list"]).unwrap_or_default().lines() {
        let name = name.split_whitespace().next().unwrap_or_default();
        let mut parts = name.split('-');
        let owner = (parts.next() == Some(PREFIX)).then(|| parts.next()?.parse::<u32>().ok()).flatten();
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            remove(name);
        }
    }
}

/// A program that ends with its owner.
#[derive(Debug)]
pub struct Process {
    child: Child,
    said: PathBuf,
}

impl Process {
    /// Starts a command with its output in files `NAME.out` and `NAME.err` of a directory.
    ///
    /// # Errors
    /// When it doesn't start.
    pub fn start(mut command: Command, dir: &Path, name: &str) -> Result<Self> {
        let file = |end| File::create(dir.join(format!("{name}.{end}"))).map_err(|error| error.to_string());
        let child = command.stdout(file("out")?).stderr(file("err")?).spawn();
        let said = dir.join(format!("{name}.out"));
        child.map(|child| Self { child, said }).map_err(|error| format!("{name}: {error}"))
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// How it ended, and the last that it said.
    pub fn status(&mut self) -> String {
        let status = self.child.try_wait().ok().flatten().map_or_else(|| "it runs".to_owned(), |s| s.to_string());
        let said = ["out", "err"].map(|end| fs::read_to_string(self.said.with_extension(end)).unwrap_or_default());
        let last = said.iter().filter_map(|text| text.lines().last()).collect::<Vec<_>>().join("; ");
        format!("{status}: {last}")
    }

    /// Asks it to end and waits until it has.
    ///
    /// # Errors
    /// When it doesn't.
    pub fn interrupt(&mut self) -> Result<()> {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw)
            && !self.ended()
        {
            rustix::process::kill_process(pid, rustix::process::Signal::INT).map_err(|error| error.to_string())?;
        }
        let end = Instant::now() + PATIENCE;
        while !self.ended() {
            if Instant::now() > end {
                return Err("it doesn't end".to_owned());
            }
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The peer that belongs to this program: built now by the cargo that runs us, or what lies beside us.
///
/// # Errors
/// When there is none.
pub fn peer() -> Result<PathBuf> {
    let here = std::env::current_exe().map_err(|error| error.to_string())?;
    // Tests lie in `deps`, one deeper than programs.
    let dir = here.ancestors().skip(1).find(|dir| !dir.ends_with("deps")).unwrap_or(Path::new("."));
    if let (Some(cargo), Some(profile), Some(target)) = (std::env::var_os("CARGO"), dir.file_name(), dir.parent()) {
        let profile = if profile == "debug" { OsStr::new("dev") } else { profile };
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--locked", "-p", "shoal-peer", "--bin", "peer", "--profile"]).arg(profile);
        build.arg("--target-dir").arg(target).current_dir(env!("CARGO_MANIFEST_DIR"));
        if !build.status().map_err(|error| format!("can't run cargo: {error}"))?.success() {
            return Err("the peer doesn't build".to_owned());
        }
    }
    let path = dir.join("peer");
    if path.is_file() { Ok(path) } else { Err(format!("no peer at {}", path.display())) }
}

/// A content and the peers that move it; all they write lies in one directory.
#[derive(Debug)]
pub struct Peers<'a> {
    /// Where they run.
    pub net: &'a Net,
    /// The program.
    pub program: &'a Path,
    /// Where copies, states and output lie.
    pub dir: &'a Path,
}

impl Peers<'_> {
    fn command(&self, host: usize) -> Command {
        let mut command = self.net.command(host, self.program);
        // Nothing of what the user set for real work.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SHOAL_")) {
            command.env_remove(name);
        }
        command.env("XDG_STATE_HOME", self.dir.join(format!("state{host}")));
        // With its progress each second, which tests and benches read.
        command.args(["--no-config", "--json"]);
        command
    }

    /// Serves a content on a host; gives its link.
    ///
    /// # Errors
    /// When it ends, or says nothing for long.
    pub fn seed(&self, host: usize, content: &Path, more: &[&str]) -> Result<(Process, String)> {
        let mut command = self.command(host);
        command.arg("seed").arg(content).args(more);
        let name = format!("peer{host}");
        let mut process = Process::start(command, self.dir, &name)?;
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(link) = self.records(host).iter().find_map(|record| record["link"].as_str()) {
                return Ok((process, link.to_owned()));
            }
            if process.ended() || Instant::now() > end {
                let said = fs::read_to_string(self.dir.join(format!("{name}.err"))).unwrap_or_default();
                return Err(format!("the seed doesn't serve: {said}"));
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// Fetches on a host, and serves what it has until it is stopped.
    ///
    /// # Errors
    /// When it doesn't start.
    pub fn fetch(&self, host: usize, link: &str, more: &[&str]) -> Result<Process> {
        let mut command = self.command(host);
        command.args(["fetch", link, "--seed-for", "forever", "--output"]).arg(self.copy(host)).args(more);
        Process::start(command, self.dir, &format!("peer{host}"))
    }

    /// Where the copy of a host will lie.
    #[must_use]
    pub fn copy(&self, host: usize) -> PathBuf {
        self.dir.join(format!("copy{host}"))
    }

    /// What the program on a host has said so far.
    #[must_use]
    pub fn records(&self, host: usize) -> Vec<Value> {
        let said = fs::read_to_string(self.dir.join(format!("peer{host}.out"))).unwrap_or_default();
        said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The last of a kind that the program on a host has said.
    #[must_use]
    pub fn last(&self, host: usize, kind: &str) -> Option<Value> {
        self.records(host).into_iter().rfind(|record| record["type"] == kind)
    }
}

/// Where measured data belongs: in memory, so that the disk isn't what is measured.
#[must_use]
pub fn memory() -> PathBuf {
    let shm = PathBuf::from("/dev/shm");
    if shm.is_dir() { shm } else { std::env::temp_dir() }
}

/// Writes a file of bytes that don't compress; the same number gives the same bytes.
///
/// # Errors
/// When the disk refuses.
pub fn write_content(path: &Path, number: u64, size: u64) -> std::io::Result<()> {
    let mut reader = blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof();
    let mut file = File::create(path)?;
    let mut buffer = vec![0; 1 << 20];
    let mut left = size;
    while left > 0 {
        let now = left.min(buffer.len() as u64) as usize;
        reader.fill(&mut buffer[..now]);
        file.write_all(&buffer[..now])?;
        left -= now as u64;
    }
    Ok(())
}

/// Whether two files hold the same bytes.
///
/// # Errors
/// When one can't be read.
pub fn same(one: &Path, other: &Path) -> std::io::Result<bool> {
    let hash = |path: &Path| {
        Ok::<_, std::io::Error>(*blake3::Hasher::new().update_reader(File::open(path)?)?.finalize().as_bytes())
    };
    Ok(hash(one)? == hash(other)?)
}
