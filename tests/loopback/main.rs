//! Whole engines with real sockets and disks in one process, each test named by the rule that it shows.
#![expect(clippy::unwrap_used, reason = "a test that can not go on should stop where it stands")]

mod contact;
mod ends;
mod evil;
mod hostile;
mod http;
mod lossy;
mod manifests;
mod transfer;

use std::future::Future;
use std::sync::{Mutex, PoisonError};

/// Several tests count the descriptors and threads of the process, so one runs at a time; two workers are what the
/// smallest machine has.
fn run<T>(test: impl Future<Output = T>) -> T {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test)
}
