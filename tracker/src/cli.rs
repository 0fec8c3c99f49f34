//! The command: reads flags and the configuration, and starts the server.
//!
//! Exit codes: 0 done (also after SIGINT or SIGTERM), 1 unhealthy or a bug, 2 usage, 3 bad input file, 4 unreachable,
//! 6 local I/O such as a port that is taken, 8 refused; 130 and 143 after a second signal.

use crate::ask;
use crate::config::{Color, LogFormat, Progress, Settings, parse_ids};
use crate::disk::DiskStore;
use crate::output::Output;
use crate::process;
use crate::server::{bind, help, run};
use crate::service::Service;
use crate::signals::Signals;
use clap::builder::{BoolishValueParser, Resettable};
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use serde_json::{Value, json};
use shoal_protocol::SwarmId;
use std::cmp::Ordering;
use std::ffi::OsString;
use std::io::{ErrorKind, IsTerminal as _};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::net::TcpListener;
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
    /// -qq: errors only on stderr
    #[arg(short, long, global = true, env = "SHOAL_QUIET", action = ArgAction::Count)]
    quiet: u8,
    /// More on stderr: info, debug, trace (RUST_LOG wins)
    #[arg(short, long, global = true, env = "SHOAL_VERBOSE", action = ArgAction::Count)]
    verbose: u8,
    /// JSON Lines on stdout
    #[arg(long, global = true, env = "SHOAL_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
    /// Nothing: a tracker has no progress to show
    #[arg(long, global = true, env = "SHOAL_PROGRESS", value_name = "MODE", default_value = "auto")]
    progress: Progress,
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
    #[arg(long, global = true, env = "SHOAL_NO_CONFIG", value_parser = BoolishValueParser::new())]
    no_config: bool,
}

impl Global {
    /// Takes from the file what neither the command line nor the environment says.
    fn or(&mut self, file: &Settings, matches: &ArgMatches) {
        let is_said = |id| matches.value_source(id).is_some_and(|source| source != ValueSource::DefaultValue);
        fn take<T: Copy>(own: &mut T, file: Option<T>, is_said: bool) {
            *own = file.filter(|_| !is_said).unwrap_or(*own);
        }
        take(&mut self.quiet, file.quiet, is_said("quiet"));
        take(&mut self.verbose, file.verbose, is_said("verbose"));
        take(&mut self.json, file.json, is_said("json"));
        take(&mut self.color, file.color, is_said("color"));
        take(&mut self.log_format, file.log_format, is_said("log_format"));
    }
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
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) text: String,
    pub(crate) hint: Option<&'static str>,
}

impl Failure {
    pub(crate) fn new(code: u8, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), hint: None }
    }

    pub(crate) fn hint(self, hint: &'static str) -> Self {
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
    let parsed = command().try_get_matches_from(&args).and_then(|m| Ok((Cli::from_arg_matches(&m)?, m)));
    let (mut cli, matches) = match parsed {
        Ok(parsed) => parsed,
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
    let file = file(&cli, &matches);
    if let Ok(file) = &file {
        cli.global.or(file, &matches);
    }
    init_log(&cli.global);
    let output = Output { json: cli.global.json };
    let (code, fields) = match file.and_then(|file| execute(cli, file, output)) {
        Ok(()) => (0, json!({"ok": true, "exit": 0, "kind": "done", "retry": false})),
        Err(failure) => {
            output.error(&failure.text, failure.hint);
            (failure.code, failed(&failure))
        }
    };
    output.record("result", &fields);
    ExitCode::from(code)
}

/// The command line. Settings may stand before a sub-command or behind it; only before it the environment counts, or what it
/// says would win over what stands there.
fn command() -> clap::Command {
    let mut command = Cli::command();
    for name in ["serve", "config"] {
        command = command.mut_subcommand(name, |sub| sub.mut_args(|arg| arg.env(Resettable::Reset)));
    }
    command
}

/// What the configuration file says, for commands that it is for.
fn file(cli: &Cli, matches: &ArgMatches) -> Result<Settings, Failure> {
    if !matches!(cli.command, None | Some(Command::Serve(_) | Command::Config(_))) {
        return Ok(Settings::default());
    }
    let path = cli.global.config.as_deref();
    // The command line wins over the environment, for these two as for all others.
    let place = |id, is_set| matches.value_source(id).filter(|_| is_set);
    match place("no_config", cli.global.no_config).cmp(&place("config", path.is_some())) {
        Ordering::Greater => Ok(Settings::default()),
        Ordering::Equal if path.is_some() => Err(Failure::new(2, "--no-config cannot be used with --config")),
        _ => read_config(path),
    }
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
        (2.., _) => "error",
        (_, 0) => "warn",
        (_, 1) => "info",
        (_, 2) => "debug",
        (_, 3..) => "trace",
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

fn execute(cli: Cli, file: Settings, output: Output) -> Result<(), Failure> {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(6, format!("threads can't be started: {error}")))
    };
    match cli.command {
        None => serve(&runtime()?, &cli.settings.or(file), output),
        Some(Command::Serve(own)) => serve(&runtime()?, &own.or(cli.settings).or(file), output),
        Some(Command::Config(own)) => {
            let text = own.or(cli.settings).or(file).to_toml();
            output.line(text.trim_end());
            output.record("config", &json!({ "toml": text }));
            Ok(())
        }
        Some(Command::Swarms { url, id }) => {
            runtime()?.block_on(ask::swarms(url.as_deref().unwrap_or(ADMIN_URL), id, output))
        }
        Some(Command::Status { url }) => runtime()?.block_on(ask::status(&url, output)),
        Some(Command::Health { url }) => runtime()?.block_on(ask::health(&url, output)),
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
        let counting = service.clone();
        let server = async {
            run(listener, admin, service, shutdown.clone()).await;
            // They have stopped, too, and each takes no longer than this one did.
            helpers.into_iter().for_each(|helper| drop(helper.join()));
        };
        tokio::pin!(server);
        let status = || output.talk(&ask::counters(&counting.status()));
        tokio::select! {
            () = &mut server => return Ok(()),
            _ = signals.next(status) => shutdown.cancel(),
        }
        tokio::select! {
            () = server => Ok(()),
            code = signals.next(status) => Err(Failure::new(code, "stopped at once by a second signal")),
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
    let fit = process::take_all_descriptors();
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
