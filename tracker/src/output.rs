//! What the command prints: data on stdout, talk on stderr. The only place that prints.
//!
//! With `--json` stdout carries JSON Lines and nothing else, each with `"v":1`, `"type"` and `"t"`, the last one
//! `"result"`. A closed stdout is no error: whoever read it has what he wanted.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the one module for output")]

use serde_json::{Map, Value, json};
use shoal_protocol::units::rfc3339;
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
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            all.insert("v".into(), json!(1));
            all.insert("type".into(), json!(kind));
            all.insert("t".into(), json!(rfc3339(now)));
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
