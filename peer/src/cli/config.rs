//! The configuration file: the layer between the environment and the built-in defaults.
//!
//! Its keys are the long flags, at the top for every command that has them or in a table of the command's name. Each
//! becomes the default of its flag, so a value is read by the same code wherever it stands. Unknown keys are refused.

use crate::failure::{Failure, FailureKind};
use clap::error::ErrorKind;
use clap::{Arg, ArgMatches, Command};
use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Flags that only make sense for one run.
const NOT_IN_FILES: [&str; 10] =
    ["help", "version", "config", "no-config", "output", "id", "manifest", "name", "dry-run", "b3sum"];

/// The command line's definition with the file's values as defaults, or `None` when there is no file.
///
/// # Errors
/// When the file can't be read, has an unknown key, or a value that its flag doesn't take.
pub fn apply(command: &Command, matches: &ArgMatches) -> Result<Option<Command>, Failure> {
    // A file that the command line names is read, whatever the environment says.
    let place = |id, is_set: bool| matches.value_source(id).filter(|_| is_set);
    let names_a_file = place("config", matches.contains_id("config"));
    match place("no_config", matches.get_flag("no_config")).cmp(&names_a_file) {
        Ordering::Equal if names_a_file.is_some() => {
            return Err(Failure::new(FailureKind::Usage, "--no-config cannot be used with --config"));
        }
        Ordering::Greater => return Ok(None),
        _ => {}
    }
    let Some((path, text)) = read(matches.get_one::<PathBuf>("config"))? else { return Ok(None) };
    let sub = matches.subcommand_name().unwrap_or_default();
    overlay(command.clone(), sub, &path, &text).map(Some)
}

/// The file that the user named, else the first of the usual places that exists.
fn read(named: Option<&PathBuf>) -> Result<Option<(PathBuf, String)>, Failure> {
    if let Some(path) = named {
        return match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some((path.clone(), text))),
            Err(error) => Err(Failure::io("the configuration can't be read:", path, &error)),
        };
    }
    let home = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    let places = home.into_iter().chain([PathBuf::from("/etc")]).map(|dir| dir.join("shoal/peer.toml"));
    for path in places {
        match std::fs::read_to_string(&path) {
            Ok(text) => return Ok(Some((path, text))),
            // Not there, or behind something that isn't a directory: the usual case.
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {}
            Err(error) => return Err(Failure::io("the configuration can't be read:", &path, &error)),
        }
    }
    Ok(None)
}

pub(super) fn overlay(mut command: Command, sub: &str, path: &Path, text: &str) -> Result<Command, Failure> {
    let wrong = |what: String| Failure::new(FailureKind::Usage, format!("{}: {what}", path.display()));
    let table: Table = text.parse().map_err(|error: toml::de::Error| wrong(error.message().to_owned()))?;
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for (key, value) in &table {
        if let Value::Table(inner) = value {
            let Some(named) = visible(&command).find(|c| c.get_name() == key) else {
                return Err(wrong(format!("[{key}] is not a command")));
            };
            for (key, value) in inner {
                if flag(named, key).or_else(|| flag(&command, key)).is_none() {
                    return Err(wrong(format!("'{key}' is not a flag that [{}] can set", named.get_name())));
                }
                if named.get_name() == sub {
                    found.push((key.clone(), words(value).ok_or_else(|| wrong(format!("{key}: not a plain value")))?));
                }
            }
        } else {
            if flag(&command, key).is_none() && !visible(&command).any(|c| flag(c, key).is_some()) {
                return Err(wrong(format!("'{key}' is not a flag that a file can set")));
            }
            let values = words(value).ok_or_else(|| wrong(format!("{key}: not a plain value")))?;
            // First, so that the command's own table wins over the top of the file.
            found.insert(0, (key.clone(), values));
        }
    }
    for (key, values) in found {
        let here = command.find_subcommand(sub).and_then(|c| flag(c, &key)).is_some();
        if !here && flag(&command, &key).is_none() {
            continue;
        }
        check(&command, sub, &key, &values).map_err(|error| wrong(format!("{key}: {error}")))?;
        let set = |arg: Arg| {
            if arg.get_long() != Some(key.as_str()) {
                return arg;
            }
            // Clap keeps defaults for as long as the program runs; the file is read once.
            let values: Vec<&'static str> = values.iter().map(|v| &*Box::leak(v.clone().into_boxed_str())).collect();
            arg.default_values(values)
        };
        command = if here { command.mut_subcommand(sub, |c| c.mut_args(set)) } else { command.mut_args(set) };
    }
    Ok(command)
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|c| !c.is_hide_set())
}

fn flag<'a>(command: &'a Command, key: &str) -> Option<&'a Arg> {
    if NOT_IN_FILES.contains(&key) {
        return None;
    }
    command.get_arguments().find(|arg| arg.get_long() == Some(key))
}

/// A value as it would stand on the command line.
fn words(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Integer(number) => Some(vec![number.to_string()]),
        Value::Float(number) => Some(vec![number.to_string()]),
        Value::Boolean(flag) => Some(vec![flag.to_string()]),
        Value::Array(values) => values
            .iter()
            .map(|value| if value.is_array() { None } else { words(value).and_then(|mut words| words.pop()) })
            .collect(),
        Value::Datetime(_) | Value::Table(_) => None,
    }
}

/// Tries a value where the flag would stand, so that a complaint names the file and not a default.
fn check(command: &Command, sub: &str, key: &str, values: &[String]) -> Result<(), String> {
    let takes_value = |c: &Command| flag(c, key).is_some_and(|arg| arg.get_action().takes_values());
    let here = command.find_subcommand(sub).is_some_and(takes_value) || takes_value(command);
    for value in values {
        if !here {
            match value.as_str() {
                "true" | "false" => continue,
                number if number.parse::<u8>().is_ok() => continue,
                _ => return Err(format!("'{value}' is neither true nor false")),
            }
        }
        let line = ["peer".to_owned(), sub.to_owned(), format!("--{key}={value}")];
        if let Err(error) = command.clone().try_get_matches_from(line)
            && matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue | ErrorKind::TooManyValues)
        {
            let text = error.render().to_string();
            return Err(text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::args::{Args, Command as Which, FetchArgs, SeedFor, command};
    use super::*;
    use clap::FromArgMatches as _;
    use std::time::Duration;

    fn fetch(file: &str, line: &[&str]) -> Result<FetchArgs, String> {
        let command = overlay(command(), "fetch", Path::new("f"), file).map_err(|error| error.message)?;
        let line = ["peer", "fetch", "x"].iter().chain(line);
        let matches = command.try_get_matches_from(line).map_err(|error| error.to_string())?;
        match Args::from_arg_matches(&matches).map_err(|error| error.to_string())?.command {
            Which::Fetch(args) => Ok(args),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_beats_the_default() {
        let file = "max-upload = \"1M\"\nno-upload = true\nmax-peers = 7\n[fetch]\nmax-upload = \"2M\"\nseed-for = \"1h\"\n\
                    tracker = [\"http://a\", \"http://b\"]\n[seed]\nstop-when = \"never\"\n";
        let args = fetch(file, &[]).unwrap();
        assert_eq!((args.net.max_upload, args.net.max_peers, args.no_upload), (Some(2 << 20), 7, true));
        assert_eq!((args.seed_for, args.net.tracker.len()), (Some(SeedFor::Time(Duration::from_secs(3600))), 2));
        let args = fetch(file, &["--max-upload", "3M", "-t", "http://c"]).unwrap();
        assert_eq!((args.net.max_upload, args.net.tracker.len()), (Some(3 << 20), 1));
        assert_eq!(fetch("", &[]).unwrap().net.max_peers, 50);
    }

    #[test]
    fn what_no_flag_knows_is_refused_with_the_files_name() {
        for (file, part) in [
            ("max-uplod = 1", "'max-uplod' is not a flag"),
            ("[fetsch]\n", "[fetsch] is not a command"),
            ("[seed]\nseed-for = \"1s\"", "'seed-for' is not a flag that [seed]"),
            ("output = \"x\"", "'output' is not a flag"),
            ("max-upload = \"12X\"", "not a rate"),
            ("no-upload = \"maybe\"", "neither true nor false"),
            ("max-peers = 0", "max-peers"),
            ("max-peers = [[1]]", ""),
            ("x", ""),
            ("[background-serve]\n", "not a command"),
        ] {
            let error = fetch(file, &[]).unwrap_err();
            assert!(error.starts_with("f: ") && error.contains(part), "{file}: {error}");
        }
    }
}
