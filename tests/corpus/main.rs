//! What hostile people send, by every door by which it can come in. The cases are tables, named by their rows in the
//! list of threats: [`manifests`] (P), [`frames`] (R), [`requests`] (C), [`answers`] (T), [`journals`] (L11). The real
//! binary meets a part of them in `peer/tests/corpus.rs`.
#![expect(clippy::unwrap_used, reason = "a test that can not go on should stop where it stands")]

mod answers;
mod doors;
mod frames;
mod journals;
mod manifests;
mod requests;

use std::future::Future;

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test)
}
