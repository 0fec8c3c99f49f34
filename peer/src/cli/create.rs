//! `peer create`: the manifest only.

use super::args::{CreateArgs, ScanArgs};
use super::output::{Outcome, Output};
use super::{Context, progress};
use crate::failure::{Failure, FailureKind, counted};
use crate::store::{ScanOptions, ScanProgress, Scanned, default_state_dir, scan};
use serde::Serialize;
use shoal_protocol::limits::HINT_URLS;
use shoal_protocol::link::Url;
use shoal_protocol::path::check_component;
use shoal_protocol::units::format_size;
use shoal_protocol::{Hints, Manifest};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Things left out that are named; more are only counted.
const SKIPPED: usize = 10;

#[derive(Serialize)]
struct Result_<'a> {
    id: String,
    #[serde(serialize_with = "super::output::lossy")]
    manifest: &'a Path,
    bytes: u64,
    files: usize,
    pieces: u32,
    piece_size: u32,
}

/// Runs the command.
pub(super) async fn run(args: CreateArgs, context: &Context) -> Result<Outcome, Failure> {
    let output = &context.output;
    let to_stdout = args.output == Path::new("-");
    if to_stdout && output.json() {
        return Err(Failure::new(FailureKind::Usage, "with --json, -o FILE has to say where the manifest goes"));
    }
    let scanned = scan_path(&args.path, &args.scan, context).await?;
    let manifest = with_hints(scanned.manifest, args.name, &scanned.root, &args.tracker)?;
    if to_stdout {
        output.raw(&manifest.to_json());
    } else {
        write_manifest(&manifest, &args.output)?;
        output.data(&manifest.id().to_string());
    }
    say_what(output, &manifest, &args.path);
    Ok(Outcome::new(&Result_ {
        id: manifest.id().to_string(),
        manifest: &args.output,
        bytes: manifest.bytes(),
        files: manifest.files(),
        pieces: manifest.geometry().pieces(),
        piece_size: manifest.piece_size(),
    }))
}

/// Hashes a path, showing how far it is.
pub(super) async fn scan_path(path: &Path, args: &ScanArgs, context: &Context) -> Result<Scanned, Failure> {
    let options = ScanOptions {
        piece_size: args.piece_size.0,
        follow_links: args.follow_links,
        skip_special: args.skip_special,
        only: None,
        cache: Some(default_state_dir()),
    };
    scan_with(path, options, context).await
}

/// Hashes a path with these options.
pub(super) async fn scan_with(path: &Path, options: ScanOptions, context: &Context) -> Result<Scanned, Failure> {
    let name = path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
    let (path, cancelled): (PathBuf, _) = (path.to_owned(), context.signals.cancelled());
    let result = progress::blocking(context, &name, "hashing", move |progress| {
        scan(&path, &options, &|ScanProgress { done, total, .. }| progress(done, total), &cancelled)
    });
    let result = result.await;
    if let Ok(scanned) = &result {
        for skipped in scanned.skipped.iter().take(SKIPPED) {
            context.output.warn(&format!("left out: {}: {}", skipped.path, skipped.reason));
        }
        if scanned.skipped.len() > SKIPPED {
            context.output.warn(&format!("left out: {} more", scanned.skipped.len() - SKIPPED));
        }
    }
    match (result, context.signals.asked()) {
        (Err(_), Some(stop)) => Err(stop.failure()),
        (result, _) => result,
    }
}

/// The manifest with the user's name and trackers beside the content.
///
/// The name is the last component of the resolved path unless the user gives one; what no name may be is left out.
pub(super) fn with_hints(
    manifest: Manifest,
    name: Option<String>,
    root: &Path,
    trackers: &[Url],
) -> Result<Manifest, Failure> {
    let last = root.file_name().and_then(|name| name.to_str()).filter(|name| check_component(name).is_ok());
    let name = name.or_else(|| last.map(str::to_owned));
    let trackers = trackers.iter().take(HINT_URLS).map(Url::to_string).collect();
    Ok(manifest.with_hints(Hints { name, trackers, web_seeds: Vec::new() })?)
}

/// Writes the JSON form: whole or not at all.
pub(super) fn write_manifest(manifest: &Manifest, path: &Path) -> Result<(), Failure> {
    let failed = |error: &std::io::Error| Failure::io("the manifest can't be written to", path, error);
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // A pipe or a terminal can't be replaced by a rename.
    if std::fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
        return std::fs::write(path, manifest.to_json()).map_err(|error| failed(&error));
    }
    let mut file = tempfile::Builder::new();
    #[cfg(unix)]
    let file = {
        use std::os::unix::fs::PermissionsExt as _;
        // Like a file that the shell makes: what the user's mask leaves of it.
        file.permissions(std::fs::Permissions::from_mode(0o666))
    };
    let mut file = file.prefix(".manifest").tempfile_in(dir).map_err(|error| failed(&error))?;
    file.write_all(manifest.to_json().as_bytes()).map_err(|error| failed(&error))?;
    file.as_file().sync_all().map_err(|error| failed(&error))?;
    file.persist(path).map_err(|error| failed(&error.error))?;
    Ok(())
}

fn say_what(output: &Output, manifest: &Manifest, path: &Path) {
    output.say(&format!(
        "{}: {} in {}, {} of {}, id {}",
        path.display(),
        format_size(manifest.bytes()),
        counted(manifest.files() as u64, "file"),
        counted(manifest.geometry().pieces().into(), "piece"),
        format_size(manifest.piece_size().into()),
        manifest.id()
    ));
}
