//! Does one thing for each of many pieces on all cores, in ascending order, so that disks that turn read forwards.
//!
//! The first error stops everybody. So does the flag: then what is done so far comes back, and the caller looks at the flag.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// Calls `work` for `0..count`. Each worker has a state of its own, made by `start`; all of them are returned.
pub(crate) fn for_each<S: Send, E: Send>(
    count: u32,
    cancelled: &AtomicBool,
    start: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, u32) -> Result<(), E> + Sync,
) -> Result<Vec<S>, E> {
    let next = AtomicU32::new(0);
    let failed: Mutex<Option<E>> = Mutex::new(None);
    let stop = AtomicBool::new(false);
    let run = || {
        let mut state = start();
        while !cancelled.load(Ordering::Relaxed) && !stop.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            // The counter can't wrap: each worker goes past the end once.
            if at >= count {
                break;
            }
            if let Err(error) = work(&mut state, at) {
                stop.store(true, Ordering::Relaxed);
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                break;
            }
        }
        state
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(count.max(1) as usize);
    let states = std::thread::scope(|scope| {
        let others: Vec<_> =
            (1..threads).filter_map(|_| std::thread::Builder::new().spawn_scoped(scope, run).ok()).collect();
        let mut states = vec![run()];
        for other in others {
            match other.join() {
                Ok(state) => states.push(state),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        states
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(states),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(all: &mut Vec<u32>, i: u32) -> Result<(), ()> {
        all.push(i);
        Ok(())
    }

    #[test]
    fn each_is_done_once_and_errors_stop_all() {
        let go = AtomicBool::new(false);
        let states = for_each(1000, &go, Vec::new, push).unwrap();
        let mut all = states.concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..1000));
        assert_eq!(for_each(1000, &go, || (), |(), i| if i == 17 { Err(i) } else { Ok(()) }).unwrap_err(), 17);
        let stop = AtomicBool::new(true);
        assert!(for_each(1000, &stop, Vec::new, push).unwrap().concat().is_empty());
    }
}
