//! From what the user wrote (a link, a file, a URL, `-`) to a manifest.

use super::contacts::resolve_all;
use super::output::Output;
use super::signals::Signals;
use crate::engine::Engine;
use crate::failure::{Failure, FailureKind};
use crate::net::http_client::{HttpClient, HttpError, Nearest, is_at_home};
use crate::store::{read_journal_manifest, unfinished};
use shoal_protocol::address::{Reach, reach};
use shoal_protocol::geometry::Large;
use shoal_protocol::limits::MANIFEST_BYTES;
use shoal_protocol::link::{Url, UrlError};
use shoal_protocol::tree::root_of;
use shoal_protocol::{ContentId, Hash, Manifest, ManifestError};
use std::ffi::OsStr;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a manifest's server should send: the compact form if it has it.
const ACCEPT: &str = "application/vnd.shoal.manifest, application/octet-stream;q=0.9, application/json;q=0.8";
/// How long one manifest may take: 256 MiB at 75 KB/s. Who sends nothing, or crumbs, is given up long before.
const MANIFEST_TIME: Duration = Duration::from_secs(3_600);
/// After this long a link's host is no longer waited for alone.
const ALONE: Duration = Duration::from_secs(3);
/// How long the CVs may take: they only save work.
const CVS_TIME: Duration = Duration::from_secs(10);
/// How long a host that can't be reached at all is tried when nobody says otherwise: a restart fits, a typo shows soon.
const PATIENCE: Duration = Duration::from_secs(30);
/// First and longest pause between two attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// Journals that are looked at when a link's host is gone.
const JOURNALS: usize = 256;

/// A manifest and where it came from.
#[derive(Debug)]
pub(super) struct Found {
    /// What it is.
    pub(super) manifest: Manifest,
    /// How near the host that gave it was, for what its hints may name; loopback if it was here already.
    pub(super) giver: Reach,
    /// Where a fetch of it was under way, when that is where the manifest came from.
    pub(super) journal: Option<PathBuf>,
}

impl Found {
    fn here(manifest: Manifest) -> Self {
        Self { manifest, giver: Reach::Loopback, journal: None }
    }
}

/// What the user wrote.
#[derive(Debug, Clone)]
pub(super) enum Spec {
    /// A link or another URL of a manifest.
    Url(Url),
    /// A manifest file.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

impl Spec {
    /// Tells them apart.
    ///
    /// # Errors
    /// When it looks like a URL and isn't one that can be used.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        if text == "-" {
            return Ok(Self::Stdin);
        }
        match Url::parse(text) {
            Ok(url) => Ok(Self::Url(url)),
            Err(UrlError::Scheme) if !text.contains("://") => Ok(Self::File(PathBuf::from(text))),
            Err(error) => Err(Failure::new(FailureKind::Input, error.to_string())),
        }
    }
}

/// What else is known when looking for a manifest.
#[derive(Debug, Default)]
pub(super) struct Search<'a> {
    /// The id that must come.
    pub(super) id: Option<ContentId>,
    /// Trackers that the user named.
    pub(super) trackers: &'a [Url],
    /// Peers that the user named, as HOST:PORT.
    pub(super) peers: &'a [String],
    /// Where a fetch under way may have left its journal: a target, or a directory of targets.
    pub(super) journals: Option<Journals<'a>>,
    /// How long in all, where the user says so.
    pub(super) timeout: Option<Duration>,
    /// How long somebody who doesn't have it may be asked again; [`PATIENCE`] or the stall timeout where nothing else is said.
    pub(super) wait: Option<Duration>,
    /// How long when somebody is there but has nothing yet.
    pub(super) stall: Duration,
}

/// Where journals may lie.
#[derive(Debug, Clone, Copy)]
pub(super) enum Journals<'a> {
    /// Beside this target.
    Of(&'a Path),
    /// Anywhere in this directory.
    In(&'a Path),
}

/// What a search needs to do its work.
#[derive(Debug)]
pub(super) struct Tools<'a> {
    /// Says whom it waits for.
    pub(super) output: &'a Output,
    /// Ends it early.
    pub(super) signals: &'a Signals,
    /// Asks servers.
    pub(super) http: &'a HttpClient,
}

/// Finds the manifest. `engine` is called when peers have to be asked, and may start one.
///
/// # Errors
/// When it isn't there in time, or isn't what it should be.
pub(super) async fn find<F>(spec: &Spec, search: &Search<'_>, tools: &Tools<'_>, engine: F) -> Result<Found, Failure>
where
    F: AsyncFnOnce() -> Result<Option<Engine>, Failure>,
{
    match spec {
        Spec::Url(url) => from_url(url, search, tools, engine).await,
        Spec::File(path) => {
            let bytes = read_file(path)?;
            parse(&bytes, search.id).map(Found::here)
        }
        Spec::Stdin => {
            let bytes = tokio::task::spawn_blocking(|| read_capped(std::io::stdin().lock()));
            let bytes = bytes
                .await
                .map_err(|error| Failure::new(FailureKind::Bug, error.to_string()))?
                .map_err(|error| Failure::io("the manifest can't be read from", Path::new("stdin"), &error))?;
            parse(&bytes, search.id).map(Found::here)
        }
    }
}

async fn from_url<F>(url: &Url, search: &Search<'_>, tools: &Tools<'_>, engine: F) -> Result<Found, Failure>
where
    F: AsyncFnOnce() -> Result<Option<Engine>, Failure>,
{
    let id = match (url.content_id(), search.id) {
        (Some(link), Some(pinned)) if link != pinned => {
            let text = format!("the link names the content {link}, and --id asks for {pinned}");
            return Err(Failure::new(FailureKind::Input, text));
        }
        (link, pinned) => link.or(pinned),
    };
    let start = Instant::now();
    let limit = search.timeout.unwrap_or(MANIFEST_TIME);
    let others = id.is_some() && (!search.trackers.is_empty() || !search.peers.is_empty());
    let journal = || id.and_then(|id| search.journals.and_then(|place| journal(place, id)));
    let first = async {
        let late = Err(Attempt::Again(HttpError::Timeout(limit)));
        tokio::time::timeout(limit, attempt(url, id, tools.http)).await.unwrap_or(late)
    };
    tokio::pin!(first);
    // A host may take its time while nobody else is known.
    let alone = tokio::select! {
        result = &mut first => Some(result),
        () = tokio::time::sleep(ALONE), if others || search.journals.is_some() => None,
        stop = tools.signals.stopped() => return Err(stop.failure().hint("nothing was fetched yet")),
    };
    let (error, is_waited_for) = match alone {
        Some(Ok((manifest, giver))) => return Ok(Found { manifest, giver, journal: None }),
        Some(Err(Attempt::Final(failure))) => return Err(failure),
        Some(Err(Attempt::Again(error))) => (error, false),
        None => (HttpError::Timeout(ALONE), true),
    };
    if let Some((manifest, giver, out)) = journal() {
        let text = format!("{} can't be asked ({error}); going on from what {} knows", url.authority(), out.display());
        tools.output.say(&text);
        return Ok(Found { manifest, giver, journal: Some(out) });
    }
    let waiting = |error: &HttpError| tools.output.say(&format!("waiting for {}: {error}", url.authority()));
    if !is_waited_for {
        waiting(&error);
    } else if others {
        tools.output.say(&format!("{} takes its time; others are asked, too", url.authority()));
    }
    // Others may have the manifest too: anyone who has the content gives it out by its id.
    let engine = if others { engine().await? } else { None };
    let ask = async {
        let named = resolve_all(search.peers).await;
        match (&engine, id) {
            (Some(engine), Some(id)) => engine.find_manifest(id, search.trackers, &named, None).await,
            _ => std::future::pending().await,
        }
    };
    let again = async {
        let error = match if is_waited_for { Some(first.await) } else { None } {
            Some(Ok(found)) => return Ok(found),
            Some(Err(Attempt::Final(failure))) => return Err(failure),
            Some(Err(Attempt::Again(error))) => {
                waiting(&error);
                error
            }
            None => error,
        };
        retry(url, id, search, tools, start, error).await
    };
    tokio::select! {
        manifest = ask => Ok(Found::here(manifest?)),
        result = again => {
            let (manifest, giver) = result?;
            Ok(Found { manifest, giver, journal: None })
        }
        stop = tools.signals.stopped() => Err(stop.failure().hint("nothing was fetched yet")),
    }
}

/// Asks again until there is an answer, or the time is over.
async fn retry(
    url: &Url,
    id: Option<ContentId>,
    search: &Search<'_>,
    tools: &Tools<'_>,
    start: Instant,
    first: HttpError,
) -> Result<(Manifest, Reach), Failure> {
    // While bytes came nobody waited.
    let counts = |error: &HttpError, took: Duration| if error.answered() { took.min(ALONE) } else { took };
    let mut waited = counts(&first, start.elapsed());
    let (mut error, mut pause) = (first, PAUSE.0);
    let mut answered = false;
    loop {
        answered |= error.answered();
        let others = !search.trackers.is_empty() || !search.peers.is_empty();
        let stall = if search.stall.is_zero() { Duration::MAX } else { search.stall };
        let patience = if answered || others { stall } else { PATIENCE };
        let left = match search.timeout {
            Some(timeout) => timeout.saturating_sub(start.elapsed()),
            None => search.wait.unwrap_or(patience).saturating_sub(waited),
        };
        if left.is_zero() {
            let kind = if answered { FailureKind::Incomplete } else { FailureKind::Unreachable };
            let seconds = start.elapsed().as_secs();
            let mut failure =
                Failure::new(kind, format!("no manifest from {} after {seconds} s: {error}", url.authority()));
            for tracker in search.trackers {
                failure = failure.detail(format!("tracker {}: nobody who has it was found", tracker.name()));
            }
            for peer in search.peers {
                failure = failure.detail(format!("peer {peer}: not reached, or it has no such content"));
            }
            let hint = if others {
                "run the same command again later"
            } else {
                "is its seed running? -t and --peer name others to ask"
            };
            return Err(failure.hint(hint));
        }
        tokio::time::sleep(pause.min(left)).await;
        waited += pause.min(left);
        pause = (pause * 2).min(PAUSE.1);
        // An attempt that is under way when the user's time is over must not hold up the end; one in which bytes come may
        // take longer than anybody would wait for none.
        let longest = search.timeout.map_or(MANIFEST_TIME, |timeout| timeout.saturating_sub(start.elapsed()));
        let began = Instant::now();
        let result = tokio::time::timeout(longest.max(Duration::from_millis(10)), attempt(url, id, tools.http)).await;
        waited += match &result {
            Ok(Err(Attempt::Again(error))) => counts(error, began.elapsed()),
            _ => began.elapsed(),
        };
        match result {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(Attempt::Final(failure))) => return Err(failure),
            Ok(Err(Attempt::Again(next))) => error = next,
            Err(_) => {}
        }
    }
}

enum Attempt {
    Again(HttpError),
    Final(Failure),
}

async fn attempt(url: &Url, id: Option<ContentId>, http: &HttpClient) -> Result<(Manifest, Reach), Attempt> {
    let answer = http.fetch_bytes(url, ACCEPT, MANIFEST_BYTES, MANIFEST_TIME, Nearest::Anything).await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) if error.may_pass() => return Err(Attempt::Again(error)),
        // Of a link's content the host of the link has the last word; a peer to which it sent us on is a stranger.
        Err(error @ HttpError::Elsewhere(..)) if id.is_some() => return Err(Attempt::Again(error)),
        Err(error) => {
            let kind = match error {
                HttpError::Status { status: 401 | 403, .. } => FailureKind::Refused,
                _ => FailureKind::Input,
            };
            return Err(Attempt::Final(Failure::new(kind, format!("{url}: {error}"))));
        }
    };
    let (ip, elsewhere) = (answer.ip, !is_at_home(url, &answer.url));
    let parsed = tokio::task::spawn_blocking(move || parse(&answer.body, id))
        .await
        .unwrap_or_else(|error| Err(Failure::new(FailureKind::Bug, error.to_string())));
    match parsed {
        Ok(manifest) => Ok((manifest, reach(ip))),
        Err(failure) if elsewhere && id.is_some() => Err(Attempt::Again(HttpError::Broken(failure.to_string()))),
        Err(failure) => Err(Attempt::Final(failure)),
    }
}

/// Reads a manifest and insists on its id. Another id than the one asked for is data that failed verification.
fn parse(bytes: &[u8], id: Option<ContentId>) -> Result<Manifest, Failure> {
    let result = match id {
        Some(id) => Manifest::parse_with_id(bytes, id),
        None => Manifest::parse(bytes),
    };
    result.map_err(|error| match error {
        ManifestError::WrongId { .. } => Failure::new(FailureKind::Integrity, error.to_string()),
        error => Failure::from(error),
    })
}

fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error: &std::io::Error| {
        let mut failure = Failure::io("the manifest can't be read:", path, error);
        failure.kind = FailureKind::Input;
        failure
    };
    let file = std::fs::File::open(path).map_err(|error| failed(&error))?;
    read_capped(file).map_err(|error| failed(&error))
}

fn read_capped(from: impl std::io::Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more shows that there is more.
    from.take(MANIFEST_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// All CVs of a content from the server of its link, proven by the files' roots; `None` if it has none or others.
///
/// They tell which parts of what is on disk are good before anything is asked of peers.
pub(super) async fn cvs_from(url: &Url, manifest: &Manifest, http: &HttpClient) -> Option<Vec<Hash>> {
    if url.content_id() != Some(manifest.id()) {
        return None;
    }
    let url = url.below("/cvs");
    let count = manifest.geometry().cvs() as usize;
    let length = count * size_of::<Hash>();
    let answer = http.fetch_bytes(&url, "application/octet-stream", length, CVS_TIME, Nearest::Anything).await.ok()?;
    let (cvs, rest) = answer.body.as_chunks::<{ size_of::<Hash>() }>();
    let proven = |file: &Large| {
        let own = cvs.get(file.cvs());
        own.and_then(root_of) == Some(manifest.root(file.entry))
    };
    let fits = rest.is_empty() && cvs.len() == count && manifest.geometry().large().iter().all(proven);
    fits.then(|| cvs.to_vec())
}

/// A fetch of this content that was under way: its manifest and its target.
fn journal(place: Journals<'_>, id: ContentId) -> Option<(Manifest, Reach, PathBuf)> {
    let look = |out: PathBuf| {
        let (manifest, giver) = read_journal_manifest(&out)?;
        (manifest.id() == id).then_some((manifest, giver, out))
    };
    match place {
        Journals::Of(out) => look(out.to_owned()),
        Journals::In(dir) => std::fs::read_dir(dir)
            .ok()?
            .flatten()
            .take(JOURNALS * 64)
            .filter_map(|entry| {
                let name = entry.file_name();
                match name.as_bytes().strip_suffix(b".part.journal") {
                    Some(out) => Some(dir.join(OsStr::from_bytes(out))),
                    // What is fetched into a directory that was there has its journal inside.
                    None => entry
                        .file_type()
                        .is_ok_and(|kind| kind.is_dir())
                        .then(|| entry.path())
                        .filter(|p| unfinished(p)),
                }
            })
            .take(JOURNALS)
            .find_map(look),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::tests::named;

    #[test]
    fn what_was_written_is_told_apart() {
        assert!(matches!(Spec::parse("-"), Ok(Spec::Stdin)));
        assert!(matches!(Spec::parse("a.manifest"), Ok(Spec::File(_))));
        assert!(matches!(Spec::parse("http://h/m/x"), Ok(Spec::Url(_))));
        let error = Spec::parse("http://h/m/x#key").unwrap_err();
        assert_eq!(error.kind.exit_code(), 3);
        assert!(error.message.contains("'#'"));
        assert_eq!(Spec::parse("ftp://h/x").unwrap_err().kind.exit_code(), 3);
    }

    #[test]
    fn another_id_is_an_integrity_failure() {
        let bytes = named("a").to_binary();
        assert!(parse(&bytes, Some(named("b").id())).is_ok());
        assert_eq!(parse(&bytes, Some(ContentId([0; 32]))).unwrap_err().kind, FailureKind::Integrity);
        assert_eq!(parse(b"{}", None).unwrap_err().kind, FailureKind::Input);
    }
}
