//! Serving on after the end of a fetch, or serving again what an earlier fetch completed.

use super::args::SeedFor;
use super::progress::Progress;
use super::troubles::Troubles;
use super::{Context, create};
use crate::engine::{Engine, EngineConfig, Handle, Seeding, TrackerState, TrackerUrl};
use crate::failure::{Failure, FailureKind};
use crate::names::shown_name;
use crate::store::{ScanOptions, SeedSource, default_state_dir};
use shoal_protocol::Manifest;
use shoal_protocol::announce::StopReason;
use shoal_protocol::units::format_duration;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest stay that nobody asked for.
const AUTO: Duration = Duration::from_secs(30);
/// Neighbours need a moment to connect or to say that they have finished.
const AUTO_LEAST: Duration = Duration::from_millis(600);
/// The same where a tracker knows of somebody who lacks something: it may be about to connect again.
const AUTO_NEEDED: Duration = Duration::from_secs(3);
/// The same where the serving has just begun and nobody knows of it yet.
const AUTO_FRESH: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(250);

/// Stays as long as asked, or until stopped, which is a good end.
pub(super) async fn stay(handle: &Handle, seed_for: SeedFor, fresh: bool, context: &Context, name: &str, port: u16) {
    let stats = handle.stats.clone();
    let (limit, least) = match seed_for {
        SeedFor::Auto => (Some(AUTO), if fresh { AUTO_FRESH } else { AUTO_LEAST }),
        SeedFor::Time(time) => (Some(time), time),
        SeedFor::Forever => (None, Duration::MAX),
    };
    let start = Instant::now();
    let mut progress = Progress::new(&context.output, name);
    let troubles = Troubles::new(&context.output, name, port);
    let mut signals = context.signals.clone();
    let signals_too = context.signals.clone();
    let mut tick = tokio::time::interval(TICK);
    let mut news = handle.stats.clone();
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            Ok(()) = news.changed() => {}
            () = signals.usr1() => progress.insist(&stats.borrow(), true),
            _ = signals_too.stopped() => return,
        }
        let now = stats.borrow().clone();
        let age = start.elapsed();
        if seed_for == SeedFor::Auto && !fresh && now.leechers == 0 && now.trackers.iter().any(nobody_needs_us) {
            return;
        }
        let least = if now.trackers.iter().any(somebody_needs_us) { least.max(AUTO_NEEDED) } else { least };
        if limit.is_some_and(|limit| age >= limit) || (age >= least && now.leechers == 0 && seed_for == SeedFor::Auto) {
            return;
        }
        if age >= AUTO_LEAST {
            let until = match limit {
                Some(limit) => format!("for up to {}", format_duration(limit)),
                None => "until stopped".to_owned(),
            };
            context.output.say_once("staying", &format!("serving others {until}; Ctrl-C ends it"));
        }
        progress.seed(&now);
        troubles.look(&now, true);
    }
}

/// A tracker that heard of our completion knows of another seed and of nobody who lacks anything.
fn nobody_needs_us(tracker: &TrackerState) -> bool {
    matches!(tracker.state, Some(Ok((seeds, 0))) if seeds >= 2)
}

/// A tracker counts others who lack something.
fn somebody_needs_us(tracker: &TrackerState) -> bool {
    matches!(tracker.state, Some(Ok((_, leechers))) if leechers > 0)
}

/// A content that is complete on disk, and who should hear of it.
#[derive(Debug)]
pub(super) struct Finished<'a> {
    /// What it is.
    pub(super) manifest: Arc<Manifest>,
    /// Where it is.
    pub(super) path: &'a Path,
    /// Trackers to announce to.
    pub(super) trackers: Vec<TrackerUrl>,
}

/// Reads a complete content again, as nothing is served that wasn't verified, and starts serving it.
pub(super) async fn serve(
    content: Finished<'_>,
    config: EngineConfig,
    context: &Context,
) -> Result<(Engine, Handle), Failure> {
    let Finished { manifest, path, trackers } = content;
    let options = ScanOptions {
        piece_size: Some(manifest.piece_size()),
        follow_links: false,
        skip_special: false,
        only: Some(Arc::clone(&manifest)),
        cache: Some(default_state_dir()),
    };
    let scanned = create::scan_with(path, options, context).await?;
    if scanned.manifest.id() != manifest.id() {
        let text = format!("{} is no longer the content {}", path.display(), manifest.id());
        return Err(Failure::new(FailureKind::Integrity, text));
    }
    let source = Arc::new(SeedSource::of_scan(&scanned, Arc::clone(&manifest)));
    let engine = Engine::start(config).await?;
    let handle = engine.seed(Seeding { manifest, source, cvs: scanned.cvs, trackers });
    Ok((engine, handle))
}

/// Serves a complete content as long as asked.
pub(super) async fn serve_for(
    content: Finished<'_>,
    config: EngineConfig,
    seed_for: SeedFor,
    context: &Context,
) -> Result<u64, Failure> {
    let name = shown_name(&content.manifest);
    let (engine, handle) = serve(content, config, context).await?;
    stay(&handle, seed_for, true, context, &name, engine.local_addr().port()).await;
    let sent = handle.stats.borrow().uploaded;
    handle.stop(StopReason::Done).await;
    engine.shutdown().await;
    Ok(sent)
}
