//! `peer seed`: hash, publish, announce, serve until stopped.

use super::args::{SeedArgs, StopWhen};
use super::output::{Outcome, Output};
use super::progress::Progress;
use super::publish::{Parcel, Published, Publishing, is_refusal, link, publish};
use super::troubles::Troubles;
use super::{Context, create, fetch};
use crate::engine::{Engine, Handle, Notice, Seeding, Stats};
use crate::failure::{Failure, FailureKind, counted};
use crate::names::given_name;
use crate::net::interfaces;
use crate::store::{Scanned, SeedSource};
use serde::Serialize;
use shoal_protocol::announce::StopReason;
use shoal_protocol::link::Url;
use shoal_protocol::units::{format_duration, format_size};
use shoal_protocol::{ContentId, Manifest};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const TICK: Duration = Duration::from_millis(250);
/// Own addresses that are named: a host of containers has hundreds, and nobody reads them.
const OWN: usize = 6;

#[derive(Serialize)]
struct Ready<'a> {
    link: &'a str,
    id: String,
    name: Option<&'a str>,
    #[serde(serialize_with = "super::output::lossy")]
    path: &'a Path,
    bytes: u64,
    also: &'a [String],
}

#[derive(Serialize)]
struct SeedResult {
    elapsed_s: f64,
    sent: u64,
    contents: Vec<ContentResult>,
}

#[derive(Serialize)]
struct ContentResult {
    id: String,
    #[serde(serialize_with = "super::output::lossy")]
    path: PathBuf,
    sent: u64,
    finished_peers: u32,
    copies: f64,
}

/// One content that is served.
struct Content {
    path: PathBuf,
    manifest: Arc<Manifest>,
    handle: Handle,
    notices: mpsc::Receiver<Notice>,
    troubles: Troubles,
    /// PATHs whose link is still to be printed.
    pending: usize,
    /// Set once the content can be fetched: the tracker that has the manifest, if it isn't this process.
    ready: Option<Option<Url>>,
    /// Trackers that don't want its manifest.
    refused: BTreeSet<String>,
    _publishing: Vec<Publishing>,
}

/// Runs the command.
pub(super) async fn run(args: SeedArgs, context: Context) -> Result<Outcome, Failure> {
    if args.paths.len() > 1 && (args.manifest.is_some() || args.name.is_some()) {
        return Err(Failure::new(FailureKind::Usage, "--manifest and --name go with one PATH only"));
    }
    let start = Instant::now();
    let config = fetch::engine_config(&args.net, true, false, args.net.tracker.is_empty());
    let engine = Engine::start(config).await?;
    let names = interfaces::reachable(&args.net.listen());
    let port = engine.local_addr().port();
    let own: Vec<Url> = names.iter().take(OWN).filter_map(|ip| own_url(SocketAddr::new(*ip, port))).collect();
    let mut seeding = Seeder { args: &args, context: &context, engine: &engine, own, contents: Vec::new(), start };
    let result = seeding.work().await;
    let contents = std::mem::take(&mut seeding.contents);
    let summary = summary(&contents, start);
    let reason = if result.is_ok() { StopReason::Done } else { StopReason::Failed };
    let mut leaving = tokio::task::JoinSet::new();
    for content in contents {
        leaving.spawn(content.handle.stop(reason));
    }
    leaving.join_all().await;
    engine.shutdown().await;
    result.map(|()| {
        context.output.say(&format!(
            "ended: sent {} in {}",
            format_size(summary.sent),
            format_duration(start.elapsed())
        ));
        Outcome::new(&summary)
    })
}

fn own_url(addr: SocketAddr) -> Option<Url> {
    Url::parse(&format!("http://{addr}/")).ok()
}

fn summary(contents: &[Content], start: Instant) -> SeedResult {
    let rows: Vec<ContentResult> = contents
        .iter()
        .map(|content| {
            let stats = content.handle.stats.borrow();
            ContentResult {
                id: content.manifest.id().to_string(),
                path: content.path.clone(),
                sent: stats.uploaded,
                finished_peers: stats.finished_peers,
                copies: stats.copies,
            }
        })
        .collect();
    let sent = rows.iter().map(|row| row.sent).sum();
    SeedResult { elapsed_s: start.elapsed().as_secs_f64(), sent, contents: rows }
}

struct Seeder<'a> {
    args: &'a SeedArgs,
    context: &'a Context,
    engine: &'a Engine,
    /// This process's addresses as URLs, the best first.
    own: Vec<Url>,
    contents: Vec<Content>,
    start: Instant,
}

impl Seeder<'_> {
    async fn work(&mut self) -> Result<(), Failure> {
        let (tell, mut told) = mpsc::channel(64);
        for path in &self.args.paths {
            let content = self.add(path, &tell).await?;
            if self.args.net.tracker.is_empty() {
                self.ready(content, None);
            } else {
                self.print(content);
            }
            // What trackers said meanwhile, so that the first link doesn't wait for the last hash.
            while let Ok(published) = told.try_recv() {
                self.published(published)?;
            }
        }
        self.serve(&mut told).await
    }

    /// Hashes a path and starts serving it; returns its position among the contents.
    async fn add(&mut self, path: &Path, tell: &mpsc::Sender<Published>) -> Result<usize, Failure> {
        // Taken apart, not cloned: a million entries are hundreds of megabytes.
        let Scanned { manifest, cvs, stamps, root, trusted, follow_links, .. } =
            create::scan_path(path, &self.args.scan, self.context).await?;
        let trackers = &self.args.net.tracker;
        let hinted = if trackers.is_empty() { &self.own } else { trackers };
        let manifest = Arc::new(create::with_hints(manifest, self.args.name.clone(), &root, hinted)?);
        if let Some(file) = &self.args.manifest {
            create::write_manifest(&manifest, file)?;
        }
        if let Some(at) = self.contents.iter().position(|content| content.manifest.id() == manifest.id()) {
            self.context.output.say(&format!(
                "{} is the same content as {}",
                path.display(),
                self.contents[at].path.display()
            ));
            self.contents[at].pending += 1;
            return Ok(at);
        }
        let index = self.contents.len();
        let parcel = (!trackers.is_empty()).then(|| Parcel::new(index, &manifest, &cvs));
        let source = SeedSource::new(Arc::clone(&manifest), root, stamps, cvs.clone(), trusted, follow_links);
        let mut handle = self.engine.seed(Seeding {
            manifest: Arc::clone(&manifest),
            source: Arc::new(source),
            cvs,
            trackers: trackers.iter().cloned().map(Into::into).collect(),
        });
        let (_, nothing) = mpsc::channel(1);
        let notices = std::mem::replace(&mut handle.notices, nothing);
        let name = given_name(&manifest);
        self.contents.push(Content {
            path: path.to_owned(),
            troubles: Troubles::new(&self.context.output, &name, self.engine.local_addr().port()),
            handle,
            notices,
            pending: 1,
            ready: None,
            refused: BTreeSet::new(),
            _publishing: trackers
                .iter()
                .zip(parcel.iter().cycle())
                .map(|(tracker, parcel)| publish(&self.context.http, tracker, parcel.clone(), tell.clone()))
                .collect(),
            manifest,
        });
        Ok(index)
    }

    /// A tracker has the manifest, or doesn't want or get it.
    fn published(&mut self, published: Published) -> Result<(), Failure> {
        let Published { content, tracker, result } = published;
        let output = &self.context.output;
        match result {
            Ok(()) => self.ready(content, Some(&tracker)),
            Err(error) if is_refusal(&error) => {
                let text = format!("tracker {} refuses the manifest: {error}", tracker.name());
                let row = &mut self.contents[content];
                row.refused.insert(tracker.to_string());
                let refused = |tracker: &Url| row.refused.contains(&tracker.to_string());
                if row.ready.is_none() && self.args.net.tracker.iter().all(refused) {
                    return Err(Failure::new(FailureKind::Refused, text));
                }
                output.warn_once(&format!("refused {tracker} {content}"), &text);
            }
            Err(error) => {
                let id = self.contents[content].manifest.id();
                let own =
                    self.own.first().map(|own| format!("; meanwhile {} works", link(own, id))).unwrap_or_default();
                let text =
                    format!("tracker {} does not take the manifest: {error}; it is tried again{own}", tracker.name());
                output.warn_once(&format!("publish {tracker} {content}"), &text);
            }
        }
        Ok(())
    }

    /// The content can be fetched: its link is printed; further trackers are only mentioned.
    fn ready(&mut self, content: usize, tracker: Option<&Url>) {
        let row = &mut self.contents[content];
        if row.ready.is_none() {
            row.ready = Some(tracker.cloned());
        } else if let Some(tracker) = tracker {
            self.context.output.say(&format!("also: {}", link(tracker, row.manifest.id())));
        }
        self.print(content);
    }

    /// Prints the link for every PATH that waits for it, if there is one yet.
    fn print(&mut self, content: usize) {
        let row = &mut self.contents[content];
        if row.ready.is_some() {
            for _ in 0..std::mem::take(&mut row.pending) {
                self.print_link(content);
            }
        }
    }

    fn print_link(&self, content: usize) {
        let row = &self.contents[content];
        let id: ContentId = row.manifest.id();
        let tracker = row.ready.iter().flatten();
        let servers: Vec<&Url> = self.args.public_url.iter().chain(tracker).chain(&self.own).collect();
        let Some((best, others)) = servers.split_first() else { return };
        let best = link(best, id).to_string();
        let also: Vec<String> = others.iter().map(|server| link(server, id).to_string()).collect();
        let output: &Output = &self.context.output;
        let manifest = &row.manifest;
        output.data(&best);
        output.record(
            "ready",
            &Ready {
                link: &best,
                id: id.to_string(),
                name: manifest.hints().name.as_deref(),
                path: &row.path,
                bytes: manifest.bytes(),
                also: &also,
            },
        );
        for other in &also {
            output.say(&format!("also: {other}"));
        }
        output.say(&format!(
            "seeding {}: {} in {}, {}; Ctrl-C ends it",
            given_name(manifest),
            format_size(manifest.bytes()),
            counted(manifest.files() as u64, "file"),
            counted(manifest.geometry().pieces().into(), "piece")
        ));
    }

    /// Until something ends it: a signal, which is a good end, a condition, or the time.
    async fn serve(&mut self, told: &mut mpsc::Receiver<Published>) -> Result<(), Failure> {
        let name = match self.contents.as_slice() {
            [only] => given_name(&only.manifest),
            many => format!("{} contents", many.len()),
        };
        let mut progress = Progress::new(&self.context.output, &name);
        let signals = self.context.signals.clone();
        let mut ones = self.context.signals.clone();
        let mut tick = tokio::time::interval(TICK);
        let mut idle = Idle { sent: 0, since: Instant::now() };
        let mut began = false;
        loop {
            let insist = tokio::select! {
                biased;
                _ = signals.stopped() => return Ok(()),
                Some(published) = told.recv() => {
                    self.published(published)?;
                    continue;
                }
                () = ones.usr1() => true,
                _ = tick.tick() => false,
            };
            let all: Vec<Stats> = self.contents.iter().map(|content| content.handle.stats.borrow().clone()).collect();
            let sum = total(&all);
            if insist {
                progress.insist(&sum, true);
            }
            progress.seed(&sum);
            for (content, stats) in self.contents.iter_mut().zip(&all) {
                content.troubles.look(stats, true);
                while let Ok(notice) = content.notices.try_recv() {
                    content.troubles.notice(&notice);
                }
            }
            // Before the first numbers come there is nothing either.
            began |= sum.done > 0;
            if began && is_gone(&all) {
                let paths: Vec<String> =
                    self.contents.iter().map(|content| content.path.display().to_string()).collect();
                let text = format!("nothing is left to serve of {}: it was changed or removed", paths.join(", "));
                return Err(
                    Failure::new(FailureKind::Local, text).hint("put it back as it was, or seed what is there now")
                );
            }
            if met(self.args.stop_when, &all, &mut idle) {
                return Ok(());
            }
            if let Some(timeout) = self.args.timeout.filter(|timeout| self.start.elapsed() >= *timeout) {
                let text = format!("the seed's condition is not met after {}", format_duration(timeout));
                let row = format!(
                    "{} finished, {:.1} copies, {} sent",
                    counted(sum.finished_peers.into(), "peer"),
                    sum.copies,
                    format_size(sum.uploaded)
                );
                return Err(Failure::new(FailureKind::Incomplete, text).detail(row));
            }
        }
    }
}

/// Whether no byte of any content can be had here any more.
fn is_gone(all: &[Stats]) -> bool {
    all.iter().any(|stats| stats.total > 0) && all.iter().all(|stats| stats.done == 0)
}

/// Since when nothing was sent.
#[derive(Debug)]
struct Idle {
    sent: u64,
    since: Instant,
}

/// Whether the condition is met, by every content where it is one of each.
fn met(when: StopWhen, all: &[Stats], idle: &mut Idle) -> bool {
    let sent: u64 = all.iter().map(|stats| stats.uploaded).sum();
    if sent != idle.sent {
        *idle = Idle { sent, since: Instant::now() };
    }
    match when {
        StopWhen::Never => false,
        StopWhen::Idle(limit) => idle.since.elapsed() >= limit,
        StopWhen::Copies(copies) => all.iter().all(|stats| stats.copies >= copies),
        StopWhen::Complete(count) => all.iter().all(|stats| stats.finished_peers >= count),
        StopWhen::Uploaded(bytes) => sent >= bytes,
    }
}

/// The numbers of all contents as one: sums, and the worst where a sum says nothing.
fn total(all: &[Stats]) -> Stats {
    let mut out = all.first().cloned().unwrap_or_default();
    for stats in all.iter().skip(1) {
        out.total += stats.total;
        out.done += stats.done;
        out.downloaded += stats.downloaded;
        out.from_seeds += stats.from_seeds;
        out.uploaded += stats.uploaded;
        out.repeated += stats.repeated;
        out.bad_pieces += stats.bad_pieces;
        out.rate_down += stats.rate_down;
        out.rate_up += stats.rate_up;
        out.peers += stats.peers;
        out.seeds += stats.seeds;
        out.leechers += stats.leechers;
        out.incoming += stats.incoming;
        out.finished_peers += stats.finished_peers;
        out.copies = out.copies.min(stats.copies);
        out.slowest = match (out.slowest, stats.slowest) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(uploaded: u64, copies: f64, finished_peers: u32) -> Stats {
        Stats { uploaded, copies, finished_peers, slowest: Some(copies / 10.0), ..Stats::default() }
    }

    #[test]
    fn a_seed_of_which_nothing_is_left_is_over() {
        let stats = |done, total| Stats { done, total, ..Stats::default() };
        for (all, gone) in [
            (&[stats(0, 7)][..], true),
            (&[stats(1, 7)], false),
            (&[stats(0, 7), stats(7, 7)], false),
            (&[stats(0, 7), stats(0, 0)], true),
            (&[stats(0, 0)], false),
            (&[], false),
        ] {
            assert_eq!(is_gone(all), gone, "{all:?}");
        }
    }

    #[test]
    fn conditions_hold_for_every_content() {
        let mut idle = Idle { sent: 0, since: Instant::now() };
        let all = [stats(10, 2.0, 3), stats(5, 1.0, 1)];
        for (when, expected) in [
            (StopWhen::Never, false),
            (StopWhen::Copies(1.0), true),
            (StopWhen::Copies(1.5), false),
            (StopWhen::Complete(1), true),
            (StopWhen::Complete(2), false),
            (StopWhen::Uploaded(15), true),
            (StopWhen::Uploaded(16), false),
            (StopWhen::Idle(Duration::ZERO), true),
            (StopWhen::Idle(Duration::from_secs(60)), false),
        ] {
            assert_eq!(met(when, &all, &mut idle), expected, "{when:?}");
        }
    }

    #[test]
    fn numbers_of_many_are_sums_and_worst_cases() {
        let sum = total(&[stats(10, 2.0, 3), stats(5, 1.0, 1)]);
        assert_eq!((sum.uploaded, sum.copies, sum.finished_peers, sum.slowest), (15, 1.0, 4, Some(0.1)));
    }
}
