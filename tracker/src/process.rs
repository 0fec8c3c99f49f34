//! What either program asks the system about its own process.

/// Asks for as many descriptors, of files and sockets together, as may be had; says how many there are. A process begins with a
/// part of them, 1,024 mostly, as old programs can't use more.
#[must_use]
pub fn take_all_descriptors() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Whether whoever started this process said with `nohup` that a closing terminal doesn't matter.
#[must_use]
pub fn hang_up_is_ignored() -> bool {
    const HUP_BIT: u64 = 1;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).map(str::trim);
    mask.and_then(|mask| u64::from_str_radix(mask, 16).ok()).is_some_and(|mask| mask & HUP_BIT != 0)
}
