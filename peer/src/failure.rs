//! How a command can fail: what, who is to blame, what is kept and what to do next.
//!
//! The kinds are the exit codes of the command line and never change meaning; scripts are written against them.

use std::fmt;

/// Why a command did not do what it was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Our own bug.
    Bug,
    /// The command line makes no sense.
    Usage,
    /// The manifest or another input is not acceptable.
    Input,
    /// No tracker, peer or web seed could be reached, after waiting.
    Unreachable,
    /// Data failed verification.
    Integrity,
    /// The local machine: no space, no permission, read-only, source changed.
    Local,
    /// Not finished: timeout, stall, pieces that nobody has. Can be gone on with.
    Incomplete,
    /// Refused: the target differs, another content is under way there, the tracker doesn't allow it.
    Refused,
    /// Ended by SIGINT.
    Interrupted,
    /// Ended by SIGTERM or SIGHUP.
    Terminated,
}

impl FailureKind {
    /// The exit code.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Bug => 1,
            Self::Usage => 2,
            Self::Input => 3,
            Self::Unreachable => 4,
            Self::Integrity => 5,
            Self::Local => 6,
            Self::Incomplete => 7,
            Self::Refused => 8,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }

    /// Whether running the same command again may help by itself.
    #[must_use]
    pub fn retry_helps(self) -> bool {
        matches!(self, Self::Unreachable | Self::Incomplete | Self::Interrupted | Self::Terminated)
    }

    /// The word for it in JSON output.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Bug => "bug",
            Self::Usage => "usage",
            Self::Input => "bad-input",
            Self::Unreachable => "unreachable",
            Self::Integrity => "integrity",
            Self::Local => "local-io",
            Self::Incomplete => "incomplete",
            Self::Refused => "refused",
            Self::Interrupted => "interrupted",
            Self::Terminated => "terminated",
        }
    }
}

/// A failure as a person sees it: one line, details below it, one hint.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Decides the exit code.
    pub kind: FailureKind,
    /// One line: what and where.
    pub message: String,
    /// Further lines, such as what each tracker said.
    pub details: Vec<String>,
    /// What is kept and what to do next.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure with nothing but its line.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), details: Vec::new(), hint: None }
    }

    /// Adds a line of detail.
    #[must_use]
    pub fn detail(mut self, line: impl Into<String>) -> Self {
        self.details.push(line.into());
        self
    }

    /// Says what is kept and what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// An I/O error of this machine, at a path.
    pub fn io(what: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::new(FailureKind::Local, format!("{what} {}: {error}", escape(&path.to_string_lossy())))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<shoal_protocol::ManifestError> for Failure {
    fn from(error: shoal_protocol::ManifestError) -> Self {
        Self::new(FailureKind::Input, error.to_string())
    }
}

/// A number of things in words: `1 file`, `2 files`.
#[must_use]
pub fn counted(count: u64, one: &str) -> String {
    format!("{count} {one}{}", if count == 1 { "" } else { "s" })
}

/// Text from outside made fit for a terminal: control characters are shown, not obeyed.
#[must_use]
pub fn escape(text: &str) -> String {
    if text.chars().any(char::is_control) {
        text.chars()
            .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
            .collect()
    } else {
        text.to_owned()
    }
}
