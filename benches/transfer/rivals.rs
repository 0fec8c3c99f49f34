//! What people use today: a web server and a client for it, with or without a look at what came.

use crate::{Result, Source, System};
use benches::cost::{Cost, Running, Whole, children, count, run};
use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long nginx may take to answer.
const START: Duration = Duration::from_secs(10);

/// nginx and curl.
pub(crate) struct Http {
    url: String,
    workers: Vec<u32>,
    is_checked: bool,
    _server: Running,
}

impl Http {
    /// Starts nginx; the inner error says which program is missing.
    pub(crate) fn start(source: &Source, dir: &Path, is_checked: bool) -> Result<std::result::Result<Self, String>> {
        let name = name(is_checked);
        for program in ["nginx", "curl", "b3sum"].iter().take(if is_checked { 3 } else { 2 }) {
            if version(program).is_none() {
                return Ok(Err(format!("{name}: {program} is not installed")));
            }
        }
        let home = dir.join(if is_checked { "nginx-checked" } else { "nginx" });
        fs::create_dir(&home).map_err(|error| error.to_string())?;
        let port = free_port().map_err(|error| error.to_string())?;
        let root = source.path.parent().unwrap_or(dir);
        let file = home.join("nginx.conf");
        fs::write(&file, configuration(&home, root, port)).map_err(|error| error.to_string())?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&home).arg("-c").arg(&file).arg("-e").arg(home.join("error.log"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut server = Running(child.map_err(|error| error.to_string())?);
        let start = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if start.elapsed() > START || server.0.try_wait().is_ok_and(|ended| ended.is_some()) {
                let log = fs::read_to_string(home.join("error.log")).unwrap_or_default();
                return Err(format!("nginx doesn't start: {}", log.trim()));
            }
            sleep(Duration::from_millis(20));
        }
        let workers = children(server.0.id());
        Ok(Ok(Self { url: format!("http://127.0.0.1:{port}/source"), workers, is_checked, _server: server }))
    }
}

/// One process, which is what nginx works in with `master_process off`, would measure a setup that nobody has.
fn configuration(home: &Path, root: &Path, port: u16) -> String {
    // Our files belong to whoever runs this; as root nginx would drop to a user who can't read them.
    let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
    let (home, root) = (home.display(), root.display());
    format!(
        "{user}daemon off;\nworker_processes auto;\npid {home}/pid;\nerror_log {home}/error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n  access_log off;\n  sendfile on;\n  tcp_nopush on;\n  default_type application/octet-stream;\n\
         client_body_temp_path {home}/body;\n  proxy_temp_path {home}/proxy;\n  fastcgi_temp_path {home}/fastcgi;\n\
         uwsgi_temp_path {home}/uwsgi;\n  scgi_temp_path {home}/scgi;\n\
         server {{ listen 127.0.0.1:{port}; root {root}; }}\n}}\n"
    )
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn name(is_checked: bool) -> &'static str {
    if is_checked { "nginx, curl, b3sum" } else { "nginx, curl" }
}

/// The first line of what a program says of itself; none where it isn't installed.
pub(crate) fn version(program: &str) -> Option<String> {
    let flag = if program == "nginx" { "-v" } else { "--version" };
    let output = Command::new(program).arg(flag).stdin(Stdio::null()).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let line = String::from_utf8_lossy(&text).lines().next()?.to_owned();
    Some(line.trim_start_matches("nginx version: ").split(" (").next().unwrap_or_default().to_owned())
}

impl System for Http {
    fn name(&self) -> &'static str {
        name(self.is_checked)
    }

    fn run(&mut self, _: &Source, targets: &[PathBuf]) -> Result<Cost> {
        let curl = |target: &PathBuf| {
            let mut command = Command::new("curl");
            command
                .args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--output"])
                .arg(target)
                .arg(&self.url);
            command
        };
        let b3sum = |target: &PathBuf| {
            let mut command = Command::new("b3sum");
            command.arg(target);
            command
        };
        count(&self.workers, || {
            let mut received = run(targets.iter().map(curl), Whole::AtEnd)?;
            if self.is_checked {
                let checked = run(targets.iter().map(b3sum), Whole::AtEnd)?;
                received.cpu_s += checked.cpu_s;
                received.whole = checked.whole;
            }
            Ok(received)
        })
    }
}
