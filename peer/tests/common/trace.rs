//! Faults at single system calls, by strace.

use super::{Running, World};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Calls that change what is on a disk. `write` is left out: a fetch writes files by position, and pipes and wakers are not
/// the disk.
pub(crate) const CALLS: &str = "pwrite64,pwritev,ftruncate,fallocate,fsync,fdatasync,syncfs,rename,renameat,renameat2,unlink,\
                                unlinkat,mkdir,mkdirat,rmdir,symlinkat,linkat,fchmod,fchmodat,fsetxattr,setxattr,utimensat,\
                                copy_file_range";
/// Of each kind of call so many are tried by default.
const TRIED: usize = 3;

/// Whether programs can be traced here; says so where not.
pub(crate) fn can_trace() -> bool {
    let trace = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    let can = trace.is_ok_and(|status| status.success());
    if !can {
        super::skipped("strace is missing or may not trace");
    }
    can
}

/// A program under strace.
pub(crate) fn traced(world: &World, options: &[&str], program: &Path, words: &[&str]) -> Running {
    let mut all = vec!["-f", "-qq"];
    all.extend(options);
    all.push(program.to_str().unwrap());
    all.extend(words);
    Running::of(&mut world.command(Path::new("strace"), &all), &all)
}

/// How often each of some calls is in a trace.
pub(crate) fn counted(trace: &Path, calls: &str) -> BTreeMap<String, usize> {
    let mut out = BTreeMap::new();
    for line in fs::read_to_string(trace).unwrap().lines() {
        // PID CALL(…
        let name =
            line.split_whitespace().nth(1).and_then(|call| call.split_once('(')).map(|(name, _)| name.to_owned());
        if let Some(name) = name.filter(|name| calls.split(',').any(|call| call == name)) {
            *out.entry(name).or_insert(0) += 1;
        }
    }
    out
}

/// The calls to try, as (call, number): all with `SHOAL_FAULTS=all`, else some of each kind, spread over all.
pub(crate) fn sites(calls: &BTreeMap<String, usize>) -> Vec<(String, usize)> {
    let all = std::env::var("SHOAL_FAULTS").is_ok_and(|v| v == "all");
    let mut out = Vec::new();
    for (call, count) in calls {
        let step = if all { 1 } else { count.div_ceil(TRIED).max(1) };
        out.extend((1..=*count).step_by(step).map(|at| (call.clone(), at)));
    }
    out
}

/// Sends a signal to the program that a strace runs, which keeps signals to itself.
pub(crate) fn signal_traced(strace: &Running, signal: Signal) {
    let pid = strace.pid();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        super::signal_pid(child, signal);
    }
}
