//! What differs between systems: everything else in the store is plain Unix.
//!
//! Where a system lacks something, the answer is the safe one: no boot id means that nothing unsynced is trusted, no
//! extended attributes means that records go to the state directory.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Tells one run of the machine from the next; `None` where that isn't known.
pub(crate) fn boot_id() -> Option<[u8; 16]> {
    let text = std::fs::read("/proc/sys/kernel/random/boot_id").ok()?;
    blake3::hash(text.trim_ascii()).as_bytes().first_chunk().copied()
}

/// Gives a file its final size, with room on the disk behind it where the filesystem can.
pub(crate) fn allocate(file: &File, size: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if size >= ALLOCATE_MIN && !is_in_memory(file) {
        use rustix::io::Errno;
        match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, size) {
            Ok(()) => return file.set_len(size),
            // The C library's own fallback would write zeros; a sparse file is better.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    file.set_len(size)
}

/// A filesystem in memory has nothing to keep together, and giving it room means clearing every page before it is
/// written: a tenth of the receiver's time for 2 GiB.
#[cfg(target_os = "linux")]
fn is_in_memory(file: &File) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|found| found.f_type == TMPFS_MAGIC)
}

/// See statfs(2).
#[cfg(target_os = "linux")]
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

/// Below this, asking for room costs more than it saves.
#[cfg(target_os = "linux")]
const ALLOCATE_MIN: u64 = 1 << 20;

/// Flushes the whole filesystem of `fd`; `Ok(false)` where that can't be asked for.
pub(crate) fn sync_filesystem(fd: impl AsFd) -> io::Result<bool> {
    #[cfg(target_os = "linux")]
    {
        rustix::fs::syncfs(fd)?;
        Ok(true)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = fd;
        Ok(false)
    }
}

/// Free room for a normal user: bytes, and files if that number is limited.
pub(crate) fn free_space(fd: impl AsFd) -> io::Result<(u64, Option<u64>)> {
    let stat = rustix::fs::fstatvfs(fd)?;
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), (stat.f_files > 0).then_some(stat.f_favail)))
}

/// How renaming treats something that has the new name already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replace {
    /// Fail with `AlreadyExists`.
    Never,
    /// The two names swap what they name.
    Exchange,
}

/// Renames; `Unsupported` where `how` can't be had in one step.
pub(crate) fn rename(from: &Path, to: &Path, how: Replace) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        let flags = match how {
            Replace::Never => RenameFlags::NOREPLACE,
            Replace::Exchange => RenameFlags::EXCHANGE,
        };
        renameat_with(CWD, from, CWD, to, flags).map_err(|error| match error {
            Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP => io::ErrorKind::Unsupported.into(),
            other => other.into(),
        })
    }
    #[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
    {
        let _ = (from, to, how);
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Sets an extended attribute; `false` where that doesn't work.
pub(crate) fn set_attribute(path: &Path, name: &str, value: &[u8]) -> bool {
    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    return rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).is_ok();
    #[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
    {
        let _ = (path, name, value);
        false
    }
}

/// Reads an extended attribute of at most `limit` bytes.
pub(crate) fn attribute(path: &Path, name: &str, limit: usize) -> Option<Vec<u8>> {
    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    {
        let mut value = vec![0_u8; limit];
        let length = rustix::fs::getxattr(path, name, &mut value[..]).ok()?;
        value.truncate(length);
        Some(value)
    }
    #[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
    {
        let _ = (path, name, limit);
        None
    }
}

/// How many descriptors this process may have, of files and sockets together.
pub(crate) fn descriptors() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many files a cache may keep open: an eighth of what the process may have, so that sockets find room too.
pub(crate) fn open_files_budget() -> usize {
    (descriptors() / 8).clamp(8, 256) as usize
}

/// Where caches and records go: `$XDG_STATE_HOME/shoal`, `~/.local/state/shoal`, or a private directory below the
/// system's temporary one where there is no home.
#[must_use]
pub fn default_state_dir() -> PathBuf {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(dir) = absolute("XDG_STATE_HOME") {
        return dir.join("shoal");
    }
    if let Some(home) = absolute("HOME").filter(|home| home.is_dir()) {
        return home.join(".local/state/shoal");
    }
    std::env::temp_dir().join(format!("shoal-{}", rustix::process::geteuid().as_raw()))
}

/// Brings what lies at a path to the disk, with all else on its filesystem; `false` where that can't be done at once.
pub(crate) fn flush(path: &Path) -> bool {
    File::open(path).and_then(sync_filesystem).unwrap_or(false)
}

/// Makes a directory that only this user may use. One that someone else owns is refused: in a shared temporary
/// directory anybody may have made it first.
pub(crate) fn private_dir(path: &Path) -> io::Result<()> {
    private_dir_of(path, rustix::process::geteuid().as_raw())
}

fn private_dir_of(path: &Path, user: u32) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let found = std::fs::metadata(path)?;
    if found.uid() != user {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the state directory belongs to another user"));
    }
    Ok(())
}

/// Whether somebody made what has this name who may change it behind our back: neither we, nor the system's user, nor the
/// owner of the directory, who can put another in its place anyway.
pub(crate) fn is_foreign(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let made_by = std::fs::symlink_metadata(path)?.uid();
    if [rustix::process::geteuid().as_raw(), 0, std::fs::metadata(parent)?.uid()].contains(&made_by) {
        return Ok(false);
    }
    // On some filesystems what we make belongs to another at once: root's files on a server that trusts no root.
    let probe = tempfile::tempfile_in(parent).and_then(|file| file.metadata());
    Ok(probe.map_or(true, |ours| ours.uid() != made_by))
}

/// Nanoseconds since 1970 by the wall clock, which is also what files are stamped with.
pub(crate) fn wall_clock_ns() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

/// Whether this process may read a file, without opening it.
pub(crate) fn may_read(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::access(path, rustix::fs::Access::READ_OK)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_another_user_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let (path, ours) = (dir.path().join("a/b"), rustix::process::geteuid().as_raw());
        private_dir(&path).unwrap();
        private_dir_of(&path, ours).unwrap();
        let refused = private_dir_of(&path, ours + 1).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }
}
