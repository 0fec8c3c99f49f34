//! What the command prints: data on stdout, talk on stderr. The only place that prints.
//!
//! With `--json` stdout carries JSON Lines and nothing else, each with `"v":1`, `"type"` and `"t"`, the last one
//! `"result"`. A closed stdout is no error: whoever read it has what he wanted.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the one module for output")]

use serde_json::{Map, Value, json};
use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

/// Where and how results are written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// JSON Lines instead of text.
    pub(crate) json: bool,
}

impl Output {
    /// A line of data for people; nothing with `--json`.
    pub(crate) fn line(self, text: &str) {
        if !self.json {
            let _ = writeln!(std::io::stdout(), "{text}");
        }
    }

    /// A record for programs; nothing without `--json`.
    pub(crate) fn record(self, kind: &str, fields: &Value) {
        if self.json {
            let mut all = Map::new();
            all.insert("v".into(), json!(1));
            all.insert("type".into(), json!(kind));
            all.insert("t".into(), json!(timestamp(SystemTime::now())));
            all.extend(fields.as_object().cloned().unwrap_or_default());
            let _ = writeln!(std::io::stdout(), "{}", Value::Object(all));
        }
    }

    /// Talk that was asked for.
    pub(crate) fn talk(self, text: &str) {
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    /// An error: what, where, what to do.
    pub(crate) fn error(self, text: &str, hint: Option<&str>) {
        let _ = writeln!(std::io::stderr(), "error: {text}");
        if let Some(hint) = hint {
            let _ = writeln!(std::io::stderr(), "hint: {hint}");
        }
    }
}

/// UTC as in RFC 3339, to the millisecond.
fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Days since 0000-03-01, so that the leap day is the last of its year.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (h, m, s, ms) = (second / 3600, second / 60 % 60, second % 60, since.subsec_millis());
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |s| timestamp(UNIX_EPOCH + Duration::from_secs(s));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_795_341_606), "2026-11-22T10:00:06.000Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.000Z");
    }
}
