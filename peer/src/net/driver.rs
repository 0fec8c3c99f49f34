//! The lock around one swarm, its clock and its end.
//!
//! Whoever has an event tells it here and runs the logic on its own thread: a reader whose block is whole knows at once what
//! to do with it, and a writer that has sent one has the next. A queue to a task would cost waking that task, and being woken
//! by it, for every block. The lock is held for microseconds and never while anybody waits for anything. The task that runs
//! here is left with what no event brings: time, and the end.
//!
//! A panic in the logic would be a defect. It must not go on with what is left then: the swarm ends, and its fetch says so.

use super::announce;
use super::events::{Event, Events};
use super::swarm_io::{SwarmIo, Work};
use crate::swarm::{self, Input, Swarm, Time};
use shoal_protocol::announce::{Event as AnnounceEvent, StopReason};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

const STATS: Duration = Duration::from_millis(250);
/// Longest time that saying goodbye may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// One swarm and its lock.
pub struct Driver {
    swarm: Mutex<Guarded>,
    /// The clock's task should look: something is due earlier than it thinks, or the end has come nearer.
    look: Notify,
    cancel: CancellationToken,
}

struct Guarded {
    io: SwarmIo,
    /// For when the clock is set.
    armed: Time,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}

impl Driver {
    /// A swarm, made with where its events are to be told. It does nothing before [`run`](Self::run).
    pub fn new(work: impl FnOnce(Events) -> (Work, swarm::Config)) -> Arc<Self> {
        Arc::new_cyclic(|own| {
            let (work, config) = work(Events(own.clone()));
            Self {
                cancel: work.cancel.clone(),
                swarm: Mutex::new(Guarded { io: SwarmIo::new(work, Swarm::new(Time(0), config)), armed: Time(0) }),
                look: Notify::new(),
            }
        })
    }

    /// Where its events are told.
    pub fn events(self: &Arc<Self>) -> Events {
        Events(Arc::downgrade(self))
    }

    fn lock(&self) -> MutexGuard<'_, Guarded> {
        self.swarm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an event.
    pub(super) fn tell(&self, event: Event) {
        let Ok(mut swarm) = self.swarm.lock() else {
            self.cancel.cancel();
            return;
        };
        swarm.io.event(event);
        if swarm.io.stopping || swarm.io.stop.is_some() || swarm.io.swarm.next_timeout() < swarm.armed {
            drop(swarm);
            self.look.notify_one();
        }
    }

    #[cfg(test)]
    pub(super) fn panic_inside(self: &Arc<Self>) {
        let driver = Arc::clone(self);
        let inside = std::thread::spawn(move || {
            let _swarm = driver.lock();
            panic!("a test's defect in the logic");
        });
        assert!(inside.join().is_err());
    }

    /// Runs the swarm until it is stopped.
    pub async fn run(self: Arc<Self>) {
        self.lock().io.begin();
        let mut stats_due = tokio::time::interval(STATS);
        stats_due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.swarm.is_poisoned() {
            let (wait, stop) = {
                let mut swarm = self.lock();
                swarm.armed = swarm.io.swarm.next_timeout();
                (swarm.armed.since(swarm.io.now()), swarm.io.stop.take())
            };
            if let Some((reason, done)) = stop {
                self.stop(reason).await;
                let _ = done.send(());
                return;
            }
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return,
                () = tokio::time::sleep(wait) => self.lock().io.input(Input::Timeout),
                () = self.look.notified() => {}
                _ = stats_due.tick() => {
                    let mut swarm = self.lock();
                    swarm.io.publish();
                    swarm.io.checkpoint();
                }
            }
        }
        self.cancel.cancel();
    }

    async fn stop(&self, reason: StopReason) {
        let (farewells, saving) = {
            let io = &mut self.lock().io;
            io.stopping = true;
            let reason = io.disk_failed.unwrap_or(reason);
            let announcement = io.announcement(AnnounceEvent::Stopped, 0, Some(reason));
            let mut farewells = Vec::new();
            for (at, state) in io.job.trackers.iter().zip(&io.numbers.trackers) {
                if matches!(state.state, Some(Ok(_))) {
                    let (core, at, announcement) = (Arc::clone(&io.job.core), at.clone(), announcement.clone());
                    farewells.push(io.job.core.tasks.spawn(async move {
                        let _ = tokio::time::timeout(FAREWELL, announce::announce(&core, &at, &announcement)).await;
                    }));
                }
            }
            io.links.leave();
            let saving = io.job.place.clone().map(|place| {
                let peers = io.swarm.worth_keeping();
                tokio::task::spawn_blocking(move || {
                    place.download.remember_peers(&peers);
                    place.download.save();
                })
            });
            (farewells, saving)
        };
        if let Some(saving) = saving {
            let _ = saving.await;
        }
        // Each connection says when it is closed; none takes longer than its own two seconds.
        let closing = async {
            while !self.lock().io.links.are_gone() {
                self.look.notified().await;
            }
        };
        let _ = tokio::time::timeout(FAREWELL, closing).await;
        for farewell in farewells {
            let _ = farewell.await;
        }
        self.lock().io.publish();
        self.cancel.cancel();
    }
}
