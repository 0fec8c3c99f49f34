//! `peer verify`: checks what is on disk; writes nothing.

use super::args::VerifyArgs;
use super::output::Outcome;
use super::{Context, progress, show, sources};
use crate::failure::{Failure, FailureKind, counted};
use crate::names::{plain_name, shown_name};
use crate::store::{Report, verify};
use serde::Serialize;
use shoal_protocol::units::format_size;
use shoal_protocol::{Hash, Manifest};
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
    let path = args.path.unwrap_or_else(|| PathBuf::from(plain_name(&manifest)));
    // With the CVs damage is found by the piece, without them by the file; content without large files has none.
    let cvs = match sources::Spec::parse(&args.what)? {
        sources::Spec::Url(url) if manifest.geometry().cvs() > 0 => {
            sources::cvs_from(&url, &manifest, &context.http).await
        }
        _ => None,
    };
    let report = check(&manifest, &path, cvs, context).await?;
    let faults = faults(&manifest, &report);
    for (path, start, end, reason) in &faults {
        context.output.record("bad", &Bad { path, start: *start, end: *end, reason });
    }
    if !report.extra.is_empty() {
        let text = format!("{}: {} files that the content does not have", path.display(), report.extra.len());
        context.output.say(&text);
    }
    if report.is_good() {
        context.output.say(&format!("{}: all good, {}", path.display(), format_size(report.good_bytes)));
        Ok(Outcome::new(&Good { id: manifest.id().to_string(), path: &path, bytes: report.good_bytes }))
    } else {
        Err(failure(&path, &faults))
    }
}

/// A path, the first bad byte, the one behind the last, and why.
type Fault = (String, u64, u64, String);

/// Everything that is wrong, each with its byte range; the whole file where nothing finer is known.
fn faults(manifest: &Manifest, report: &Report) -> Vec<Fault> {
    let size = |path: &str| {
        let entries = manifest.entries();
        entries.binary_search_by(|entry| entry.path.as_str().cmp(path)).map_or(0, |at| entries[at].size())
    };
    let whole = |paths: &[String], reason: &str| {
        paths.iter().map(|path| (path.clone(), 0, size(path), reason.to_owned())).collect::<Vec<_>>()
    };
    let mut out = Vec::new();
    for bad in &report.bad {
        let reason = bad.size.map_or_else(|| "wrong bytes".to_owned(), |size| format!("has {size} bytes"));
        if bad.ranges.is_empty() {
            out.push((bad.path.clone(), 0, size(&bad.path), reason));
        } else {
            out.extend(bad.ranges.iter().map(|range| (bad.path.clone(), range.start, range.end, reason.clone())));
        }
    }
    out.extend(whole(&report.missing, "missing, or of another kind"));
    out.extend(whole(&report.wrong_mode, "wrong executable bit"));
    out.extend(whole(&report.wrong_link, "the link points elsewhere"));
    out
}

/// Checks a path, showing how far it is.
pub(super) async fn check(
    manifest: &Arc<Manifest>,
    path: &Path,
    cvs: Option<Vec<Hash>>,
    context: &Context,
) -> Result<Report, Failure> {
    let (manifest, path, cancelled) = (Arc::clone(manifest), path.to_owned(), context.signals.cancelled());
    let name = shown_name(&manifest);
    let result = progress::blocking(context, &name, "verifying", move |progress| {
        verify(&manifest, &path, cvs.as_deref(), progress, &cancelled)
    });
    let result = result.await;
    match context.signals.asked() {
        Some(stop) => Err(stop.failure()),
        None => result,
    }
}

fn failure(path: &Path, faults: &[Fault]) -> Failure {
    let text = format!("{} differs from its manifest in {}", path.display(), counted(faults.len() as u64, "place"));
    let mut failure = Failure::new(FailureKind::Integrity, text);
    for (file, start, end, reason) in faults.iter().take(LISTED) {
        let name = if file.is_empty() { path.display().to_string() } else { file.clone() };
        failure = failure.detail(format!("{name}: bytes {start}-{end}: {reason}"));
    }
    if faults.len() > LISTED {
        failure = failure.detail(format!("and {} more (--json lists all)", faults.len() - LISTED));
    }
    failure.hint("peer fetch --repair keeps what is good and fetches the rest")
}
