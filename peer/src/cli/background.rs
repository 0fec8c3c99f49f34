//! `fetch --background`: the serving goes on in a process of its own.
//!
//! A process with threads can't be forked safely, so the program starts itself again with a hidden command. The child
//! leaves the terminal's session, serves, and says so on a pipe; only then does the parent return.

use super::args::{BackgroundArgs, NetArgs, SeedFor};
use super::output::Outcome;
use super::signals::{Signals, Stop};
use super::{Context, fetch, staying};
use crate::engine::{Handle, TrackerUrl};
use crate::failure::{Failure, FailureKind};
use crate::net::http_client::Nearest;
use crate::store::{default_state_dir, private_dir};
use serde::Serialize;
use shoal_protocol::Manifest;
use shoal_protocol::announce::StopReason;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

/// What the child says once it serves; anything else is why it doesn't.
const SERVING: &str = "serving";
/// How long a tracker's first answer is waited for.
const ANNOUNCED: Duration = Duration::from_secs(2);

/// What stands in the list of background processes.
#[derive(Serialize)]
struct Entry<'a> {
    pid: u32,
    id: String,
    #[serde(serialize_with = "super::output::lossy")]
    path: &'a Path,
    port: u16,
    since: String,
    seed_for: String,
}

/// Starts a process that serves a complete content, and returns once it does.
pub(super) async fn start(
    manifest: &Manifest,
    path: &Path,
    trackers: &[TrackerUrl],
    seed_for: SeedFor,
    net: &NetArgs,
    context: &Context,
) -> Result<(), Failure> {
    let dir = default_state_dir().join("background");
    let failed = |what: &str, error: &io::Error| Failure::io(what, &dir, error).hint("the content itself is complete");
    private_dir(&dir).map_err(|error| failed("the background process can't be listed in", &error))?;
    let mut file = tempfile::Builder::new()
        .prefix("start-")
        .suffix(".manifest")
        .tempfile_in(&dir)
        .map_err(|error| failed("the manifest can't be written to", &error))?;
    file.write_all(&manifest.to_binary_with_hints())
        .map_err(|error| failed("the manifest can't be written to", &error))?;
    let path = fs::canonicalize(path).map_err(|error| Failure::io("can't read", path, &error))?;
    let log_path = dir.join("log");
    let log = fs::File::options().create(true).append(true).open(&log_path);
    let log = log.map_err(|error| failed("the log can't be opened in", &error))?;
    let itself = super::itself();
    let mut command = itself.map_err(|error| failed("this program can't be found to start it again for", &error))?;
    command
        .args(arguments(file.path(), &path, trackers, seed_for, net))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        // Nothing that holds a directory busy, such as a mount that the user wants to undo.
        .current_dir("/");
    let mut child = command.spawn().map_err(|error| failed("the background process can't be started for", &error))?;
    let pid = child.id();
    let pipe = child.stdout.take();
    let said = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        // The child's end without a word shows as an empty line.
        if let Some(pipe) = pipe {
            let _ = BufReader::new(pipe).read_line(&mut line);
        }
        line
    });
    let said = tokio::select! {
        said = said => said.unwrap_or_default(),
        stop = told_to_stop(&context.signals) => {
            let _ = child.kill();
            let _ = child.wait();
            return Err(stop.failure().hint("the content itself is complete"));
        }
    };
    if said.trim() == SERVING {
        context.output.say(&format!("serving goes on in the background: process {pid} (kill {pid} ends it)"));
        return Ok(());
    }
    // Gone or going: taken off the system's list, so that nothing is left behind.
    let _ = child.kill();
    let _ = child.wait();
    let text = format!("the background process {pid} did not start serving");
    Err(Failure::new(FailureKind::Local, text)
        .detail(format!("see {}", log_path.display()))
        .hint("the content itself is complete"))
}

/// Who closed its end of stdout doesn't want an end of that.
async fn told_to_stop(signals: &Signals) -> Stop {
    match signals.stopped().await {
        Stop::Unread => std::future::pending().await,
        stop => stop,
    }
}

fn arguments(manifest: &Path, path: &Path, trackers: &[TrackerUrl], seed_for: SeedFor, net: &NetArgs) -> Vec<OsString> {
    let mut out: Vec<OsString> = vec!["--no-config".into(), "-q".into(), "background-serve".into()];
    let mut flag = |name: &str, value: OsString| {
        out.push(name.into());
        out.push(value);
    };
    flag("--manifest", manifest.into());
    flag("--path", path.into());
    flag("--seed-for", spelled(seed_for).into());
    for TrackerUrl { url, nearest } in trackers {
        let name = match nearest {
            Nearest::Anything => "--tracker",
            Nearest::Private => "--tracker-of-neighbour",
            Nearest::Global => "--tracker-of-stranger",
        };
        // A comma would end it, and means the same in this spelling.
        flag(name, url.to_string().replace(',', "%2C").into());
    }
    if let Some(listen) = &net.listen {
        let ip = listen
            .ip
            .map_or_else(|| "[::]".to_owned(), |ip| if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() });
        flag("--listen", format!("{ip}:{}-{}", listen.ports.start(), listen.ports.end()).into());
    }
    for addr in &net.advertise {
        flag("--advertise", addr.to_string().into());
    }
    if let Some(zone) = &net.zone {
        flag("--zone", zone.into());
    }
    if let Some(rate) = net.max_upload {
        flag("--max-upload", rate.to_string().into());
    }
    flag("--max-peers", net.max_peers.to_string().into());
    out
}

fn spelled(seed_for: SeedFor) -> String {
    match seed_for {
        SeedFor::Auto => "auto".to_owned(),
        SeedFor::Forever => "forever".to_owned(),
        SeedFor::Time(time) => format!("{}ms", time.as_millis()),
    }
}

/// Leaves the terminal's session, so that its end isn't ours.
pub(super) fn detach() {
    // Fails only for the leader of a session, which has nothing to leave.
    let _ = rustix::process::setsid();
}

/// Takes its file off the list at the end, however that comes.
struct Listed(PathBuf);

impl Drop for Listed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Waits until a tracker knows of us, for a moment: whoever comes when the parent has ended should find us, and spare the
/// origin.
async fn announced(handle: &Handle) {
    let mut stats = handle.stats.clone();
    let known = stats.wait_for(|now| now.trackers.iter().any(|t| t.state.is_some()));
    let _ = tokio::time::timeout(ANNOUNCED, known).await;
}

/// The child: serves a finished content.
pub(super) async fn serve(args: BackgroundArgs, context: Context) -> Result<Outcome, Failure> {
    let bytes = fs::read(&args.manifest).map_err(|error| Failure::io("can't read", &args.manifest, &error))?;
    // It was written for this process alone; who started it may be gone by now.
    let _ = fs::remove_file(&args.manifest);
    let manifest = Arc::new(Manifest::parse(&bytes)?);
    let config = fetch::engine_config(&args.net, true, false, false);
    let (ours, near, far) = (&args.net.tracker, &args.tracker_of_neighbour, &args.tracker_of_stranger);
    let named = [(ours, Nearest::Anything), (near, Nearest::Private), (far, Nearest::Global)];
    let trackers: Vec<TrackerUrl> = named
        .iter()
        .flat_map(|(urls, nearest)| urls.iter().map(|url| TrackerUrl { url: url.clone(), nearest: *nearest }))
        .collect();
    let has_trackers = !trackers.is_empty();
    let content = staying::Finished { manifest: Arc::clone(&manifest), path: &args.path, trackers };
    let (engine, handle) = staying::serve(content, config, &context).await?;
    let port = engine.local_addr().port();
    let list = default_state_dir().join("background").join(format!("{}.json", std::process::id()));
    let entry = Entry {
        pid: std::process::id(),
        id: manifest.id().to_string(),
        path: &args.path,
        port,
        since: shoal_protocol::units::rfc3339(super::output::since_epoch()),
        seed_for: spelled(args.seed_for),
    };
    let text = serde_json::to_string(&entry).unwrap_or_default();
    fs::write(&list, text + "\n").map_err(|error| Failure::io("can't write", &list, &error))?;
    let listed = Listed(list);
    if has_trackers {
        announced(&handle).await;
    }
    context.output.data(SERVING);
    staying::stay(&handle, args.seed_for, true, &context, &crate::names::shown_name(&manifest), port).await;
    handle.stop(StopReason::Done).await;
    engine.shutdown().await;
    drop(listed);
    Ok(Outcome::plain())
}
