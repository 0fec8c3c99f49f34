//! `peer show`: what a link or a manifest stands for.

use super::Context;
use super::args::ShowArgs;
use super::output::{Outcome, Output};
use super::sources::{Search, Spec, Tools, find};
use crate::failure::{Failure, escape};
use serde::Serialize;
use shoal_protocol::id::to_hex;
use shoal_protocol::manifest::Shape;
use shoal_protocol::units::format_size;
use shoal_protocol::{Kind, Manifest};
use std::time::Duration;

/// How long a server may take to come; nobody waits at a prompt for longer.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Serialize)]
struct Content<'a> {
    id: String,
    name: Option<&'a str>,
    kind: Shape,
    bytes: u64,
    piece_size: u32,
    pieces: u32,
    files: usize,
    entries: usize,
    trackers: &'a [String],
    web_seeds: &'a [String],
}

#[derive(Serialize)]
struct Row<'a> {
    path: &'a str,
    kind: &'static str,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    blake3: Option<String>,
    executable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
}

/// Runs the command.
pub(super) async fn run(args: &ShowArgs, context: &Context) -> Result<Outcome, Failure> {
    let manifest = manifest_of(&args.what, context).await?;
    let output = &context.output;
    if args.b3sum {
        sums(output, &manifest);
        return Ok(Outcome::plain());
    }
    summary(output, &manifest);
    if args.files {
        rows(output, &manifest);
    }
    Ok(Outcome::new(&content(&manifest)))
}

/// The manifest that was meant, asked of nobody but the server that the user named.
pub(super) async fn manifest_of(what: &str, context: &Context) -> Result<Manifest, Failure> {
    let spec = Spec::parse(what)?;
    let search = Search { wait: Some(PATIENCE), ..Search::default() };
    let tools = Tools { output: &context.output, signals: &context.signals, http: &context.http };
    find(&spec, &search, &tools, async || Ok(None)).await.map(|found| found.manifest)
}

fn content(manifest: &Manifest) -> Content<'_> {
    Content {
        id: manifest.id().to_string(),
        name: manifest.hints().name.as_deref(),
        kind: manifest.shape(),
        bytes: manifest.bytes(),
        piece_size: manifest.piece_size(),
        pieces: manifest.geometry().pieces(),
        files: manifest.files(),
        entries: manifest.entries().len(),
        trackers: &manifest.hints().trackers,
        web_seeds: &manifest.hints().web_seeds,
    }
}

fn summary(output: &Output, manifest: &Manifest) {
    let content = content(manifest);
    output.record("content", &content);
    let line = |key: &str, value: &str| output.data(&format!("{key:<12} {}", escape(value)));
    line("id", &content.id);
    line("name", content.name.unwrap_or("(none)"));
    line("kind", if content.kind == Shape::File { "file" } else { "tree" });
    line("size", &format!("{} ({} bytes)", format_size(content.bytes), content.bytes));
    line("files", &content.files.to_string());
    line("pieces", &format!("{} of {}", content.pieces, format_size(content.piece_size.into())));
    for tracker in content.trackers {
        line("tracker", tracker);
    }
    for url in content.web_seeds {
        line("web seed", url);
    }
}

fn rows(output: &Output, manifest: &Manifest) {
    let name = manifest.hints().name.as_deref().unwrap_or("(the file)");
    for entry in manifest.entries() {
        let path = if entry.path.is_empty() { name } else { &entry.path };
        let (kind, blake3, executable, target) = match &entry.kind {
            Kind::File { root, executable, .. } => ("file", Some(to_hex(root)), *executable, None),
            Kind::EmptyDirectory => ("dir", None, false, None),
            Kind::Link { target } => ("link", None, false, Some(target.as_str())),
        };
        output.record("entry", &Row { path, kind, bytes: entry.size(), blake3, executable, target });
        output.data(&match target {
            Some(target) => format!("{:>14}  {} -> {}", "link", escape(path), escape(target)),
            None if kind == "dir" => format!("{:>14}  {}/", "dir", escape(path)),
            None => format!("{:>14}  {}", entry.size(), escape(path)),
        });
    }
}

#[derive(Serialize)]
struct Sum<'a> {
    blake3: String,
    path: &'a str,
}

/// Paths are relative to the content's root, so a check runs inside it; a single file is checked beside it.
fn sums(output: &Output, manifest: &Manifest) {
    let name = crate::names::plain_name(manifest);
    for entry in manifest.entries() {
        if let Some(root) = entry.root() {
            let path = if entry.path.is_empty() { &name } else { &entry.path };
            output.record("b3sum", &Sum { blake3: to_hex(root), path });
            output.data(&sum_line(&to_hex(root), path));
        }
    }
}

/// As `b3sum` writes it: a backslash at the front says that backslashes and newlines in the name are escaped.
fn sum_line(hash: &str, path: &str) -> String {
    if path.contains(['\\', '\n']) {
        format!("\\{hash}  {}", path.replace('\\', "\\\\").replace('\n', "\\n"))
    } else {
        format!("{hash}  {path}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_b3sum_are_escaped_as_it_does() {
        assert_eq!(sum_line("ab", "a b"), "ab  a b");
        assert_eq!(sum_line("ab", "a\\b"), "\\ab  a\\\\b");
    }
}
