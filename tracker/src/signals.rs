//! Signals: the first that asks for an end gets an orderly one, the second an immediate one, USR1 a line of status.

use crate::process::hang_up_is_ignored;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that mean something to a tracker.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// `None` where a closing terminal doesn't matter.
    hang_up: Option<Signal>,
    status: Signal,
}

impl Signals {
    /// Starts listening.
    ///
    /// # Errors
    /// When the system gives no signals.
    pub(crate) fn new() -> std::io::Result<Self> {
        // A file that may not grow further is an error of that write, not the end of the process without a word.
        drop(signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?);
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: if hang_up_is_ignored() { None } else { Some(signal(SignalKind::hangup())?) },
            status: signal(SignalKind::user_defined1())?,
        })
    }

    /// Waits for one that asks for an end; gives the exit code that it stands for. `status` is called for each USR1 before.
    pub(crate) async fn next(&mut self, status: impl Fn()) -> u8 {
        loop {
            let hang_up = async {
                match &mut self.hang_up {
                    Some(signal) => signal.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.interrupt.recv() => return 130,
                _ = self.terminate.recv() => return 143,
                _ = hang_up => return 143,
                _ = self.status.recv() => status(),
            }
        }
    }
}
