//! Descriptors, of files and sockets together: a process begins with a part of what it may have, 1,024 mostly, as old programs
//! can't use more.

/// Asks for as many as may be had; says how many there are.
#[must_use]
pub fn take_all() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
