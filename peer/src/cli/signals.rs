//! Signals: the first asks for an orderly end, the second gets an immediate one, USR1 a line of progress.

use super::output::Output;
use crate::failure::{Failure, FailureKind};
use shoal_tracker::process::hang_up_is_ignored;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How long a last record may take, after which the process is gone.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Why an end is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// SIGINT.
    Interrupted,
    /// SIGTERM, or SIGHUP of a terminal that closes.
    Terminated,
    /// Nobody reads stdout any more.
    Unread,
}

impl Stop {
    /// The failure of a command that wasn't done yet.
    #[must_use]
    pub(super) fn failure(self) -> Failure {
        match self {
            Self::Interrupted => Failure::new(FailureKind::Interrupted, "interrupted"),
            Self::Terminated => Failure::new(FailureKind::Terminated, "terminated"),
            Self::Unread => Failure::new(FailureKind::Terminated, "nobody reads the output any more"),
        }
    }
}

/// What was asked for so far. Clones see the same.
#[derive(Debug, Clone)]
pub(super) struct Signals {
    stop: watch::Receiver<Option<Stop>>,
    usr1: watch::Receiver<u64>,
    /// How many of them were answered, by whichever part of a command was at work.
    answered: Arc<AtomicU64>,
    cancelled: Arc<AtomicBool>,
}

impl Signals {
    /// Starts listening.
    ///
    /// # Errors
    /// When the system gives no signals.
    pub(super) fn install(output: &Output) -> io::Result<Self> {
        let (stop_tx, stop) = watch::channel(None);
        let (usr1_tx, usr1) = watch::channel(0_u64);
        let cancelled = Arc::new(AtomicBool::new(false));
        let mut int = signal(SignalKind::interrupt())?;
        let mut term = signal(SignalKind::terminate())?;
        // `nohup` means that a closing terminal doesn't matter.
        let mut hup = if hang_up_is_ignored() { None } else { Some(signal(SignalKind::hangup())?) };
        let mut one = signal(SignalKind::user_defined1())?;
        // A file that may not grow further is an error of that write, not the end of the process without a word.
        drop(signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?);
        let (flag, output) = (Arc::clone(&cancelled), output.clone());
        tokio::spawn(async move {
            let mut asked = false;
            loop {
                let what = tokio::select! {
                    _ = int.recv() => Stop::Interrupted,
                    _ = term.recv() => Stop::Terminated,
                    () = async { match &mut hup { Some(hup) => { hup.recv().await; } None => std::future::pending().await } } => Stop::Terminated,
                    () = output.closed(), if !asked => Stop::Unread,
                    _ = one.recv() => {
                        usr1_tx.send_modify(|count| *count += 1);
                        continue;
                    }
                };
                if asked {
                    leave(what, &output);
                }
                asked = true;
                flag.store(true, Ordering::Relaxed);
                stop_tx.send_replace(Some(what));
            }
        });
        Ok(Self { stop, usr1, answered: Arc::default(), cancelled })
    }

    /// Returns when an end is asked for.
    pub(super) async fn stopped(&self) -> Stop {
        let mut stop = self.stop.clone();
        match stop.wait_for(Option::is_some).await.map(|stop| *stop) {
            Ok(Some(stop)) => stop,
            _ => std::future::pending().await,
        }
    }

    /// The end that was asked for, if one was.
    #[must_use]
    pub(super) fn asked(&self) -> Option<Stop> {
        *self.stop.borrow()
    }

    /// Returns at the next USR1.
    pub(super) async fn usr1(&mut self) {
        loop {
            let asked = *self.usr1.borrow_and_update();
            if self.answered.fetch_max(asked, Ordering::Relaxed) < asked {
                return;
            }
            if self.usr1.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Set once an end is asked for; for loops that block a thread.
    #[must_use]
    pub(super) fn cancelled(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cancelled)
    }
}

/// The second signal: what is on disk is always fit to go on from, so nothing has to be saved.
#[expect(clippy::exit, reason = "the user asked twice; every destructor could wait for something")]
fn leave(stop: Stop, output: &Output) -> ! {
    let failure = stop.failure();
    let code = failure.kind.exit_code().into();
    // Whoever reads records waits for the last one; but nobody may read, and then the write would wait for ever.
    let (output, (told, is_told)) = (output.clone(), std::sync::mpsc::channel());
    let tell = move || {
        output.last_record(&failure);
        let _ = told.send(());
    };
    if std::thread::Builder::new().spawn(tell).is_ok() {
        let _ = is_told.recv_timeout(LAST_WORDS);
    }
    std::process::exit(code)
}
