//! How things end: resuming, and nothing left behind.

use crate::run;
use harness::loopback::{Content, PATIENCE, complete, engine};
use shoal_peer::engine::{Engine, EngineConfig};
use shoal_protocol::announce::StopReason;
use std::time::{Duration, Instant};

#[test]
fn a_fetch_whose_engine_is_gone_without_a_word_goes_on_where_it_was() {
    let content = Content::file(60, 8 << 20, 1 << 16);
    let dir = tempfile::tempdir().unwrap();
    // The runtime ends in the middle, as a process does that is killed: nothing is saved.
    run(async {
        let slow = EngineConfig { max_upload: 8 << 20, ..EngineConfig::on_loopback() };
        let (a, b) = (Engine::start(slow).await.unwrap(), engine().await);
        let _seed = content.seed(&a, &[]);
        let mut fetch = content.fetch(&b, dir.path(), &[a.local_addr()], &[]);
        let some = fetch.stats.wait_for(|s| s.done > 1 << 20);
        tokio::time::timeout(PATIENCE, some).await.unwrap().unwrap();
    });
    run(async {
        let (a, b) = (engine().await, engine().await);
        let seed = content.seed(&a, &[]);
        let mut fetch = content.fetch(&b, dir.path(), &[a.local_addr()], &[]);
        assert!(content.is_at(&complete(&mut fetch).await));
        let stats = fetch.stats.borrow().clone();
        assert!(stats.resumed > 1 << 20, "{stats:?}");
        assert!(stats.downloaded <= stats.total - stats.resumed, "{stats:?}");
        fetch.stop(StopReason::Done).await;
        seed.stop(StopReason::Done).await;
    });
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

fn threads_of_disks() -> usize {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0 };
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    tasks.flatten().map(name).filter(|name| name.starts_with("disk-")).count()
}

#[test]
fn after_shutdown_no_task_no_descriptor_and_no_thread_is_left() {
    run(async {
        let content = Content::file(61, 4 << 20, 1 << 18);
        let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        // What a test before this one left to its threads is theirs.
        let start = Instant::now();
        while threads_of_disks() > 0 && start.elapsed() < PATIENCE {
            tokio::task::yield_now().await;
        }
        let before = (tasks(), descriptors());
        for stopped in [true, false] {
            let (a, b, dir) = (engine().await, engine().await, tempfile::tempdir().unwrap());
            let seed = content.seed(&a, &[]);
            let mut fetch = content.fetch(&b, dir.path(), &[a.local_addr()], &[]);
            complete(&mut fetch).await;
            if stopped {
                fetch.stop(StopReason::Done).await;
                seed.stop(StopReason::Done).await;
            } else {
                drop((fetch, seed));
            }
            let start = Instant::now();
            a.shutdown().await;
            b.shutdown().await;
            assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        }
        // The threads end on their own once nobody can give them work.
        let start = Instant::now();
        while (tasks() > before.0 || descriptors() > before.1 || threads_of_disks() > 0) && start.elapsed() < PATIENCE {
            tokio::task::yield_now().await;
        }
        let after = (tasks(), descriptors());
        assert!(after.0 <= before.0 && after.1 <= before.1, "{before:?} became {after:?}");
        assert_eq!(threads_of_disks(), 0);
    });
}
