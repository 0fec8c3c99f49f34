//! What processes cost: wall time, and processor time as the kernel counts it.

use crate::Result;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a process may take to end once it was asked to.
const GOODBYE: Duration = Duration::from_secs(5);

/// What one transfer cost.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Until the last copy was whole, under its name.
    pub elapsed_s: f64,
    /// Until the last process ended.
    pub exit_s: f64,
    /// User and system time of every process on the sending side.
    pub sender_cpu_s: f64,
    /// The same of the receiving side, with what checks the bytes.
    pub receiver_cpu_s: f64,
}

/// What receiving processes did.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    pub cpu_s: f64,
    /// When the last copy was whole.
    pub whole: Instant,
}

/// How a process tells that its copy is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whole {
    /// By its end.
    AtEnd,
    /// By a line on stdout that holds this text.
    Said(&'static str),
}

/// Runs commands at the same time until the last one ends.
pub fn run(commands: impl Iterator<Item = Command>, whole: Whole) -> Result<Received> {
    let mut children = Vec::new();
    for mut command in commands {
        let out = if whole == Whole::AtEnd { Stdio::null() } else { Stdio::piped() };
        let child = command.stdin(Stdio::null()).stdout(out).stderr(Stdio::piped()).spawn();
        let mut child = Running(child.map_err(|error| format!("{}: {error}", command.get_program().display()))?);
        let listener = match (whole, child.0.stdout.take()) {
            (Whole::Said(text), Some(pipe)) => Some(std::thread::spawn(move || {
                let lines = BufReader::new(pipe).lines().map_while(std::result::Result::ok);
                // The rest is read, too, so that nobody waits for room in the pipe.
                lines.fold(None, |said, line| said.or_else(|| line.contains(text).then(Instant::now)))
            })),
            _ => None,
        };
        children.push((child, listener));
    }
    let mut received = Received { cpu_s: 0.0, whole: Instant::now() };
    for (mut child, listener) in children {
        received.cpu_s += child.wait()?;
        let said = match listener {
            Some(listener) => listener.join().ok().flatten().ok_or("never said that it had everything")?,
            None => Instant::now(),
        };
        received.whole = received.whole.max(said);
    }
    Ok(received)
}

/// A process that ends with its owner.
#[derive(Debug)]
pub struct Running(pub Child);

impl Running {
    /// Waits for its good end and returns its processor seconds: between its end and its burial the kernel still tells
    /// them, all threads together.
    fn wait(&mut self) -> Result<f64> {
        let pid = self.pid()?;
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).map_err(|error| error.to_string())?;
        let cpu_s = cpu_s(self.0.id())?;
        let status = self.0.wait().map_err(|error| error.to_string())?;
        if status.success() {
            return Ok(cpu_s);
        }
        let said = self.0.stderr.take().map(|pipe| BufReader::new(pipe).lines().map_while(std::result::Result::ok));
        let said: Vec<String> = said.into_iter().flatten().collect();
        Err(format!("ended with {status}: {}", said.join("; ")))
    }

    pub fn pid(&self) -> Result<Pid> {
        i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).ok_or_else(|| "a process without a number".to_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Asked first: nginx's workers outlive a master that is killed.
        if let Ok(pid) = self.pid() {
            let _ = kill_process(pid, Signal::TERM);
        }
        let start = Instant::now();
        while start.elapsed() < GOODBYE && self.0.try_wait().is_ok_and(|ended| ended.is_none()) {
            sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Times `receive`, and what the senders spend meanwhile.
pub fn count(senders: &[u32], receive: impl FnOnce() -> Result<Received>) -> Result<Cost> {
    let spent = || senders.iter().map(|pid| cpu_s(*pid)).sum::<Result<f64>>();
    let before = spent()?;
    let start = Instant::now();
    let received = receive()?;
    let exit_s = start.elapsed().as_secs_f64();
    Ok(Cost {
        elapsed_s: received.whole.duration_since(start).as_secs_f64(),
        exit_s,
        sender_cpu_s: spent()? - before,
        receiver_cpu_s: received.cpu_s,
    })
}

/// User and system seconds of a process so far.
///
/// # Errors
/// When there is no such process.
pub fn cpu_s(pid: u32) -> Result<f64> {
    let [user, system] = stat(pid, [14, 15])?;
    Ok((user + system) as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The most memory that a process has had at once, in bytes.
///
/// # Errors
/// When there is no such process.
pub fn peak_bytes(pid: u32) -> Result<u64> {
    memory(pid, "VmHWM:")
}

/// The memory that a process has now, in bytes.
///
/// # Errors
/// When there is no such process.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    memory(pid, "VmRSS:")
}

fn memory(pid: u32, field: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).map_err(|error| format!("can't read {path}: {error}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)).ok_or("the kernel tells no memory")?;
    let kib = line.trim().trim_end_matches(" kB").parse::<u64>().map_err(|error| error.to_string())?;
    Ok(kib << 10)
}

/// The processes that a process has started.
pub fn children(parent: u32) -> Vec<u32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| stat(*pid, [4]).is_ok_and(|[owner]| owner == u64::from(parent))).collect()
}

/// Fields of `/proc/PID/stat`, numbered as in proc(5).
fn stat<const N: usize>(pid: u32, fields: [usize; N]) -> Result<[u64; N]> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).map_err(|error| format!("can't read {path}: {error}"))?;
    // The second field is the program's name in brackets, which may hold anything.
    let rest: Vec<&str> = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    Ok(fields.map(|field| rest.get(field - 3).and_then(|value| value.parse().ok()).unwrap_or(0)))
}

/// The system's TCP congestion control, put back when dropped.
#[derive(Debug)]
pub struct CongestionControl(String);

const CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

impl CongestionControl {
    pub fn now() -> String {
        fs::read_to_string(CONTROL).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
    }

    pub fn set(name: &str) -> Result<Self> {
        let before = Self::now();
        fs::write(CONTROL, name).map_err(|error| format!("can't set the congestion control to {name}: {error}"))?;
        Ok(Self(before))
    }
}

impl Drop for CongestionControl {
    fn drop(&mut self) {
        let _ = fs::write(CONTROL, &self.0);
    }
}
