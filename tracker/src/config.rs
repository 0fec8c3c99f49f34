//! The settings of `tracker serve`: flags, environment, configuration file, defaults, in this order.
//!
//! One struct is both what clap reads and what the file may hold, so the two can't drift apart; unknown keys are
//! refused. Lists are arrays in the file and comma-separated elsewhere.

use crate::cidr::Cidr;
use crate::disk::{ANNOUNCED_AGAIN, DiskConfig};
use crate::registry::RegistryConfig;
use crate::service::ServiceConfig;
use serde::{Deserialize, Deserializer};
use shoal_protocol::ContentId;
use shoal_protocol::limits::HANDOUT_PEERS;
use shoal_protocol::units::{parse_duration, parse_size};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What may be set. Each field has a flag, a variable `SHOAL_…` and a key in the file.
#[derive(Debug, Clone, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Settings {
    #[allow(rustdoc::broken_intra_doc_links, reason = "[::] is an address")]
    /// Address and port for peers [default: [::]:7070; 0.0.0.0 where there is no IPv6]
    #[arg(short, long, env = "SHOAL_LISTEN", value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Directory for manifests [default: the user's state directory]
    #[arg(long, env = "SHOAL_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Most bytes of stored manifests [default: 4GiB]
    #[arg(long, env = "SHOAL_MAX_DATA", value_name = "SIZE", value_parser = parse_size)]
    #[serde(deserialize_with = "size")]
    pub max_data: Option<u64>,
    /// How long an unused manifest is kept [default: 30d]
    #[arg(long, env = "SHOAL_MANIFEST_TTL", value_name = "DUR", value_parser = parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub manifest_ttl: Option<Duration>,
    /// Address and port for the operator: swarms, peers, /metrics; or "off" [default: 127.0.0.1:7071]
    #[arg(long, env = "SHOAL_ADMIN_LISTEN", value_name = "ADDR")]
    pub admin_listen: Option<String>,
    /// Base of the time between two announces of a peer [default: 3s to 90s, by age and size of the swarm, and by how many peers there are in all]
    #[arg(long, env = "SHOAL_ANNOUNCE_INTERVAL", value_name = "DUR", value_parser = parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub announce_interval: Option<Duration>,
    /// How long a silent peer is kept [default: 2.5 intervals and 15s]
    #[arg(long, env = "SHOAL_PEER_TTL", value_name = "DUR", value_parser = parse_duration)]
    #[serde(deserialize_with = "duration")]
    pub peer_ttl: Option<Duration>,
    /// Most peers in one handout, up to 100 [default: 50]
    #[arg(long, env = "SHOAL_MAX_HANDOUT", value_name = "N")]
    pub max_handout: Option<usize>,
    /// Most swarms [default: 1000000]
    #[arg(long, env = "SHOAL_MAX_SWARMS", value_name = "N")]
    pub max_swarms: Option<usize>,
    /// Most peers in one swarm [default: 1000000]
    #[arg(long, env = "SHOAL_MAX_PEERS_PER_SWARM", value_name = "N")]
    pub max_peers_per_swarm: Option<usize>,
    /// Most peers in all swarms together [default: 1000000]
    #[arg(long, env = "SHOAL_MAX_PEERS", value_name = "N")]
    pub max_peers: Option<usize>,
    /// Requests per second and public address; 0 for no limit [default: 50]
    #[arg(long, env = "SHOAL_RATE_LIMIT", value_name = "N", value_parser = parse_rate)]
    #[serde(deserialize_with = "rate")]
    pub rate_limit: Option<u32>,
    /// Serve only the content ids in this file, one a line
    #[arg(long, env = "SHOAL_ALLOW", value_name = "FILE")]
    pub allow: Option<PathBuf>,
    /// Hand announced addresses in this range to everybody; repeatable
    #[arg(long, env = "SHOAL_TRUST_ADVERTISED", value_name = "CIDR", value_delimiter = ',')]
    #[serde(deserialize_with = "cidrs")]
    pub trust_advertised: Vec<Cidr>,
    /// Believe X-Forwarded-For of proxies in this range; repeatable
    #[arg(long, env = "SHOAL_TRUST_FORWARDED", value_name = "CIDR", value_delimiter = ',')]
    #[serde(deserialize_with = "cidrs")]
    pub trust_forwarded: Vec<Cidr>,
    /// In the file only, as each of the following: on the command line these stand beside the settings of a tracker.
    #[arg(skip)]
    pub quiet: Option<u8>,
    /// How much more than warnings is logged.
    #[arg(skip)]
    pub verbose: Option<u8>,
    /// Records on stdout.
    #[arg(skip)]
    pub json: Option<bool>,
    /// Colours on stderr.
    #[arg(skip)]
    pub color: Option<Color>,
    /// Form of the log.
    #[arg(skip)]
    pub log_format: Option<LogFormat>,
    /// Taken, as on the command line, and without effect.
    #[arg(skip)]
    pub progress: Option<Progress>,
}

/// When stderr is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Color {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What a peer's `--progress` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Progress {
    /// As the terminal is.
    Auto,
    /// A bar.
    Bar,
    /// Lines.
    Plain,
    /// Records.
    Json,
    /// None.
    None,
}

/// Form of the log on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// A JSON object a line.
    Json,
}

fn parse_rate(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    number.parse().map_err(|_| format!("'{text}' is not a rate: write a number of requests per second, e.g. 50"))
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Number(u64),
    Text(String),
}

fn scalar<'de, D: Deserializer<'de>, T>(d: D, read: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, D::Error> {
    let text = match Scalar::deserialize(d)? {
        Scalar::Number(n) => n.to_string(),
        Scalar::Text(text) => text,
    };
    read(&text).map(Some).map_err(serde::de::Error::custom)
}

fn size<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    scalar(d, parse_size)
}

fn duration<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    scalar(d, parse_duration)
}

fn rate<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u32>, D::Error> {
    scalar(d, parse_rate)
}

fn cidrs<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Cidr>, D::Error> {
    let texts = Vec::<String>::deserialize(d)?;
    texts.iter().map(|t| t.parse().map_err(serde::de::Error::custom)).collect()
}

impl Settings {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// What is wrong and where.
    pub fn from_toml(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    /// These settings, and those of `base` where nothing is set here.
    #[must_use]
    pub fn or(self, base: Self) -> Self {
        let list = |own: Vec<Cidr>, base| if own.is_empty() { base } else { own };
        Self {
            listen: self.listen.or(base.listen),
            data: self.data.or(base.data),
            max_data: self.max_data.or(base.max_data),
            manifest_ttl: self.manifest_ttl.or(base.manifest_ttl),
            admin_listen: self.admin_listen.or(base.admin_listen),
            announce_interval: self.announce_interval.or(base.announce_interval),
            peer_ttl: self.peer_ttl.or(base.peer_ttl),
            max_handout: self.max_handout.or(base.max_handout),
            max_swarms: self.max_swarms.or(base.max_swarms),
            max_peers_per_swarm: self.max_peers_per_swarm.or(base.max_peers_per_swarm),
            max_peers: self.max_peers.or(base.max_peers),
            rate_limit: self.rate_limit.or(base.rate_limit),
            allow: self.allow.or(base.allow),
            trust_advertised: list(self.trust_advertised, base.trust_advertised),
            trust_forwarded: list(self.trust_forwarded, base.trust_forwarded),
            quiet: self.quiet.or(base.quiet),
            verbose: self.verbose.or(base.verbose),
            json: self.json.or(base.json),
            color: self.color.or(base.color),
            log_format: self.log_format.or(base.log_format),
            progress: self.progress.or(base.progress),
        }
    }

    /// The listening address for peers.
    #[must_use]
    pub fn listen_addr(&self) -> SocketAddr {
        self.listen.unwrap_or(SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 7070)))
    }

    /// The operator's address, or `None` for "off".
    ///
    /// # Errors
    /// When it is neither an address nor "off".
    pub fn admin_addr(&self) -> Result<Option<SocketAddr>, String> {
        match self.admin_listen.as_deref().unwrap_or("127.0.0.1:7071") {
            "off" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                format!("admin-listen: '{text}' is not an address: write 127.0.0.1:7071, [::1]:7071 or off")
            }),
        }
    }

    /// The directory for manifests.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        self.data.clone().unwrap_or_else(|| {
            absolute("XDG_STATE_HOME")
                .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
                .unwrap_or_else(std::env::temp_dir)
                .join("shoal/tracker")
        })
    }

    /// The service's part.
    ///
    /// # Errors
    /// Which value is out of range.
    pub fn service(&self) -> Result<ServiceConfig, String> {
        let default = ServiceConfig::default();
        let seconds = |name: &str, value: Option<Duration>| match value.map(|d| d.as_millis().div_ceil(1000)) {
            None => Ok(None),
            Some(n @ 1..=86_400) => Ok(Some(n as u32)),
            Some(_) => Err(format!("{name} must be between 1s and 24h")),
        };
        let max_handout = self.max_handout.unwrap_or(default.registry.max_handout);
        if max_handout > HANDOUT_PEERS {
            return Err(format!("max-handout is {max_handout}, the protocol's limit is {HANDOUT_PEERS}"));
        }
        let registry = RegistryConfig {
            max_swarms: self.max_swarms.unwrap_or(default.registry.max_swarms),
            max_peers_per_swarm: self.max_peers_per_swarm.unwrap_or(default.registry.max_peers_per_swarm),
            max_peers: self.max_peers.unwrap_or(default.registry.max_peers),
            max_handout,
            trust_advertised: self.trust_advertised.clone(),
            interval_s: seconds("announce-interval", self.announce_interval)?,
            peer_ttl_s: seconds("peer-ttl", self.peer_ttl)?,
            ..default.registry
        };
        Ok(ServiceConfig {
            registry,
            trust_forwarded: self.trust_forwarded.clone(),
            rate_limit: self.rate_limit.unwrap_or(default.rate_limit),
            ..ServiceConfig::default()
        })
    }

    /// The manifest store's part, with the ids of `--allow` already read.
    #[must_use]
    pub fn disk(&self, allow: Option<Vec<ContentId>>) -> DiskConfig {
        let default = DiskConfig::default();
        DiskConfig {
            max_bytes: self.max_data.unwrap_or(default.max_bytes),
            ttl: self.manifest_ttl.unwrap_or(default.ttl),
            announced_again: self.announce_interval.map_or(ANNOUNCED_AGAIN, |own| ANNOUNCED_AGAIN.max(own * 3 / 2)),
            allow,
            ..default
        }
    }

    /// The whole as a commented file: what isn't set stands there as a comment with its default.
    #[must_use]
    pub fn to_toml(&self) -> String {
        use clap::{Args as _, CommandFactory as _};
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            _settings: Settings,
        }
        let _ = Settings::group_id();
        let quote = |text: String| toml::Value::String(text).to_string();
        let time = |d: Duration| quote(format!("{}ms", d.as_millis()));
        let list = |l: &[Cidr]| format!("[{}]", l.iter().map(|c| quote(c.to_string())).collect::<Vec<_>>().join(", "));
        let path = |p: &Path| quote(p.display().to_string());
        let mut out = String::new();
        for arg in Only::command().get_arguments() {
            let Some(key) = arg.get_long() else { continue };
            let (disk, registry) = (DiskConfig::default(), RegistryConfig::default());
            // Whether it was set, and what holds; nothing where that depends on others.
            let (is_set, value) = match key {
                "listen" => (self.listen.is_some(), Some(quote(self.listen_addr().to_string()))),
                "data" => (self.data.is_some(), Some(path(&self.data_dir()))),
                "max-data" => number(self.max_data, disk.max_bytes),
                "manifest-ttl" => (self.manifest_ttl.is_some(), Some(time(self.manifest_ttl.unwrap_or(disk.ttl)))),
                "admin-listen" => {
                    let addr = self.admin_listen.as_deref().unwrap_or("127.0.0.1:7071");
                    (self.admin_listen.is_some(), Some(quote(addr.to_owned())))
                }
                "announce-interval" => (true, self.announce_interval.map(time)),
                "peer-ttl" => (true, self.peer_ttl.map(time)),
                "max-handout" => number(self.max_handout, registry.max_handout),
                "max-swarms" => number(self.max_swarms, registry.max_swarms),
                "max-peers-per-swarm" => number(self.max_peers_per_swarm, registry.max_peers_per_swarm),
                "max-peers" => number(self.max_peers, registry.max_peers),
                "rate-limit" => number(self.rate_limit, ServiceConfig::default().rate_limit),
                "allow" => (true, self.allow.as_deref().map(path)),
                "trust-advertised" => (!self.trust_advertised.is_empty(), Some(list(&self.trust_advertised))),
                "trust-forwarded" => (!self.trust_forwarded.is_empty(), Some(list(&self.trust_forwarded))),
                _ => continue,
            };
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            let _ = match value {
                Some(value) if is_set => writeln!(out, "# {help}\n{key} = {value}\n"),
                Some(value) => writeln!(out, "# {help}\n# {key} = {value}\n"),
                None => writeln!(out, "# {help}\n# {key} =\n"),
            };
        }
        let word = |text: String| quote(text.to_lowercase());
        for (key, value) in [
            ("quiet", self.quiet.map(|n| n.to_string())),
            ("verbose", self.verbose.map(|n| n.to_string())),
            ("json", self.json.map(|on| on.to_string())),
            ("color", self.color.map(|when| word(format!("{when:?}")))),
            ("progress", self.progress.map(|mode| word(format!("{mode:?}")))),
            ("log-format", self.log_format.map(|form| word(format!("{form:?}")))),
        ] {
            let _ = value.map(|value| writeln!(out, "{key} = {value}"));
        }
        out
    }
}

/// Whether a number was set, and what holds.
fn number<T: ToString>(set: Option<T>, default: T) -> (bool, Option<String>) {
    (set.is_some(), Some(set.unwrap_or(default).to_string()))
}

/// Reads a file of content ids: one a line, `#` starts a comment.
///
/// # Errors
/// Names the line that is no id.
pub fn parse_ids(text: &str) -> Result<Vec<ContentId>, String> {
    let lines = text.lines().zip(1..).map(|(line, n)| (line.split('#').next().unwrap_or_default().trim(), n));
    lines.filter(|(l, _)| !l.is_empty()).map(|(l, n)| l.parse().map_err(|e| format!("line {n}: {e}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_file_says_the_same_when_read_again() {
        let text = "listen = '127.0.0.1:1234'\nmax-data = '1MiB'\nmanifest-ttl = '2h'\npeer-ttl = '7s'\nrate-limit = '9/s'\n\
                    trust-advertised = ['10.0.0.0/8']\nadmin-listen = 'off'\ndata = '/x'\nquiet = 2\nverbose = 1\n\
                    json = true\nprogress = 'none'\ncolor = 'never'\nlog-format = 'json'\n";
        let first = Settings::from_toml(text).unwrap();
        let printed = first.to_toml();
        let second = Settings::from_toml(&printed).unwrap();
        assert_eq!(printed, second.to_toml());
        assert_eq!(second.service().unwrap().registry.peer_ttl_s, Some(7));
        assert_eq!((second.disk(None).max_bytes, second.admin_addr()), (1 << 20, Ok(None)));
        assert_eq!((second.quiet, second.verbose, second.json), (Some(2), Some(1), Some(true)));
        assert_eq!(second.progress, Some(Progress::None));
        assert_eq!((second.color, second.log_format), (Some(Color::Never), Some(LogFormat::Json)));
        for key in ["listen", "allow", "announce-interval", "trust-forwarded"] {
            assert!(printed.contains(key), "{key}");
        }
        assert!(Settings::from_toml(&Settings::default().to_toml()).is_ok());
    }

    #[test]
    fn unknown_keys_and_bad_values_are_refused() {
        for bad in ["port = 1", "listen = 'x'", "max-data = 'many'", "max-data = -1", "trust-advertised = ['x']"] {
            assert!(Settings::from_toml(bad).is_err(), "{bad}");
        }
        let refused = |text| Settings::from_toml(text).unwrap().service().is_err();
        assert!(refused("max-handout = 101") && refused("peer-ttl = '0'") && refused("announce-interval = '25h'"));
        assert!(!refused("max-handout = 100") && !refused("peer-ttl = '500ms'"));
        assert!(Settings::from_toml("admin-listen = 'x'").unwrap().admin_addr().is_err());
    }

    #[test]
    fn flags_come_before_the_file() {
        let flags = Settings { max_swarms: Some(1), ..Settings::default() };
        let file = Settings::from_toml("max-swarms = 2\nmax-handout = 3").unwrap();
        let both = flags.or(file);
        assert_eq!((both.max_swarms, both.max_handout), (Some(1), Some(3)));
    }

    #[test]
    fn id_files_have_comments() {
        let id = "ab".repeat(32);
        assert_eq!(parse_ids(&format!("# ours\n\n {id} # model\n")).unwrap().len(), 1);
        assert!(parse_ids("x").unwrap_err().starts_with("line 1"));
    }
}
