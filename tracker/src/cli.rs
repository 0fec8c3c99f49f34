//! The command: reads flags, starts the server, asks running trackers. Signals are handled here and nowhere else.
//!
//! Exit codes: 0 done (also after SIGINT or SIGTERM), 1 unhealthy or a bug, 2 usage, 3 bad input file, 4 unreachable,
//! 6 local I/O such as a port that is taken, 8 refused; 130 and 143 after a second signal.

use crate::config::{Settings, parse_ids};
use crate::descriptors;
use crate::disk::DiskStore;
use crate::output::Output;
use crate::server::{bind, help, run};
use crate::service::{Service, Status};
use clap::builder::BoolishValueParser;
use clap::{ArgAction, Parser, Subcommand, ValueEnum};
use serde_json::{Value, json};
use shoal_protocol::SwarmId;
use shoal_protocol::link::Url;
use shoal_protocol::units::format_duration;
use std::ffi::OsString;
use std::io::{ErrorKind, IsTerminal as _};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

const ADMIN_URL: &str = "http://127.0.0.1:7071";
const MAIN_URL: &str = "http://127.0.0.1:7070";

/// Shoal's tracker: tells peers who holds what, and keeps manifests.
#[derive(Debug, Parser)]
#[command(name = "tracker", version, args_conflicts_with_subcommands = false)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Args)]
struct Global {
    /// Errors only on stderr
    #[arg(short, long, global = true, env = "SHOAL_QUIET", action = ArgAction::Count)]
    quiet: u8,
    /// More on stderr: info, debug, trace (RUST_LOG wins)
    #[arg(short, long, global = true, env = "SHOAL_VERBOSE", action = ArgAction::Count)]
    verbose: u8,
    /// JSON Lines on stdout
    #[arg(long, global = true, env = "SHOAL_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
    /// Colours on stderr
    #[arg(long, global = true, env = "SHOAL_COLOR", value_name = "WHEN", default_value = "auto")]
    color: Color,
    /// Form of the log on stderr
    #[arg(long, global = true, env = "SHOAL_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// Configuration file [default: $XDG_CONFIG_HOME/shoal/tracker.toml, then /etc/shoal/tracker.toml]
    #[arg(long, global = true, env = "SHOAL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Read no configuration file
    #[arg(long, global = true, env = "SHOAL_NO_CONFIG", value_parser = BoolishValueParser::new(), conflicts_with = "config")]
    no_config: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until stopped (also without a sub-command)
    Serve(Box<Settings>),
    /// List the swarms of a running tracker, or the peers of one (URL of its admin port)
    Swarms {
        /// Admin URL [default: http://127.0.0.1:7071]
        url: Option<String>,
        /// A swarm's id
        id: Option<SwarmId>,
    },
    /// Show the counters of a running tracker
    Status {
        /// Admin URL
        #[arg(default_value = ADMIN_URL)]
        url: String,
    },
    /// Exit 0 if a tracker answers, else 1
    Health {
        /// Main or admin URL
        #[arg(default_value = MAIN_URL)]
        url: String,
    },
    /// Print the effective configuration as a commented file
    Config(Box<Settings>),
}

/// Why the command ends other than well.
struct Failure {
    code: u8,
    text: String,
    hint: Option<&'static str>,
}

impl Failure {
    fn new(code: u8, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), hint: None }
    }

    fn hint(self, hint: &'static str) -> Self {
        Self { hint: Some(hint), ..self }
    }

    fn kind(&self) -> &'static str {
        match self.code {
            2 => "usage",
            3 => "bad-input",
            4 => "unreachable",
            6 => "local-io",
            8 => "refused",
            130 => "interrupted",
            143 => "terminated",
            _ => "error",
        }
    }
}

/// Runs the command with the process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    run_with(std::env::args_os())
}

fn run_with(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            // Nothing was parsed, and who reads records waits for the last one all the same.
            let output = Output { json: error.use_stderr() && asks_for_json(&args) };
            let text = error.render().to_string();
            let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            output.record("result", &failed(&Failure::new(2, first)));
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    init_log(&cli.global);
    let output = Output { json: cli.global.json };
    let (code, fields) = match execute(cli, output) {
        Ok(()) => (0, json!({"ok": true, "exit": 0, "kind": "done", "retry": false})),
        Err(failure) => {
            output.error(&failure.text, failure.hint);
            (failure.code, failed(&failure))
        }
    };
    output.record("result", &fields);
    ExitCode::from(code)
}

/// Whether the command line, or the environment as the parser reads it, asks for JSON.
fn asks_for_json(args: &[OsString]) -> bool {
    let is_yes = |value: &str| matches!(value, "y" | "yes" | "t" | "true" | "on" | "1");
    args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--json")
        || std::env::var("SHOAL_JSON").is_ok_and(|value| is_yes(&value.to_lowercase()))
}

/// The last record of a failure.
fn failed(failure: &Failure) -> Value {
    let retry = matches!(failure.code, 4 | 130 | 143);
    json!({"ok": false, "exit": failure.code, "kind": failure.kind(), "retry": retry, "message": failure.text})
}

fn init_log(global: &Global) {
    use tracing_subscriber::EnvFilter;
    let level = match (global.quiet, global.verbose) {
        (1.., _) => "error",
        (0, 0) => "warn",
        (0, 1) => "info",
        (0, 2) => "debug",
        (0, _) => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty() && v != "0");
    let ansi = match global.color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => !set("NO_COLOR") && (set("CLICOLOR_FORCE") || std::io::stderr().is_terminal()),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi);
    // Only a second call in one process fails, and then the first one's log goes on.
    let _ = match global.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

fn execute(cli: Cli, output: Output) -> Result<(), Failure> {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(6, format!("threads can't be started: {error}")))
    };
    let effective = |own: Settings| -> Result<Settings, Failure> {
        let file = if cli.global.no_config { Settings::default() } else { read_config(cli.global.config.as_deref())? };
        Ok(own.or(file))
    };
    match cli.command {
        None => serve(&runtime()?, &effective(cli.settings)?, output),
        Some(Command::Serve(own)) => serve(&runtime()?, &effective(own.or(cli.settings))?, output),
        Some(Command::Config(own)) => {
            let text = effective(own.or(cli.settings))?.to_toml();
            output.line(text.trim_end());
            output.record("config", &json!({ "toml": text }));
            Ok(())
        }
        Some(Command::Swarms { url, id }) => {
            runtime()?.block_on(swarms(url.as_deref().unwrap_or(ADMIN_URL), id, output))
        }
        Some(Command::Status { url }) => runtime()?.block_on(status(&url, output)),
        Some(Command::Health { url }) => runtime()?.block_on(health(&url, output)),
    }
}

fn read_config(explicit: Option<&Path>) -> Result<Settings, Failure> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let user = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
    let places = match explicit {
        Some(path) => vec![path.to_owned()],
        None => user.into_iter().chain([PathBuf::from("/etc")]).map(|p| p.join("shoal/tracker.toml")).collect(),
    };
    for path in places {
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                return Settings::from_toml(&text).map_err(|e| Failure::new(2, format!("{}: {e}", path.display())));
            }
            // A service may have a home that is no directory.
            Err(error)
                if explicit.is_none() && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(error) => return Err(Failure::new(6, format!("{}: {error}", path.display()))),
        }
    }
    Ok(Settings::default())
}

fn serve(runtime: &tokio::runtime::Runtime, settings: &Settings, output: Output) -> Result<(), Failure> {
    let mut config = settings.service().map_err(|e| Failure::new(2, e))?;
    config.max_connections = config.max_connections.min(connections_that_fit());
    test_network()?;
    let admin_addr = settings.admin_addr().map_err(|e| Failure::new(2, e))?;
    let allow = match &settings.allow {
        None => None,
        Some(path) => {
            let text =
                std::fs::read_to_string(path).map_err(|e| Failure::new(6, format!("{}: {e}", path.display())))?;
            Some(parse_ids(&text).map_err(|e| Failure::new(3, format!("{}: {e}", path.display())))?)
        }
    };
    let directory = settings.data_dir();
    let store = DiskStore::open(&directory, settings.disk(allow)).map_err(|error| {
        Failure::new(6, format!("the data directory {} can't be used: {error}", directory.display()))
            .hint("choose another one with --data DIR")
    })?;
    runtime.block_on(async {
        let open = |addr: SocketAddr, hint| {
            bind(addr).map_err(|error| Failure::new(6, format!("can't listen at {addr}: {error}")).hint(hint))
        };
        let listener = open(settings.listen_addr(), "choose another port with --listen ADDR")?;
        let admin = admin_addr
            .map(|addr| open(addr, "choose another port with --admin-listen ADDR, or --admin-listen off"))
            .transpose()?;
        let no_signals = |e: std::io::Error| Failure::new(6, format!("signals can't be handled: {e}"));
        let mut signals = Signals::new().map_err(no_signals)?;
        let url = listener.local_addr().map(reachable).map_err(|e| Failure::new(6, e.to_string()))?;
        let admin_url = admin.as_ref().and_then(|a| a.local_addr().ok()).map(|a| format!("http://{a}"));
        output.line(&url);
        output.record("ready", &json!({"url": url, "admin": admin_url}));
        tracing::info!(url, admin = admin_url, data = %directory.display(), "serving");
        let shutdown = CancellationToken::new();
        let service = Service::new(config, Arc::new(store));
        let helpers = helpers(&listener, &service, &shutdown)
            .map_err(|error| Failure::new(6, format!("threads can't be started: {error}")))?;
        let server = async {
            run(listener, admin, service, shutdown.clone()).await;
            // They have stopped, too, and each takes no longer than this one did.
            helpers.into_iter().for_each(|helper| drop(helper.join()));
        };
        tokio::pin!(server);
        tokio::select! {
            () = &mut server => return Ok(()),
            _ = signals.next() => shutdown.cancel(),
        }
        tokio::select! {
            () = server => Ok(()),
            code = signals.next() => Err(Failure::new(code, "stopped at once by a second signal")),
        }
    })
}

/// A thread for each further core, which takes connections from the same listener.
fn helpers(
    listener: &TcpListener,
    service: &Service,
    shutdown: &CancellationToken,
) -> std::io::Result<Vec<std::thread::JoinHandle<()>>> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let start = |_| {
        let socket = std::net::TcpListener::from(listener.as_fd().try_clone_to_owned()?);
        let (service, shutdown) = (service.clone(), shutdown.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(socket)?
        };
        std::thread::Builder::new()
            .name("helper".into())
            .spawn(move || runtime.block_on(help(listener, service, shutdown)))
    };
    (1..cores).map(start).collect()
}

/// Connections for which there are descriptors.
fn connections_that_fit() -> usize {
    /// Listeners, the runtime, manifests that are read and written.
    const OTHERS: u64 = 128;
    let fit = descriptors::take_all();
    usize::try_from(fit.saturating_sub(OTHERS).max(fit / 2)).unwrap_or(usize::MAX)
}

/// A private network that tests want to be taken for a part of the internet.
fn test_network() -> Result<(), Failure> {
    let Some(text) = std::env::var_os("SHOAL_TEST_GLOBAL") else { return Ok(()) };
    let text = text.to_string_lossy();
    let range: crate::cidr::Cidr = text.parse().map_err(|e| Failure::new(2, format!("SHOAL_TEST_GLOBAL: {e}")))?;
    range.take_as_global_in_tests();
    Ok(())
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        // A file that may not grow further is an error of that write, not the end of the process without a word.
        drop(signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?);
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal; gives the exit code that it stands for.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
            _ = self.hang_up.recv() => 143,
        }
    }
}

/// A URL at which others reach this listener: for a wildcard the address that the default route leaves from.
fn reachable(local: SocketAddr) -> String {
    let outward = || -> Option<IpAddr> {
        // Connecting a UDP socket sends nothing; it only picks the local address.
        let socket = UdpSocket::bind(("0.0.0.0", 0)).ok()?;
        socket.connect(("192.0.2.1", 9)).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
    };
    let ip = match local.ip() {
        ip if ip.is_unspecified() => outward().unwrap_or(IpAddr::from([127, 0, 0, 1])),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, local.port()))
}

async fn ask(base: &str, path: &str) -> Result<(u16, bytes::Bytes), Failure> {
    let url = Url::parse(base).map_err(|error| Failure::new(2, format!("{base}: {error}")))?;
    if url.tls {
        return Err(Failure::new(2, format!("{base}: this command speaks plain http only")));
    }
    crate::client::get(&url.tracker().below(path)).await.map_err(|text| Failure::new(4, text))
}

async fn ask_json(base: &str, path: &str) -> Result<Value, Failure> {
    let (status, body) = ask(base, path).await?;
    let value: Option<Value> = serde_json::from_slice(&body).ok();
    match (status, value) {
        (200, Some(value)) => Ok(value),
        (_, Some(Value::Object(fields))) if fields.contains_key("error") => {
            Err(Failure::new(8, format!("{base}{path}: {}", fields["error"].as_str().unwrap_or_default()))
                .hint("this needs the URL of the tracker's admin port"))
        }
        _ => Err(Failure::new(3, format!("{base}{path}: not the answer of a tracker's admin port (status {status})"))),
    }
}

async fn swarms(url: &str, id: Option<SwarmId>, output: Output) -> Result<(), Failure> {
    let path = id.map_or("/v1/swarms".to_owned(), |id| format!("/v1/swarms/{id}"));
    let answer = ask_json(url, &path).await?;
    let field = |row: &Value, name: &str| match &row[name] {
        Value::String(text) => text.chars().filter(|c| !c.is_control()).collect(),
        other => other.to_string(),
    };
    for row in answer["rows"].as_array().into_iter().flatten() {
        output.record(if id.is_some() { "peer" } else { "swarm" }, row);
        let columns: Vec<String> = if id.is_some() {
            let role = if row["seed"] == true { "seed" } else { "leecher" };
            vec![
                format!("{} {}", field(row, "ip"), field(row, "port")),
                role.into(),
                field(row, "zone"),
                field(row, "label"),
            ]
        } else {
            let count = |name| format!("{name} {}", field(row, name));
            vec![field(row, "swarm"), count("seeds"), count("leechers"), count("completed")]
        };
        output.line(columns.join("  ").trim_end());
    }
    Ok(())
}

async fn status(url: &str, output: Output) -> Result<(), Failure> {
    let answer = ask_json(url, "/v1/status").await?;
    let status: Status = serde_json::from_value(answer.clone())
        .map_err(|error| Failure::new(3, format!("{url}: not the status of a tracker: {error}")))?;
    output.record("status", &answer);
    output.line(&format!(
        "up {}  swarms {}  peers {}  manifests {}  requests {}  announces {}  handed out {}  refused {}  too fast {}",
        format_duration(Duration::from_secs(status.uptime_s)),
        status.swarms,
        status.peers,
        status.manifests,
        status.requests,
        status.announces,
        status.peers_handed_out,
        status.refused,
        status.rate_limited
    ));
    Ok(())
}

async fn health(url: &str, output: Output) -> Result<(), Failure> {
    match ask(url, "/healthz").await {
        Ok((200, _)) => {
            output.line("ok");
            Ok(())
        }
        Ok((status, _)) => Err(Failure::new(1, format!("{url} answers with status {status}"))),
        Err(failure) if failure.code == 4 => Err(Failure { code: 1, ..failure }),
        Err(failure) => Err(failure),
    }
}
