//! `peer verify`: checks what is on disk; writes nothing.

use super::args::VerifyArgs;
use super::output::Outcome;
use super::{Context, progress, show, sources};
use crate::failure::{Failure, FailureKind};
use crate::store::verify::{BadRange, Report, verify};
use serde::Serialize;
use shoal_protocol::Manifest;
use shoal_protocol::units::format_size;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bad ranges that are listed for people; records list them all.
const LISTED: usize = 50;

#[derive(Serialize)]
struct Bad<'a> {
    path: &'a str,
    start: u64,
    end: u64,
    reason: &'a str,
}

#[derive(Serialize)]
struct Good<'a> {
    id: String,
    path: &'a Path,
    bytes: u64,
}

/// Runs the command.
pub(super) async fn run(args: VerifyArgs, context: &Context) -> Result<Outcome, Failure> {
    let manifest = Arc::new(show::manifest_of(&args.what, context).await?);
    let path = args.path.unwrap_or_else(|| PathBuf::from(sources::plain_name(&manifest)));
    let report = check(&manifest, &path, context).await?;
    for bad in &report.bad {
        let fields = Bad { path: &bad.path, start: bad.range.start, end: bad.range.end, reason: &bad.reason };
        context.output.record("bad", &fields);
    }
    if report.bad.is_empty() {
        context.output.say(&format!("{}: all good, {}", path.display(), format_size(report.bytes)));
        Ok(Outcome::new(&Good { id: manifest.id().to_string(), path: &path, bytes: report.bytes }))
    } else {
        Err(failure(&path, &report.bad))
    }
}

/// Checks a path, showing how far it is.
pub(super) async fn check(manifest: &Arc<Manifest>, path: &Path, context: &Context) -> Result<Report, Failure> {
    let (manifest, path, cancelled) = (Arc::clone(manifest), path.to_owned(), context.signals.cancelled());
    let name = sources::shown_name(&manifest);
    let result = progress::blocking(&context.output, &name, "verifying", move |progress| {
        verify(&manifest, &path, progress, &cancelled)
    });
    let result = result.await;
    match context.signals.asked() {
        Some(stop) => Err(stop.failure()),
        None => result,
    }
}

fn failure(path: &Path, bad: &[BadRange]) -> Failure {
    let bytes: u64 = bad.iter().map(|bad| bad.range.end - bad.range.start).sum();
    let text = format!("{}: {} bad ranges, {} in all", path.display(), bad.len(), format_size(bytes));
    let mut failure = Failure::new(FailureKind::Integrity, text);
    for bad in bad.iter().take(LISTED) {
        let name = if bad.path.is_empty() { path.display().to_string() } else { bad.path.clone() };
        failure = failure.detail(format!("{name}: bytes {}-{}: {}", bad.range.start, bad.range.end, bad.reason));
    }
    if bad.len() > LISTED {
        failure = failure.detail(format!("and {} more (--json lists all)", bad.len() - LISTED));
    }
    failure.hint("peer fetch --repair keeps what is good and fetches the rest")
}
