//! The command line: a thin client of the engine and the store.
//!
//! `args` and `config` say what can be written, `output` and `progress` are all that prints, `sources` turns a link or a
//! file into a manifest, and each command has its own file.

pub mod args;
mod background;
pub mod config;
mod contacts;
mod create;
mod demo;
mod fetch;
pub mod output;
mod precedence;
mod progress;
mod publish;
mod seed;
mod show;
mod signals;
mod sources;
mod staying;
mod troubles;
mod values;
mod verify;

use crate::failure::{Failure, FailureKind};
use crate::net::http_client::HttpClient;
use args::{Args, Command, LogFormat};
use clap::FromArgMatches as _;
use output::{Outcome, Output};
use signals::Signals;
use std::process::ExitCode;
use std::time::Duration;

/// How long blocking threads may hold up the end of the process: a read of stdin would do so for ever.
const SHUTDOWN: Duration = Duration::from_millis(500);

/// What every command works with.
#[derive(Debug, Clone)]
struct Context {
    output: Output,
    signals: Signals,
    http: HttpClient,
}

/// Whether the command line, or the environment as the parser reads it, asks for JSON.
fn asks_for_json() -> bool {
    let is_no = |value: &str| matches!(value, "" | "n" | "no" | "f" | "false" | "off" | "0");
    std::env::args_os().take_while(|arg| arg != "--").any(|arg| arg == "--json")
        || std::env::var("SHOAL_JSON").is_ok_and(|value| !is_no(&value.to_lowercase()))
}

/// Runs the program with the process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        let what = info.payload_as_str().unwrap_or("panic");
        let place = info.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
        output::internal_error(&format!("{what}{place}"));
    }));
    // Asked before anything is parsed, as a wrong command line and a panic have a result record too.
    let json = asks_for_json();
    let code = std::panic::catch_unwind(|| run(json)).unwrap_or_else(|_| {
        output::bug_record(json);
        FailureKind::Bug.exit_code()
    });
    ExitCode::from(code)
}

fn run(json: bool) -> u8 {
    let args = match parse() {
        Ok(args) => args,
        Err(Refused::Parser(error)) => {
            output::parser_message(&error, json);
            return u8::try_from(error.exit_code()).unwrap_or(2);
        }
        Err(Refused::Config(failure)) => {
            output::early_failure(&failure, json);
            return failure.kind.exit_code();
        }
    };
    if let Err(text) = test_network() {
        output::early_failure(&Failure::new(FailureKind::Usage, text), json);
        return FailureKind::Usage.exit_code();
    }
    let output = Output::new(&args.global);
    start_log(&args, &output);
    let _ = shoal_tracker::process::take_all_descriptors();
    // The other half of the cores is for the threads that hash and write, and for the other end where that is on this
    // machine: with as many workers as cores each arrival woke a second one, and on two cores a fetch of 2 GiB took 0.88
    // instead of 0.81 times as long as the floor (`limits pair`).
    let workers = std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(dispatch(args, &output));
            runtime.shutdown_timeout(SHUTDOWN);
            result
        }
        Err(error) => Err(Failure::new(FailureKind::Local, format!("no threads can be started: {error}"))),
    };
    output.finish(&result);
    result.map_or_else(|failure| failure.kind.exit_code(), |_| 0)
}

/// This program, to be started once more with what it is told on its command line alone: what the user set in the environment
/// for this process would change what that one says and does.
fn itself() -> std::io::Result<std::process::Command> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
    let set = |name: &std::ffi::OsStr| name != TEST_NETWORK && name.to_string_lossy().starts_with("SHOAL_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| set(name)) {
        command.env_remove(name);
    }
    Ok(command)
}

const TEST_NETWORK: &str = "SHOAL_TEST_GLOBAL";

/// A private network that tests want to be taken for a part of the internet, such as 10.66.0.0/16.
fn test_network() -> Result<(), String> {
    let Some(text) = std::env::var_os(TEST_NETWORK) else { return Ok(()) };
    let text = text.to_string_lossy();
    let range = text.split_once('/').and_then(|(base, prefix)| Some((base.parse().ok()?, prefix.parse().ok()?)));
    let (base, prefix) = range.ok_or_else(|| format!("{TEST_NETWORK} is no address range: {text}"))?;
    shoal_protocol::address::take_as_global_in_tests(base, prefix);
    Ok(())
}

enum Refused {
    Parser(clap::Error),
    Config(Failure),
}

/// Reads the command line, then once more with the configuration file's values as defaults.
fn parse() -> Result<Args, Refused> {
    let command = args::command();
    let first = command.clone().try_get_matches().map_err(Refused::Parser)?;
    let matches = match config::apply(&command, &first).map_err(Refused::Config)? {
        Some(command) => command.try_get_matches().map_err(Refused::Parser)?,
        None => first,
    };
    let mut args = Args::from_arg_matches(&matches).map_err(Refused::Parser)?;
    precedence::settle(&mut args, &matches).map_err(Refused::Parser)?;
    Ok(args)
}

fn start_log(args: &Args, output: &Output) {
    use tracing_subscriber::EnvFilter;
    let level = match (args.global.quiet, args.global.verbose) {
        (2.., _) => "error",
        (_, 0) => "warn",
        (_, 1) => "info",
        (_, 2) => "debug",
        (_, 3..) => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(output::log_writer);
    // A second subscriber in one process (a test's) is no reason to fail.
    let _ = match args.global.log_format {
        LogFormat::Text => builder.with_ansi(output.colour()).with_target(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

async fn dispatch(args: Args, output: &Output) -> Result<Outcome, Failure> {
    if matches!(args.command, Command::BackgroundServe(_)) {
        background::detach();
    }
    let signals = Signals::install(output)
        .map_err(|error| Failure::new(FailureKind::Local, format!("signals can't be received: {error}")))?;
    let context = Context { output: output.clone(), signals, http: HttpClient::new() };
    match args.command {
        Command::Seed(args) => seed::run(args, context).await,
        Command::Fetch(args) => fetch::run(args, context).await,
        Command::Create(args) => create::run(args, &context).await,
        Command::Show(args) => show::run(&args, &context).await,
        Command::Verify(args) => verify::run(args, &context).await,
        Command::Demo(args) => demo::run(args, context).await,
        Command::BackgroundServe(args) => background::serve(args, context).await,
    }
}

/// A name of this host for trackers' lists.
fn host_label() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    name.chars().filter(|c| !c.is_control()).take(48).collect()
}
