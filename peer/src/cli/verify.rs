//! `peer verify`: checks what is on disk; writes nothing.

use super::args::VerifyArgs;
use super::output::Outcome;
use super::{Context, progress, show, sources};
use crate::failure::{Failure, FailureKind};
use crate::store::{Report, verify};
use serde::Serialize;
use shoal_protocol::Manifest;
use shoal_protocol::units::format_size;
use std::ops::Range;
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
    #[serde(serialize_with = "super::output::lossy")]
    path: &'a Path,
    bytes: u64,
}

/// Runs the command.
pub(super) async fn run(args: VerifyArgs, context: &Context) -> Result<Outcome, Failure> {
    let manifest = Arc::new(show::manifest_of(&args.what, context).await?);
    let path = args.path.unwrap_or_else(|| PathBuf::from(sources::plain_name(&manifest)));
    let report = check(&manifest, &path, context).await?;
    let found = problems(&report);
    for bad in &found {
        let fields = Bad { path: &bad.path, start: bad.range.start, end: bad.range.end, reason: bad.reason };
        context.output.record("bad", &fields);
    }
    if found.is_empty() {
        context.output.say(&format!("{}: all good, {}", path.display(), format_size(report.good_bytes)));
        Ok(Outcome::new(&Good { id: manifest.id().to_string(), path: &path, bytes: report.good_bytes }))
    } else {
        Err(failure(&path, &found))
    }
}

/// Checks a path, showing how far it is.
pub(super) async fn check(manifest: &Arc<Manifest>, path: &Path, context: &Context) -> Result<Report, Failure> {
    let (manifest, path, cancelled) = (Arc::clone(manifest), path.to_owned(), context.signals.cancelled());
    let name = sources::shown_name(&manifest);
    let result = progress::blocking(&context.output, &name, "verifying", move |progress| {
        verify(&manifest, &path, None, progress, &cancelled)
    });
    let result = result.await;
    match context.signals.asked() {
        Some(stop) => Err(stop.failure()),
        None => result,
    }
}

/// One thing that is wrong, in the form that is shown.
struct BadRange {
    path: String,
    range: Range<u64>,
    reason: &'static str,
}

/// Everything that is wrong, by file and byte range; the range is empty where no bytes are concerned.
fn problems(report: &Report) -> Vec<BadRange> {
    let bytes = report.bad.iter().flat_map(|file| {
        let reason = if file.size.is_some() { "wrong size" } else { "wrong bytes" };
        file.ranges.iter().map(move |range| BadRange { path: file.path.clone(), range: range.clone(), reason })
    });
    let whole = |paths: &[String], reason: &'static str| {
        paths.iter().map(|path| BadRange { path: path.clone(), range: 0..0, reason }).collect::<Vec<_>>()
    };
    let mut out: Vec<BadRange> = bytes.collect();
    out.extend(whole(&report.missing, "missing, or of another kind"));
    out.extend(whole(&report.wrong_mode, "wrong executable bit"));
    out.extend(whole(&report.wrong_link, "the link points elsewhere"));
    out
}

fn failure(path: &Path, bad: &[BadRange]) -> Failure {
    let bytes: u64 = bad.iter().map(|bad| bad.range.end - bad.range.start).sum();
    let text = format!("{}: {} bad ranges, {} in all", path.display(), bad.len(), format_size(bytes));
    let mut failure = Failure::new(FailureKind::Integrity, text);
    for bad in bad.iter().take(LISTED) {
        let name = if bad.path.is_empty() { path.display().to_string() } else { bad.path.clone() };
        failure = failure.detail(if bad.range.is_empty() {
            format!("{name}: {}", bad.reason)
        } else {
            format!("{name}: bytes {}-{}: {}", bad.range.start, bad.range.end, bad.reason)
        });
    }
    if bad.len() > LISTED {
        failure = failure.detail(format!("and {} more (--json lists all)", bad.len() - LISTED));
    }
    failure.hint("peer fetch --repair keeps what is good and fetches the rest")
}
