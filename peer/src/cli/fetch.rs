//! `peer fetch`: from a link to a verified path.

use super::args::{FetchArgs, NetArgs, SeedFor, Sync as SyncWhen};
use super::contacts::Contacts;
use super::output::{Outcome, Output};
use super::progress::{Progress, blocking, percent};
use super::sources::{Found, Journals, Search, Spec, Tools, cvs_from, find};
use super::troubles::{Stall, Troubles};
use super::{Context, background, staying};
use crate::engine::{Engine, EngineConfig, Fetching, Handle, Stats, TrackerUrl};
use crate::failure::{Failure, FailureKind, counted};
use crate::names::{plain_name, shown_name};
use crate::store::{
    Download, DownloadOptions, Existing, Opened, Recorded, SyncMode, default_state_dir, make_lasting, missing_bytes,
    recorded, unfinished,
};
use serde::Serialize;
use shoal_protocol::address::Reach;
use shoal_protocol::announce::{Scrape, StopReason};
use shoal_protocol::units::format_size;
use shoal_protocol::{ContentId, Manifest};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Between two looks at the numbers.
const TICK: Duration = Duration::from_millis(250);
/// How long a dry run waits for each source, and a fetch for the name of what it may have already.
const PROBE: Duration = Duration::from_secs(3);
/// Names in a directory that are looked at for a content that may be complete there.
const NEIGHBOURS: usize = 16 << 10;

#[derive(Debug, Serialize)]
struct FetchResult {
    changed: bool,
    id: String,
    #[serde(serialize_with = "super::output::lossy")]
    path: PathBuf,
    bytes: u64,
    elapsed_s: f64,
    downloaded: u64,
    from_seeds: u64,
    sent: u64,
    bad_pieces: u64,
    peers: u32,
}

/// Runs the command.
pub(super) async fn run(args: FetchArgs, context: Context) -> Result<Outcome, Failure> {
    let start = Instant::now();
    if args.output.as_deref() == Some(Path::new("-")) {
        return Err(Failure::new(FailureKind::Usage, "-o - is not known yet: name a path"));
    }
    let spec = Spec::parse(&args.what)?;
    let config = engine_config(&args.net, !args.no_upload, args.allow_private, false);
    let here = PathBuf::from(".");
    let search = Search {
        id: args.id,
        trackers: &args.net.tracker,
        peers: &args.peer,
        journals: Some(match &args.output {
            Some(out) => Journals::Of(out),
            None => Journals::In(args.into.as_ref().unwrap_or(&here)),
        }),
        timeout: args.timeout,
        wait: None,
        stall: args.stall_timeout,
    };
    let tools = Tools { output: &context.output, signals: &context.signals, http: &context.http };
    let held = held(&args, &spec, &here).await;
    if let Some(held) = &held
        && (args.output.is_some() || held.as_hinted)
    {
        return Ok(held.told(&context, start));
    }
    // What is held was given a name of the user's own. The link may now mean another place beside it, which only the
    // manifest tells, so its server is asked, but not waited for.
    let search = if held.is_some() { Search { wait: Some(Duration::ZERO), ..search } } else { search };
    let mut engine: Option<Engine> = None;
    let begin = async || Engine::start(config.clone()).await.map(|started| Some(engine.insert(started).clone()));
    let looking = find(&spec, &search, &tools, begin);
    let found = if held.is_some() {
        let late = |_| Err(Failure::new(FailureKind::Unreachable, "the link's host doesn't answer"));
        tokio::time::timeout(PROBE, looking).await.unwrap_or_else(late)
    } else {
        looking.await
    };
    let found = match found {
        Ok(found) => found,
        Err(failure) => {
            if let Some(engine) = engine {
                engine.shutdown().await;
            }
            return match (held, failure.kind) {
                // Whatever is at its address now has no say in what is here.
                (Some(held), kind) if !matches!(kind, FailureKind::Interrupted | FailureKind::Terminated) => {
                    Ok(held.told(&context, start))
                }
                _ => Err(failure),
            };
        }
    };
    let out = target(&args, &found, &here);
    if args.dry_run {
        let contacts = Contacts::look_up(&spec, &search, found.manifest.hints(), found.giver).await;
        return dry_run(&found.manifest, &contacts, &out, &context).await;
    }
    let name = shown_name(&found.manifest);
    let (manifest, giver) = (Arc::new(found.manifest), found.giver);
    match open(&args, &manifest, giver, &out, &name, &context, start).await? {
        Opened::Complete(path) => {
            if let Some(engine) = engine {
                engine.shutdown().await;
            }
            let contacts = match args.serves_again() {
                Some(_) => Contacts::look_up(&spec, &search, manifest.hints(), giver).await,
                None => Contacts::default(),
            };
            let job = Job { args: &args, config, context: &context, manifest, out, name, start };
            job.already(path, contacts.trackers).await
        }
        Opened::Open(download) => {
            // Asked for first, so that nothing is fetched that is there already.
            if download.awaits_cvs()
                && let Spec::Url(url) = &spec
                && let Some(cvs) = tokio::select! {
                    cvs = cvs_from(url, &manifest, &context.http) => cvs,
                    _ = context.signals.stopped() => None,
                }
            {
                let found = download.add_cvs(0, &cvs);
                found.map_err(|error| Failure::io("can't write the journal of", &out, &error))?;
            }
            let engine = match engine {
                Some(engine) => engine,
                None => Engine::start(config.clone()).await?,
            };
            let contacts = Contacts::look_up(&spec, &search, manifest.hints(), giver).await;
            let job = Job { args: &args, config, context: &context, manifest, out, name, start };
            job.transfer(engine, download, contacts).await
        }
    }
}

/// A place that a completion record says to hold the content of a link.
struct Held {
    id: ContentId,
    path: PathBuf,
    bytes: u64,
    /// It has the name that a fetch gives it where the user names none.
    as_hinted: bool,
}

impl Held {
    fn told(&self, context: &Context, start: Instant) -> Outcome {
        already_complete(&self.path, self.bytes, &context.output);
        let result = result(self.id, self.path.clone(), self.bytes, &Stats::default(), (false, start));
        context.output.record("complete", &result);
        Outcome::new(&result)
    }
}

fn already_complete(path: &Path, bytes: u64, output: &Output) {
    output.say(&format!("already complete: {} ({})", path.display(), format_size(bytes)));
    output.data_path(path);
}

/// What can be answered from a link's id alone, so that a rerun needs nobody. Serving and planning need the manifest.
async fn held(args: &FetchArgs, spec: &Spec, here: &Path) -> Option<Held> {
    let Spec::Url(url) = spec else { return None };
    let id = url.content_id().or(args.id).filter(|id| args.id.is_none_or(|pinned| pinned == *id))?;
    if args.dry_run || args.serves_again().is_some() {
        return None;
    }
    let (out, dir) = (args.output.clone(), args.into.clone().unwrap_or_else(|| here.to_owned()));
    let wants_flush = args.sync != SyncWhen::None;
    let look = move || {
        let state = default_state_dir();
        let held = |path: PathBuf| {
            if unfinished(&path) {
                // Killed between the record and the end: whoever opens the place ends that.
                return None;
            }
            let Recorded { bytes, as_hinted, flushed } = recorded(id, &path, &state)?;
            // It was not asked to survive a power cut before.
            if !flushed && wants_flush && !make_lasting(id, &path, &state) {
                return None;
            }
            Some(Held { id, path, bytes, as_hinted })
        };
        match out {
            Some(out) => held(out),
            None => {
                let names = std::fs::read_dir(&dir).ok()?.flatten().take(NEIGHBOURS);
                names.filter_map(|entry| held(dir.join(entry.file_name()))).max_by_key(|held| held.as_hinted)
            }
        }
    };
    tokio::task::spawn_blocking(look).await.ok().flatten()
}

/// The path is told as it was asked for: scripts compare it, and the user's own links are theirs to keep.
fn result(id: ContentId, path: PathBuf, bytes: u64, stats: &Stats, (changed, start): (bool, Instant)) -> FetchResult {
    FetchResult {
        changed,
        id: id.to_string(),
        path,
        bytes,
        elapsed_s: (start.elapsed().as_secs_f64() * 1_000.0).round() / 1_000.0,
        downloaded: stats.downloaded,
        from_seeds: stats.from_seeds,
        sent: stats.uploaded,
        bad_pieces: stats.bad_pieces,
        peers: stats.sources,
    }
}

/// The engine's settings from the flags.
pub(super) fn engine_config(net: &NetArgs, upload: bool, allow_private: bool, tracker: bool) -> EngineConfig {
    EngineConfig {
        listen: net.listen(),
        advertise: net.advertise.clone(),
        zone: net.zone.clone().unwrap_or_default(),
        label: super::host_label(),
        max_upload: net.max_upload.unwrap_or(0),
        max_download: net.max_download.unwrap_or(0),
        max_peers: net.max_peers.into(),
        upload,
        allow_private,
        tracker,
    }
}

/// Where the content goes.
fn target(args: &FetchArgs, found: &Found, here: &Path) -> PathBuf {
    match (&args.output, &found.journal) {
        (Some(out), _) => out.clone(),
        // The journal's place was looked up in the directory that was asked for.
        (None, Some(journal)) => journal.clone(),
        (None, None) => args.into.as_deref().unwrap_or(here).join(plain_name(&found.manifest)),
    }
}

/// Opens the place on disk; this may have to check what is there, or to wait for another process.
async fn open(
    args: &FetchArgs,
    manifest: &Arc<Manifest>,
    giver: Reach,
    out: &Path,
    name: &str,
    context: &Context,
    start: Instant,
) -> Result<Opened, Failure> {
    let options = DownloadOptions {
        resume: !args.no_resume,
        sync: if args.sync == SyncWhen::None { SyncMode::None } else { SyncMode::Auto },
        existing: match (args.overwrite, args.repair) {
            (true, _) => Existing::Overwrite,
            (_, true) => Existing::Repair,
            _ => Existing::Refuse,
        },
        giver,
        state_dir: default_state_dir(),
    };
    let (manifest, out, cancelled) = (Arc::clone(manifest), out.to_owned(), context.signals.cancelled());
    let output = context.output.clone();
    // Waiting for another process may take for ever; what ends the check of a signal ends it at the deadline too.
    let late = Arc::new(AtomicBool::new(false));
    let timer = args.timeout.map(|timeout| {
        let (late, cancelled) = (Arc::clone(&late), Arc::clone(&cancelled));
        tokio::spawn(async move {
            tokio::time::sleep(timeout.saturating_sub(start.elapsed())).await;
            late.store(true, Ordering::Relaxed);
            cancelled.store(true, Ordering::Relaxed);
        })
    });
    let result = blocking(context, name, "checking", move |progress| {
        let waiting = |pid: u32| {
            let text = format!("process {pid} is fetching this to the same place; waiting for its result");
            output.say_once("waiting", &text);
        };
        Download::open(manifest, &out, &options, progress, &cancelled, &waiting)
    });
    let result = result.await;
    if let Some(timer) = timer {
        timer.abort();
    }
    match (result, context.signals.asked()) {
        (Err(_), Some(stop)) => Err(stop.failure()),
        (Err(_), None) if late.load(Ordering::Relaxed) => {
            Err(Failure::new(FailureKind::Incomplete, "the time was over before fetching began"))
        }
        (result, _) => result,
    }
}

struct Job<'a> {
    args: &'a FetchArgs,
    config: EngineConfig,
    context: &'a Context,
    manifest: Arc<Manifest>,
    out: PathBuf,
    name: String,
    start: Instant,
}

impl Job<'_> {
    /// The target has it all.
    async fn already(self, path: PathBuf, trackers: Vec<TrackerUrl>) -> Result<Outcome, Failure> {
        let output = &self.context.output;
        already_complete(&self.out, self.manifest.bytes(), output);
        let mut result = self.result(&Stats::default(), false);
        output.record("complete", &result);
        if let Some(seed_for) = self.args.serves_again() {
            if self.args.background {
                background::start(&self.manifest, &path, &trackers, seed_for, &self.args.net, self.context).await?;
            } else {
                let content = staying::Finished { manifest: self.manifest, path: &path, trackers };
                result.sent = staying::serve_for(content, self.config, seed_for, self.context).await?;
            }
        }
        Ok(Outcome::new(&result))
    }

    async fn transfer(self, engine: Engine, download: Download, contacts: Contacts) -> Result<Outcome, Failure> {
        let Contacts { trackers, peers } = contacts;
        let (part, download) = (download.part_path().to_owned(), Arc::new(download));
        let mut handle = engine.fetch(Fetching {
            manifest: Arc::clone(&self.manifest),
            download: Arc::clone(&download),
            trackers: trackers.clone(),
            peers,
        });
        let ended = self.watch(&mut handle, engine.local_addr().port()).await;
        let stats = handle.stats.borrow().clone();
        let path = match ended {
            Ok(path) => path,
            Err(failure) => {
                handle.stop(reason(&failure)).await;
                engine.shutdown().await;
                // It was on its way to its final name when the end was asked for, and has that now.
                return if download.is_finished() {
                    Ok(Outcome::new(&self.told(&stats)))
                } else {
                    Err(kept(failure, &stats, &as_named(&part, &self.out)))
                };
            }
        };
        let mut result = self.told(&stats);
        let seed_for = self.args.seed_for.unwrap_or(SeedFor::Auto);
        let port = engine.local_addr().port();
        if !self.args.no_upload && !self.args.background {
            staying::stay(&handle, seed_for, false, self.context, &self.name, port).await;
        }
        result.sent = handle.stats.borrow().uploaded;
        // The successor serves before this one leaves, unless both need the one port that was named.
        let in_background = self.args.background && !self.args.no_upload;
        let start =
            async || background::start(&self.manifest, &path, &trackers, seed_for, &self.args.net, self.context).await;
        let one_port = self.config.listen.ports.clone().count() == 1 && *self.config.listen.ports.start() != 0;
        let mut started = Ok(());
        if in_background && !one_port {
            started = start().await;
        }
        handle.stop(StopReason::Done).await;
        engine.shutdown().await;
        if in_background && one_port {
            started = start().await;
        }
        started.map(|()| Outcome::new(&result))
    }

    /// Waits for the end, whatever it is.
    async fn watch(&self, handle: &mut Handle, port: u16) -> Result<PathBuf, Failure> {
        let stats = handle.stats.clone();
        let (_, nothing) = tokio::sync::mpsc::channel(1);
        let mut notices = std::mem::replace(&mut handle.notices, nothing);
        let mut progress = Progress::new(&self.context.output, &self.name);
        let troubles = Troubles::new(&self.context.output, &self.name, port);
        let mut stall = Stall::new(self.args.stall_timeout);
        let signals = self.context.signals.clone();
        let mut ones = self.context.signals.clone();
        let mut tick = tokio::time::interval(TICK);
        let complete = handle.complete();
        tokio::pin!(complete);
        let result = loop {
            tokio::select! {
                biased;
                result = &mut complete => break result,
                stop = signals.stopped() => break Err(stop.failure()),
                Some(notice) = notices.recv() => troubles.notice(&notice),
                () = ones.usr1() => progress.insist(&stats.borrow(), false),
                _ = tick.tick() => {
                    let now = stats.borrow().clone();
                    progress.fetch(&now);
                    troubles.look(&now, !self.args.no_upload);
                    troubles.look_at_fetch(&now);
                    let late = self.args.timeout.filter(|timeout| self.start.elapsed() >= *timeout);
                    if stall.look(&now) || late.is_some() {
                        break Err(stall.failure(&now, late));
                    }
                }
            }
        };
        progress.end_fetch(&stats.borrow());
        result
    }

    /// Tells that all is there.
    fn told(&self, stats: &Stats) -> FetchResult {
        let (output, result) = (&self.context.output, self.result(stats, true));
        output.say(&summary(stats, self.manifest.bytes(), result.elapsed_s));
        output.data_path(&self.out);
        output.record("complete", &result);
        result
    }

    fn result(&self, stats: &Stats, changed: bool) -> FetchResult {
        let manifest = &self.manifest;
        result(manifest.id(), self.out.clone(), manifest.bytes(), stats, (changed, self.start))
    }
}

/// What other peers are told.
fn reason(failure: &Failure) -> StopReason {
    match failure.kind {
        FailureKind::Interrupted | FailureKind::Terminated => StopReason::Interrupted,
        FailureKind::Incomplete | FailureKind::Unreachable => StopReason::TimedOut,
        _ => StopReason::Failed,
    }
}

/// The part by the name that the user gave its target.
fn as_named(part: &Path, out: &Path) -> PathBuf {
    let name = part.file_name().unwrap_or_default();
    if part.parent() == std::path::absolute(out).ok().as_deref() { out.join(name) } else { out.with_file_name(name) }
}

/// Adds what is kept and how to go on, unless the failure says it better.
fn kept(failure: Failure, stats: &Stats, part: &Path) -> Failure {
    if failure.hint.is_some() || matches!(failure.kind, FailureKind::Bug | FailureKind::Refused) {
        return failure;
    }
    if stats.done == 0 {
        return failure.hint("nothing was fetched yet; run the same command again to try again");
    }
    let size = format_size(stats.done);
    failure.hint(format!("{size} is kept in {}; run the same command again to go on", part.display()))
}

fn summary(stats: &Stats, bytes: u64, elapsed_s: f64) -> String {
    let rate = stats.downloaded as f64 / elapsed_s.max(0.001);
    let resumed =
        if stats.resumed > 0 { format!(", {} of it was there", format_size(stats.resumed)) } else { String::new() };
    format!(
        "done: {} in {elapsed_s:.1} s ({}/s){resumed} from {}, {} % of it from seeds; sent {} on; {}",
        format_size(bytes),
        format_size(rate as u64),
        counted(stats.sources.into(), "peer"),
        if stats.downloaded == 0 { 0 } else { percent(stats.from_seeds, stats.downloaded) },
        format_size(stats.uploaded),
        counted(stats.bad_pieces, "bad piece")
    )
}

#[derive(Serialize)]
struct Plan {
    id: String,
    #[serde(serialize_with = "super::output::lossy")]
    path: PathBuf,
    files: usize,
    bytes: u64,
    to_fetch: u64,
    exists: bool,
    under_way: bool,
    seeds: u32,
    leechers: u32,
    peers_reachable: usize,
}

/// What a fetch would do, and who is there.
async fn dry_run(manifest: &Manifest, contacts: &Contacts, out: &Path, context: &Context) -> Result<Outcome, Failure> {
    let output = &context.output;
    let mut plan = Plan {
        id: manifest.id().to_string(),
        path: out.to_owned(),
        files: manifest.files(),
        bytes: manifest.bytes(),
        to_fetch: missing_bytes(manifest, out, &default_state_dir()),
        exists: std::fs::symlink_metadata(out).is_ok(),
        under_way: unfinished(out),
        seeds: 0,
        leechers: 0,
        peers_reachable: 0,
    };
    let state = match (plan.exists, plan.under_way) {
        (_, true) => " (under way: a fetch goes on from what is there)",
        (true, _) => " (exists: a fetch checks it first)",
        _ => "",
    };
    let state = if plan.exists && plan.to_fetch == 0 { " (already complete)" } else { state };
    output.data(&format!("path   {}{state}", crate::failure::escape(&out.display().to_string())));
    output.data(&format!("files  {}", plan.files));
    output.data(&format!("bytes  {} ({})", plan.bytes, format_size(plan.bytes)));
    output.data(&format!("fetch  {} ({})", plan.to_fetch, format_size(plan.to_fetch)));
    for tracker in &contacts.trackers {
        match scrape(tracker, manifest, context).await {
            Ok((seeds, leechers)) => {
                plan.seeds = plan.seeds.max(seeds);
                plan.leechers = plan.leechers.max(leechers);
                output.data(&format!("tracker {}: {seeds} seeds, {leechers} others", tracker.url.name()));
            }
            Err(error) => output.data(&format!("tracker {}: {error}", tracker.url.name())),
        }
    }
    for peer in &contacts.peers {
        let reached = matches!(tokio::time::timeout(PROBE, tokio::net::TcpStream::connect(peer)).await, Ok(Ok(_)));
        plan.peers_reachable += usize::from(reached);
        output.data(&format!("peer {peer}: {}", if reached { "reachable" } else { "not reachable" }));
    }
    Ok(Outcome::new(&plan))
}

async fn scrape(
    TrackerUrl { url, nearest }: &TrackerUrl,
    manifest: &Manifest,
    context: &Context,
) -> Result<(u32, u32), String> {
    let url = url.tracker().below(&format!("/v1/scrape?swarm={}", manifest.id().open_swarm()));
    let answer = context.http.fetch_bytes(&url, "application/json", 64 << 10, PROBE, *nearest).await;
    let answer = answer.map_err(|error| error.to_string())?;
    let scrape: Scrape = serde_json::from_slice(&answer.body).map_err(|_| "not a tracker's answer".to_owned())?;
    scrape.swarms.first().map(|counts| (counts.seeds, counts.leechers)).ok_or_else(|| "an empty answer".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_as_documented() {
        let stats = Stats {
            downloaded: 5 << 30,
            from_seeds: (5 << 30) * 6 / 100 + 1,
            uploaded: (22 << 30) / 10,
            sources: 12,
            ..Stats::default()
        };
        assert_eq!(
            summary(&stats, 5 << 30, 12.4),
            "done: 5.0 GiB in 12.4 s (413 MiB/s) from 12 peers, 6 % of it from seeds; sent 2.2 GiB on; 0 bad pieces"
        );
    }

    #[test]
    fn a_part_is_named_as_its_target_is() {
        let out = Path::new("./model");
        let there = std::path::absolute(out).unwrap();
        assert_eq!(as_named(&there.with_file_name("model.part"), out), Path::new("./model.part"));
        assert_eq!(as_named(&there.join(".shoal.part"), out), Path::new("./model/.shoal.part"));
    }

    #[test]
    fn what_is_kept_is_said_once() {
        let stats = Stats { done: 5 << 30, ..Stats::default() };
        let failure = kept(Failure::new(FailureKind::Incomplete, "x"), &stats, Path::new("./model.part"));
        let hint = "5.0 GiB is kept in ./model.part; run the same command again to go on";
        assert_eq!(failure.hint.as_deref(), Some(hint));
        let failure = kept(Failure::new(FailureKind::Local, "x").hint("y"), &stats, Path::new("./model.part"));
        assert_eq!(failure.hint.as_deref(), Some("y"));
    }
}
