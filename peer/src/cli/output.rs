//! The only place that prints: data on stdout, talk on stderr.
//!
//! Lines for people and records for programs never mix on stdout. A closed stdout is no error: it is remembered, and
//! commands that live from it stop quietly.

use super::args::{ColorWhen, Global, ProgressMode};
use crate::failure::{Failure, FailureKind, escape};
use indicatif::ProgressBar;
use serde::Serialize;
use shoal_protocol::units::rfc3339;
use std::collections::HashSet;
use std::io::{self, IsTerminal as _, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// Where a command's words go. Clones are the same output.
#[derive(Debug, Clone)]
pub struct Output {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    json: bool,
    quiet: u8,
    colour: bool,
    progress: ProgressMode,
    /// Drawn at the bottom of the terminal; other lines go above it.
    bar: Mutex<Option<ProgressBar>>,
    said: Mutex<HashSet<String>>,
    closed: watch::Sender<bool>,
}

/// How a command ended well: the fields of its result record.
#[derive(Debug, Clone)]
pub struct Outcome {
    fields: String,
}

impl Outcome {
    /// An end with these fields.
    pub fn new(fields: &impl Serialize) -> Self {
        Self { fields: body(fields) }
    }

    /// An end with nothing to tell.
    #[must_use]
    pub fn plain() -> Self {
        Self { fields: String::new() }
    }
}

/// Head of every result record.
#[derive(Serialize)]
struct Verdict<'a> {
    ok: bool,
    exit: u8,
    kind: &'a str,
    retry: bool,
}

#[derive(Serialize)]
struct FailureFields<'a> {
    ok: bool,
    exit: u8,
    kind: &'a str,
    retry: bool,
    message: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    details: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

#[derive(Serialize)]
struct Text<'a> {
    message: &'a str,
}

impl Output {
    /// As the flags say.
    #[must_use]
    pub fn new(global: &Global) -> Self {
        let terminal = io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let progress = match global.progress {
            _ if global.quiet > 0 => ProgressMode::None,
            ProgressMode::Auto if global.json => ProgressMode::Json,
            ProgressMode::Auto | ProgressMode::Bar if terminal => ProgressMode::Bar,
            ProgressMode::Auto | ProgressMode::Bar => ProgressMode::Plain,
            mode => mode,
        };
        Self {
            inner: Arc::new(Inner {
                json: global.json,
                quiet: global.quiet,
                colour: colour(global.color, terminal),
                progress,
                bar: Mutex::new(None),
                said: Mutex::new(HashSet::new()),
                closed: watch::Sender::new(false),
            }),
        }
    }

    /// Whether stdout holds records.
    #[must_use]
    pub fn json(&self) -> bool {
        self.inner.json
    }

    /// Whether stderr is coloured.
    #[must_use]
    pub fn colour(&self) -> bool {
        self.inner.colour
    }

    /// How progress is shown; never `Auto`.
    #[must_use]
    pub fn progress(&self) -> ProgressMode {
        self.inner.progress
    }

    /// Returns once stdout was found closed.
    pub async fn closed(&self) {
        let mut closed = self.inner.closed.subscribe();
        if closed.wait_for(|closed| *closed).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// A line of data for people and scripts; nothing with `--json`, where the same stands in a record. The caller
    /// escapes what comes from outside, as only it knows which spelling its readers expect.
    pub fn data(&self, line: &str) {
        if !self.inner.json {
            self.stdout(format!("{line}\n").as_bytes());
        }
    }

    /// A path as data: byte for byte, as scripts hand it on to other programs.
    pub fn data_path(&self, path: &Path) {
        if !self.inner.json {
            let mut line = path.as_os_str().as_encoded_bytes().to_vec();
            line.push(b'\n');
            self.stdout(&line);
        }
    }

    /// Data that isn't lines, such as a whole manifest.
    pub fn raw(&self, text: &str) {
        self.stdout(text.as_bytes());
    }

    /// A record, with `--json` only.
    pub fn record(&self, kind: &str, fields: &impl Serialize) {
        if self.inner.json {
            self.stdout(record(kind, &body(fields)).as_bytes());
        }
    }

    /// A progress record: on stdout among the other records, else on stderr, as `--progress json` asks.
    pub fn progress_record(&self, fields: &impl Serialize) {
        let line = record("progress", &body(fields));
        if self.inner.json { self.stdout(line.as_bytes()) } else { self.stderr(line.trim_end()) }
    }

    /// The last record of who leaves at once.
    pub fn last_record(&self, failure: &Failure) {
        self.record("result", &failure_fields(failure));
    }

    /// Talk.
    pub fn say(&self, text: &str) {
        if self.inner.quiet < 2 {
            self.stderr(&escape(text));
        }
    }

    /// A line that was asked for by a signal: also when quiet.
    pub fn insist(&self, text: &str) {
        self.stderr(&escape(text));
    }

    /// Something that goes wrong without being an error.
    pub fn warn(&self, text: &str) {
        if self.inner.quiet < 2 {
            self.stderr(&format!("{} {}", self.paint("33", "warning:"), escape(text)));
        }
        self.record("warning", &Text { message: text });
    }

    /// The same, but only once for a key.
    pub fn warn_once(&self, key: &str, text: &str) {
        if lock(&self.inner.said).insert(key.to_owned()) {
            self.warn(text);
        }
    }

    /// Talk that is said once for a key.
    pub fn say_once(&self, key: &str, text: &str) {
        if lock(&self.inner.said).insert(key.to_owned()) {
            self.say(text);
        }
    }

    /// The end of a command: the last record, or why it failed.
    pub fn finish(&self, result: &Result<Outcome, Failure>) {
        self.show_bar(None);
        match result {
            Ok(outcome) => {
                let head = body(&Verdict { ok: true, exit: 0, kind: "done", retry: false });
                let fields = if outcome.fields.is_empty() { head } else { format!("{head},{}", outcome.fields) };
                if self.inner.json {
                    self.stdout(record("result", &fields).as_bytes());
                }
            }
            // Who no longer reads what it asked for wants no word about that.
            Err(failure) if failure.kind == FailureKind::Terminated && *self.inner.closed.borrow() => {}
            Err(failure) => {
                self.stderr(&format!("{} {}", self.paint("31", "error:"), escape(&failure.message)));
                for line in &failure.details {
                    self.stderr(&format!("  {}", escape(line)));
                }
                if let Some(hint) = &failure.hint {
                    self.stderr(&format!("{} {}", self.paint("36", "hint:"), escape(hint)));
                }
                self.record("result", &failure_fields(failure));
            }
        }
    }

    /// Puts a bar at the bottom of the terminal, or takes it away.
    pub fn show_bar(&self, bar: Option<ProgressBar>) {
        let old = std::mem::replace(&mut *lock(&self.inner.bar), bar);
        if let Some(old) = old {
            old.finish_and_clear();
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.inner.colour { format!("\x1b[1;{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Writes text that is already fit for a terminal. A closed stderr is nobody's business.
    fn stderr(&self, line: &str) {
        let write = || {
            let _ = writeln!(io::stderr().lock(), "{line}");
        };
        match &*lock(&self.inner.bar) {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn stdout(&self, text: &[u8]) {
        if *self.inner.closed.borrow() {
            return;
        }
        let write = || {
            let mut out = io::stdout().lock();
            out.write_all(text).and_then(|()| out.flush())
        };
        let result = match &*lock(&self.inner.bar) {
            Some(bar) => bar.suspend(write),
            None => write(),
        };
        if let Err(error) = result {
            self.inner.closed.send_replace(true);
            if error.kind() != io::ErrorKind::BrokenPipe {
                self.stderr(&format!("error: stdout can't be written: {error}"));
            }
        }
    }
}

/// Reports a failure before there are flags to look at, such as a wrong command line.
pub fn early_failure(failure: &Failure, json: bool) {
    let mut stderr = io::stderr().lock();
    let _ = writeln!(stderr, "error: {}", escape(&failure.message));
    for line in &failure.details {
        let _ = writeln!(stderr, "  {}", escape(line));
    }
    if json {
        let _ = io::stdout().write_all(record("result", &body(&failure_fields(failure))).as_bytes());
    }
}

/// Prints what the parser of the command line has to say: help on stdout, complaints on stderr.
pub fn parser_message(error: &clap::Error, json: bool) {
    let _ = error.print();
    if json && error.use_stderr() {
        let text = error.render().to_string();
        let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let failure = Failure::new(FailureKind::Usage, first);
        let _ = io::stdout().write_all(record("result", &body(&failure_fields(&failure))).as_bytes());
    }
}

/// One line for a panic, which is our own bug.
pub fn internal_error(what: &str) {
    let _ = writeln!(io::stderr().lock(), "internal error (please report): {}", escape(what));
}

/// The last record after a panic; its line for people has been printed.
pub fn bug_record(json: bool) {
    if json {
        let failure = Failure::new(FailureKind::Bug, "internal error (please report)");
        let _ = io::stdout().write_all(record("result", &body(&failure_fields(&failure))).as_bytes());
    }
}

/// Asks for stderr when a log line is due; logging goes through here so that all printing does.
#[must_use]
pub fn log_writer() -> Box<dyn Write> {
    Box::new(io::stderr())
}

fn failure_fields(failure: &Failure) -> FailureFields<'_> {
    FailureFields {
        ok: false,
        exit: failure.kind.exit_code(),
        kind: failure.kind.word(),
        retry: failure.kind.retry_helps(),
        message: &failure.message,
        details: &failure.details,
        hint: failure.hint.as_deref(),
    }
}

/// A path in a record. JSON has no other text than Unicode, and a path that isn't must not cost the whole record.
///
/// # Errors
/// The serializer's own.
pub fn lossy<P: AsRef<Path>, S: serde::Serializer>(path: &P, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.as_ref().to_string_lossy())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The fields of an object without its braces, in the order of their definition.
fn body(fields: &impl Serialize) -> String {
    let text = serde_json::to_string(fields).unwrap_or_default();
    text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or_default().to_owned()
}

/// Now, as the wall clock says.
pub fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn record(kind: &str, body: &str) -> String {
    let comma = if body.is_empty() { "" } else { "," };
    format!("{{\"v\":1,\"type\":\"{kind}\",\"t\":\"{}\"{comma}{body}}}\n", rfc3339(since_epoch()))
}

fn colour(when: ColorWhen, terminal: bool) -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
    match when {
        ColorWhen::Always => true,
        ColorWhen::Never => false,
        ColorWhen::Auto if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) => false,
        ColorWhen::Auto => terminal || set("CLICOLOR_FORCE"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_keep_their_order_and_are_json() {
        #[derive(Serialize)]
        struct Fields {
            zeta: u8,
            alpha: &'static str,
        }
        let line = record("ready", &body(&Fields { zeta: 1, alpha: "a\u{1b}" }));
        assert!(line.starts_with("{\"v\":1,\"type\":\"ready\",\"t\":\""), "{line}");
        assert!(line.ends_with(",\"zeta\":1,\"alpha\":\"a\\u001b\"}\n"), "{line}");
        let value: serde_json::Value = serde_json::from_str(&record("x", "")).unwrap();
        assert_eq!(value["v"], 1);
    }

    #[test]
    fn failures_name_their_kind() {
        let failure = Failure::new(FailureKind::Incomplete, "m").hint("h");
        let text = body(&failure_fields(&failure));
        assert_eq!(text, r#""ok":false,"exit":7,"kind":"incomplete","retry":true,"message":"m","hint":"h""#);
    }
}
