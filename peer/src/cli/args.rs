//! What can be written on the command line.
//!
//! Every long flag has an environment variable, `SHOAL_` and its name, and all but those of one run can stand in the
//! configuration file; both follow from the definitions here (see [`command`] and `config`).

use super::values::{host_port, listen, name, piece_size, seed_for, stop_when, url, zone};
use crate::engine::Listen;
use clap::builder::FalseyValueParser;
use clap::{ArgAction, Args as ClapArgs, CommandFactory as _, Parser, Subcommand, ValueEnum};
use shoal_protocol::ContentId;
use shoal_protocol::link::Url;
use shoal_protocol::units::{parse_duration, parse_rate};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// First port of the default range.
pub const DEFAULT_PORT: u16 = 7171;
/// Last port of the default range.
pub const LAST_PORT: u16 = 7199;

const AFTER: &str = "\
Every long flag is also an environment variable (--max-upload: SHOAL_MAX_UPLOAD; lists with commas), and all but those of one run
can stand in the configuration file (max-upload = \"100Mbit\", or under [seed], [fetch], ...). A flag beats the environment, that
beats the file.
Sizes: 512K, 4MiB (1024-based), 10GB (1000-based). Rates: 12M (bytes per second), 100Mbit; 0 = no limit. Durations: 500ms, 30s, 10m, 2h.

Exit codes: 0 done, 1 our bug, 2 usage, 3 bad manifest or input, 4 nobody reachable, 5 data failed verification,
6 local disk or file trouble, 7 incomplete (run it again to go on), 8 refused, 130 and 143 stopped by a signal.";

/// Moves one big file or tree from one machine to many, every byte verified.
#[derive(Debug, Parser)]
#[command(name = "peer", version, about, after_help = AFTER, propagate_version = true, max_term_width = 120)]
pub struct Args {
    /// For every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command knows, before or after its name.
#[derive(Debug, Clone, ClapArgs)]
#[command(next_help_heading = "Output")]
pub struct Global {
    /// Less talk: -q no progress, -qq errors only
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub quiet: u8,
    /// More talk: info, debug, trace (RUST_LOG wins)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// How progress is shown on stderr; auto: a bar on a terminal, else a line each 10 s
    #[arg(long, global = true, value_name = "MODE", default_value = "auto")]
    pub progress: ProgressMode,
    /// JSON Lines on stdout, nothing else there; the last record is always of type "result"
    #[arg(long, global = true, value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub json: bool,
    /// Colours on stderr (NO_COLOR and CLICOLOR_FORCE are honoured)
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: ColorWhen,
    /// How log lines look (stderr)
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// Configuration file [default: $XDG_CONFIG_HOME/shoal/peer.toml, then /etc/shoal/peer.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Read no configuration file
    #[arg(long, global = true, value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub no_config: bool,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    /// `Bar` if stderr is a terminal, else `Plain`.
    Auto,
    /// One line that is drawn again and again.
    Bar,
    /// A line each 10 s and at the end.
    Plain,
    /// A record each second.
    Json,
    /// Nothing.
    None,
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ColorWhen {
    /// On a terminal.
    Auto,
    /// Also into pipes.
    Always,
    /// Never.
    Never,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Publish files or trees and serve them until stopped; prints a link for each
    Seed(SeedArgs),
    /// Get a content; prints the path that holds it
    Fetch(FetchArgs),
    /// Write the manifest of a file or tree, without serving anything
    Create(CreateArgs),
    /// Say what a link or a manifest stands for
    Show(ShowArgs),
    /// Check what is on disk against a manifest; writes nothing
    Verify(VerifyArgs),
    /// Try it: a seed and several fetches on this machine, verified, with the figures
    Demo(DemoArgs),
    /// What `fetch --background` starts.
    #[command(hide = true, name = "background-serve")]
    BackgroundServe(BackgroundArgs),
}

/// Where this process stands in the network.
#[derive(Debug, Clone, ClapArgs)]
#[command(next_help_heading = "Network")]
pub struct NetArgs {
    /// Tracker, as URL; repeatable
    #[arg(short, long, value_name = "URL", value_parser = url, value_delimiter = ',')]
    pub tracker: Vec<Url>,
    #[allow(rustdoc::broken_intra_doc_links, reason = "[::] is an address")]
    /// Where to listen: ADDR:PORT, :PORT, ADDR:PORT-PORT [default: [::]:7171, or the next free one up to 7199]
    #[arg(short, long, value_name = "ADDR", value_parser = listen)]
    pub listen: Option<Listen>,
    /// A further address at which others reach this peer (NAT, second network); repeatable
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    pub advertise: Vec<SocketAddr>,
    /// Where this machine stands, e.g. dc1/room2/rack7; near peers are preferred [default: the subnet tells]
    #[arg(long, value_name = "PATH", value_parser = zone)]
    pub zone: Option<String>,
    /// Upload limit over all contents
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    pub max_upload: Option<u64>,
    /// Download limit over all contents
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    pub max_download: Option<u64>,
    /// Connections per content
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub max_peers: u16,
}

impl FetchArgs {
    /// How long a content that is there already should be served, if that was asked for.
    pub(super) fn serves_again(&self) -> Option<SeedFor> {
        self.seed_for.filter(|time| !self.no_upload && *time != SeedFor::Time(Duration::ZERO))
    }
}

impl NetArgs {
    /// Where to listen.
    #[must_use]
    pub fn listen(&self) -> Listen {
        self.listen.clone().unwrap_or(Listen { ip: None, ports: DEFAULT_PORT..=LAST_PORT })
    }
}

/// How a tree is read.
#[derive(Debug, Clone, ClapArgs)]
#[command(next_help_heading = "Content")]
pub struct ScanArgs {
    /// Unit of verification: a power of two from 64K to 16M, or auto
    #[arg(long, value_name = "SIZE", default_value = "auto", value_parser = piece_size)]
    pub piece_size: PieceSize,
    /// Take what a symbolic link points at when that lies outside the tree
    #[arg(long, value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub follow_links: bool,
    /// Leave out sockets, pipes and devices instead of refusing them
    #[arg(long, value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub skip_special: bool,
}

/// A piece size or the automatic rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PieceSize(pub Option<u32>);

/// `peer seed`.
#[derive(Debug, Clone, ClapArgs)]
pub struct SeedArgs {
    /// Files or directories
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// The network.
    #[command(flatten)]
    pub net: NetArgs,
    /// The content.
    #[command(flatten)]
    pub scan: ScanArgs,
    /// Also write the manifest there (one PATH only)
    #[arg(short, long, value_name = "FILE", help_heading = "Content")]
    pub manifest: Option<PathBuf>,
    /// What others call it [default: the last component of PATH] (one PATH only)
    #[arg(long, value_parser = name, help_heading = "Content")]
    pub name: Option<String>,
    /// What to print as the link's server, where others see another address than this machine does
    #[arg(long, value_name = "URL", value_parser = url, help_heading = "Network")]
    pub public_url: Option<Url>,
    /// Anyone with the link or the id may fetch; the only way in this version
    #[arg(long, value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue, help_heading = "Content")]
    pub public: bool,
    /// When to end: never, idle=10m, copies=2.0 (whole copies that others hold), complete=N (peers that finished), uploaded=SIZE
    #[arg(long, value_name = "COND", default_value = "never", value_parser = stop_when, help_heading = "Ending")]
    pub stop_when: StopWhen,
    /// End with exit code 7 if the condition isn't met by then
    #[arg(long, value_name = "DUR", value_parser = parse_duration, help_heading = "Ending")]
    pub timeout: Option<Duration>,
}

/// When a seed ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum StopWhen {
    /// When it is stopped.
    Never,
    /// Nothing sent for so long.
    Idle(Duration),
    /// Others hold so many whole copies.
    Copies(f64),
    /// So many peers finished.
    Complete(u32),
    /// So many bytes sent.
    Uploaded(u64),
}

/// `peer fetch`.
#[derive(Debug, Clone, ClapArgs)]
pub struct FetchArgs {
    /// A link, a manifest file, any http(s) URL of a manifest, or - for a manifest on stdin
    #[arg(value_name = "LINK|FILE")]
    pub what: String,
    /// The content id that must come; pins a URL or a file
    #[arg(long, value_name = "ID", help_heading = "Content")]
    pub id: Option<ContentId>,
    /// Exactly this path [default: ./NAME]; an existing empty directory or mount point is filled
    #[arg(short, long, value_name = "PATH", help_heading = "Content")]
    pub output: Option<PathBuf>,
    /// Into this directory, under the content's name
    #[arg(long, value_name = "DIR", help_heading = "Content")]
    pub into: Option<PathBuf>,
    /// The network.
    #[command(flatten)]
    pub net: NetArgs,
    /// A peer to try, as HOST:PORT; repeatable
    #[arg(short, long, value_name = "HOST:PORT", value_delimiter = ',', value_parser = host_port, help_heading = "Network")]
    pub peer: Vec<String>,
    /// Don't serve others meanwhile
    #[arg(long, value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue, help_heading = "Network")]
    pub no_upload: bool,
    /// Take private addresses from a public tracker
    #[arg(long, value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue, help_heading = "Network")]
    pub allow_private: bool,
    /// Serve on after the end: a duration, forever, or auto: while a neighbour is incomplete, 30 s at most [default: auto]
    #[arg(long, value_name = "DUR|auto", value_parser = seed_for, help_heading = "Ending")]
    pub seed_for: Option<SeedFor>,
    /// Return when complete; what --seed-for asks goes on in a background process
    #[arg(long, value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue, help_heading = "Ending")]
    pub background: bool,
    /// Give up (exit code 7, or 4 if nobody was reachable) if it isn't complete by then; what is there is kept
    #[arg(long, value_name = "DUR", value_parser = parse_duration, help_heading = "Ending")]
    pub timeout: Option<Duration>,
    /// Give up if nothing new came for so long; 0: never
    #[arg(long, value_name = "DUR", default_value = "10m", value_parser = parse_duration, help_heading = "Ending")]
    pub stall_timeout: Duration,
    /// Start from zero instead of going on from what is there
    #[arg(long, value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue, help_heading = "Target")]
    pub no_resume: bool,
    /// Replace a target that differs
    #[arg(long, value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue, help_heading = "Target")]
    pub overwrite: bool,
    /// Keep the good pieces of a target that differs, fetch the rest
    #[arg(long, value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue, help_heading = "Target")]
    pub repair: bool,
    /// auto: what is under the final name survives a power cut; none: faster, and it may not
    #[arg(long, value_name = "WHEN", default_value = "auto", help_heading = "Target")]
    pub sync: Sync,
    /// Say what would be fetched, and fetch nothing
    #[arg(short = 'n', long, value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue, help_heading = "Target")]
    pub dry_run: bool,
}

/// How hard a fetch flushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sync {
    /// Before the final name appears.
    Auto,
    /// Never.
    None,
}

/// How long to serve after the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeedFor {
    /// While a neighbour wants something, 30 s at most.
    Auto,
    /// So long.
    Time(Duration),
    /// Until stopped.
    Forever,
}

/// `peer create`.
#[derive(Debug, Clone, ClapArgs)]
pub struct CreateArgs {
    /// File or directory
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// Where the manifest goes; - is stdout
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub output: PathBuf,
    /// The content.
    #[command(flatten)]
    pub scan: ScanArgs,
    /// Tracker to name in the manifest, as URL; repeatable
    #[arg(short, long, value_name = "URL", value_parser = url, value_delimiter = ',')]
    pub tracker: Vec<Url>,
    /// What others call it [default: the last component of PATH]
    #[arg(long, value_parser = name)]
    pub name: Option<String>,
}

/// `peer show`.
#[derive(Debug, Clone, ClapArgs)]
pub struct ShowArgs {
    /// A link, a manifest file, any http(s) URL of a manifest, or - for stdin
    #[arg(value_name = "LINK|FILE")]
    pub what: String,
    /// List the entries
    #[arg(long, value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub files: bool,
    /// Print only lines that `b3sum --check` reads
    #[arg(long, value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub b3sum: bool,
}

/// `peer verify`.
#[derive(Debug, Clone, ClapArgs)]
pub struct VerifyArgs {
    /// A link, a manifest file, any http(s) URL of a manifest, or - for stdin
    #[arg(value_name = "LINK|FILE")]
    pub what: String,
    /// What to check [default: ./NAME]
    #[arg(value_name = "PATH")]
    pub path: Option<PathBuf>,
}

/// `peer demo`.
#[derive(Debug, Clone, ClapArgs)]
pub struct DemoArgs {
    /// File or directory to move
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// How many fetches run at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub peers: u16,
}

/// `peer background-serve`.
#[derive(Debug, Clone, ClapArgs)]
pub struct BackgroundArgs {
    /// Manifest file, read once and removed
    #[arg(long)]
    pub manifest: PathBuf,
    /// The content
    #[arg(long)]
    pub path: PathBuf,
    /// How long
    #[arg(long, value_parser = seed_for)]
    pub seed_for: SeedFor,
    /// Tracker that somebody in a private network named
    #[arg(long, value_parser = url)]
    pub tracker_of_neighbour: Vec<Url>,
    /// Tracker that somebody on the internet named
    #[arg(long, value_parser = url)]
    pub tracker_of_stranger: Vec<Url>,
    /// The network.
    #[command(flatten)]
    pub net: NetArgs,
}

/// The command line's definition, with an environment variable for every long flag.
#[must_use]
pub fn command() -> clap::Command {
    fn with_env(command: clap::Command) -> clap::Command {
        command.mut_args(|arg| match arg.get_long() {
            Some(long) if !matches!(long, "help" | "version") => {
                // Clap keeps names for as long as the program runs; they are few and made once.
                let name = format!("SHOAL_{}", long.to_uppercase().replace('-', "_"));
                let name: &'static str = Box::leak(name.into_boxed_str());
                arg.env(name).hide_env(true)
            }
            _ => arg,
        })
    }
    with_env(Args::command()).mut_subcommands(with_env)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_long_flag_has_a_variable() {
        for sub in command().get_subcommands() {
            for arg in sub.get_arguments().filter(|arg| !matches!(arg.get_long(), None | Some("help" | "version"))) {
                assert!(arg.get_env().is_some(), "{} {}", sub.get_name(), arg.get_id());
            }
        }
    }
}
