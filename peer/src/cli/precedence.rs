//! Flags that exclude each other and come from different places: the command line wins over the environment, and that over
//! the file, as for any one flag. Two of one place are an error.

use super::args::{Args, Command};
use clap::ArgMatches;
use clap::error::ErrorKind;
use clap::parser::ValueSource;

/// Takes back what another flag of a better place excludes.
///
/// # Errors
/// When two of one place exclude each other.
pub(super) fn settle(args: &mut Args, matches: &ArgMatches) -> Result<(), clap::Error> {
    let Some((_, own)) = matches.subcommand() else { return Ok(()) };
    match &mut args.command {
        Command::Fetch(fetch) => {
            match weaker(own, ("overwrite", fetch.overwrite), ("repair", fetch.repair))? {
                Some("overwrite") => fetch.overwrite = false,
                Some(_) => fetch.repair = false,
                None => {}
            }
            match weaker(own, ("output", fetch.output.is_some()), ("into", fetch.into.is_some()))? {
                Some("output") => fetch.output = None,
                Some(_) => fetch.into = None,
                None => {}
            }
        }
        Command::Show(show) => match weaker(own, ("b3sum", show.b3sum), ("files", show.files))? {
            Some("b3sum") => show.b3sum = false,
            Some(_) => show.files = false,
            None => {}
        },
        _ => {}
    }
    Ok(())
}

/// Which of two flags that may be set has to give way.
fn weaker(
    matches: &ArgMatches,
    one: (&'static str, bool),
    other: (&'static str, bool),
) -> Result<Option<&'static str>, clap::Error> {
    if !one.1 || !other.1 {
        return Ok(None);
    }
    // Values of the file are defaults of the parser; neither flag has another.
    let rank = |id| match matches.value_source(id) {
        Some(ValueSource::CommandLine) => 2,
        Some(ValueSource::EnvVariable) => 1,
        _ => 0,
    };
    match (rank(one.0), rank(other.0)) {
        (a, b) if a < b => Ok(Some(one.0)),
        (a, b) if a > b => Ok(Some(other.0)),
        (place, _) => {
            let place = ["the configuration file has both: ", "the environment has both: ", ""][place];
            let text = format!("{place}the argument '--{}' cannot be used with '--{}'", one.0, other.0);
            Err(super::args::command().error(ErrorKind::ArgumentConflict, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::config::overlay;
    use clap::FromArgMatches as _;
    use std::path::Path;

    /// What holds in the end of `--overwrite`, `--repair`, `--output` and `--into`.
    fn settled(file: &str, words: &[&str]) -> Result<(bool, bool, bool, bool), String> {
        let command = overlay(super::super::args::command(), "fetch", Path::new("peer.toml"), file).unwrap();
        let matches = command.try_get_matches_from([&["peer", "fetch", "x"], words].concat()).unwrap();
        let mut args = Args::from_arg_matches(&matches).unwrap();
        settle(&mut args, &matches).map_err(|error| error.to_string())?;
        let Command::Fetch(fetch) = args.command else { return Err("no fetch".into()) };
        Ok((fetch.overwrite, fetch.repair, fetch.output.is_some(), fetch.into.is_some()))
    }

    #[test]
    fn what_is_said_on_the_command_line_wins_over_what_it_excludes_in_the_file() {
        let none = (false, false, false, false);
        assert_eq!(settled("overwrite = true", &["--repair"]), Ok((false, true, false, false)));
        assert_eq!(settled("repair = true", &["--overwrite"]), Ok((true, false, false, false)));
        assert_eq!(settled("overwrite = false", &["--repair"]), Ok((false, true, false, false)));
        assert_eq!(settled("into = '/d'", &["-o", "x"]), Ok((false, false, true, false)));
        assert_eq!(settled("into = '/d'", &[]), Ok((false, false, false, true)));
        assert_eq!(settled("", &[]), Ok(none));
        for (file, words, place) in [
            ("overwrite = true\nrepair = true", &[][..], "the configuration file has both"),
            ("", &["--overwrite", "--repair"], "cannot be used with"),
            ("", &["-o", "a", "--into", "b"], "cannot be used with"),
        ] {
            assert!(settled(file, words).unwrap_err().contains(place), "{file} {words:?}");
        }
    }
}
