//! Announces per CPU-second of a tracker, beside other trackers; and how long an answer takes at half of its own limit.

use crate::Bench;
use crate::row::{Goal, Row};
use crate::schedule;
use benches::cost::{Running, cpu_s};
use benches::{Result, program};
use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// 1,000 swarms of 20 peers each, as many as an answer can hold.
const SHOAL: &str = r#"
wrk.headers["Content-Type"] = "application/json"
function request()
  local p = math.random(0, 19999)
  return wrk.format("POST", "/v1/announce", nil, string.format(
    '{"swarm":"%064x","peer":"%032x","port":%d,"event":"progress","left":%d,"want":50}',
    p % 1000 + 1, p + 1, 2000 + p, p % 7))
end
"#;
const BITTORRENT: &str = r#"
function request()
  local p = math.random(0, 19999)
  return wrk.format("GET", string.format(
    "/announce?info_hash=%020d&peer_id=%020d&port=%d&uploaded=0&downloaded=0&left=%d&compact=1&numwant=50",
    p % 1000, p, 2000 + p, p % 7))
end
"#;
const SECONDS: u32 = 5;
const START: Duration = Duration::from_secs(10);

struct System {
    name: &'static str,
    script: &'static str,
    command: Command,
    port: u16,
}

pub(crate) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let mut systems = systems(bench)?;
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); systems.len()];
    let (mut most, mut late_ms) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds.min(5) {
        for (system, rates) in systems.iter_mut().zip(&mut rates) {
            let seen = run(bench, system).map_err(|error| format!("{}: {error}", system.name))?;
            rates.push(seen.per_cpu_s);
            if let Some(p99_s) = seen.p99_s {
                most.push(seen.per_s);
                late_ms.push(p99_s * 1e3);
            }
        }
    }
    let mut rows = Vec::new();
    let [ours, others @ ..] = &rates[..] else { return Err("no tracker".to_owned()) };
    for (rates, system) in others.iter().zip(&systems[1..]) {
        let ratios = ours.iter().zip(rates).map(|(ours, theirs)| ours / theirs).collect();
        let goal = if system.name == "aquatic_http" { 4.0 } else { 2.5 };
        let name = format!("announces per CPU-second beside {}", system.name);
        rows.push(Row::new(&name, "times", Goal::AtLeast(goal), ratios)?);
    }
    rows.push(Row::new("announces per CPU-second", "1/s", Goal::AtLeast(50_000.0), ours.clone())?);
    rows.push(Row::new("announces per second beside wrk on the same cores", "1/s", Goal::AtLeast(50_000.0), most)?);
    rows.push(Row::new(
        "an announce at half of that rate, p99 from when it was due",
        "ms",
        Goal::AtMost(5.0),
        late_ms,
    )?);
    Ok(rows)
}

fn systems(bench: &Bench) -> Result<Vec<System>> {
    let port = free_port()?;
    let mut ours = Command::new(program("tracker", "shoal-tracker")?);
    ours.args(["--no-config", "--admin-listen", "off", "-l", &format!("127.0.0.1:{port}")]);
    ours.arg("--data").arg(bench.dir.join("data"));
    let mut systems = vec![System { name: "shoal", script: SHOAL, command: ours, port }];
    if is_installed("opentracker") {
        let port = free_port()?;
        let mut command = Command::new("opentracker");
        command.args(["-i", "127.0.0.1", "-p", &port.to_string(), "-P", &port.to_string()]);
        systems.push(System { name: "opentracker", script: BITTORRENT, command, port });
    }
    if is_installed("aquatic_http") {
        let port = free_port()?;
        let file = bench.dir.join("aquatic.toml");
        let text = format!(
            "socket_workers = 1\nswarm_workers = 1\nlog_level = 'error'\n[network]\naddress = '127.0.0.1:{port}'\n\
             keep_alive = true\n[protocol]\nmax_peers = 50\n"
        );
        fs::write(&file, text).map_err(|error| error.to_string())?;
        let mut command = Command::new("aquatic_http");
        command.arg("-c").arg(&file);
        systems.push(System { name: "aquatic_http", script: BITTORRENT, command, port });
    }
    if !is_installed("wrk") {
        return Err("wrk is not installed".to_owned());
    }
    Ok(systems)
}

fn is_installed(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

fn free_port() -> Result<u16> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr();
    bind().map(|addr| addr.port()).map_err(|error| error.to_string())
}

/// What a tracker did, once all peers were known to it.
struct Seen {
    per_cpu_s: f64,
    per_s: f64,
    /// At half of `per_s`; of Shoal only, as the load is written in its words.
    p99_s: Option<f64>,
}

fn run(bench: &Bench, system: &mut System) -> Result<Seen> {
    let child = system.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let server = Running(child.map_err(|error| error.to_string())?);
    let start = Instant::now();
    while TcpStream::connect((Ipv4Addr::LOCALHOST, system.port)).is_err() {
        if start.elapsed() > START {
            return Err("it doesn't start".to_owned());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let script = bench.dir.join("announce.lua");
    fs::write(&script, system.script).map_err(|error| error.to_string())?;
    load(&script, system.port, 2)?;
    let pid = server.0.id();
    let before = cpu_s(pid)?;
    let answered = load(&script, system.port, SECONDS)?;
    let per_cpu_s = answered as f64 / (cpu_s(pid)? - before);
    let per_s = answered as f64 / f64::from(SECONDS);
    let p99_s = match system.script {
        SHOAL => {
            let times = schedule::times(system.port, per_s / 2.0, SECONDS)?;
            Some(times.get(times.len() * 99 / 100).copied().ok_or("no announce was timed")?)
        }
        _ => None,
    };
    Ok(Seen { per_cpu_s, per_s, p99_s })
}

/// Good answers in so many seconds.
fn load(script: &Path, port: u16, seconds: u32) -> Result<u64> {
    let mut command = Command::new("wrk");
    command.args(["-t1", "-c64", &format!("-d{seconds}s"), "-s"]).arg(script).arg(format!("http://127.0.0.1:{port}"));
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| format!("wrk: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if text.contains("Non-2xx") {
        return Err(format!("bad answers: {text}"));
    }
    let line = text.lines().find(|line| line.contains("requests in")).ok_or_else(|| format!("wrk said {text}"))?;
    line.split_whitespace().next().and_then(|count| count.parse().ok()).ok_or_else(|| format!("wrk said {line}"))
}
