//! Files below a root, reached without ever following a link.
//!
//! Every directory on the way is opened by one component from its parent, with `O_NOFOLLOW`, and kept open for its next
//! use; so a link that somebody planted, or swaps in while we run, is refused by the system and nothing outside the root
//! is touched. Paths come from a manifest, whose rules exclude `..` and absolute paths. A file that must be new is made
//! with `O_EXCL` after whatever had its name is unlinked: neither a planted link nor a hard link is written through.
//!
//! Limits: as many directories and files stay open as [`open_files_budget`] allows.

use super::lru::Lru;
use super::platform::{allocate, open_files_budget};
use super::stamp::Stamp;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Takes a lock. A panic elsewhere leaves our data usable, as every critical section leaves it whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Clone)]
pub(crate) struct Base {
    root: Arc<OwnedFd>,
    /// For content that is one file: its name in the root, as its path in the manifest is empty.
    single: Option<OsString>,
}

impl Base {
    /// A tree whose root is `path`, or the one file at `path`. Links above and at the root are the user's own and followed.
    pub(crate) fn open(path: &Path, is_tree: bool) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if is_tree {
            return Ok(Self { root: Arc::new(rustix::fs::open(path, flags, Mode::empty())?), single: None });
        }
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Self { root: Arc::new(rustix::fs::open(parent, flags, Mode::empty())?), single: Some(name.to_owned()) })
    }
}

/// What something is, from one lookup.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) kind: FileType,
    pub(crate) mode: u32,
    pub(crate) stamp: Stamp,
    /// Bytes on the disk, which may be fewer or more than the size.
    pub(crate) allocated: u64,
}

impl Found {
    /// Whether the executable bit is what the manifest says.
    pub(crate) fn mode_is(&self, executable: bool) -> bool {
        (self.mode & 0o100 != 0) == executable
    }

    /// Whether it is setuid, setgid or sticky, which no content can make a file.
    pub(crate) fn has_special_mode(&self) -> bool {
        self.mode & 0o7000 != 0
    }
}

#[derive(Debug)]
pub(crate) struct Tree {
    base: RwLock<Base>,
    dirs: Mutex<Lru<String, Arc<OwnedFd>>>,
    /// With whether they may be written to.
    files: Mutex<Lru<u32, (Arc<File>, bool)>>,
    /// Whoever makes a file fit to be written to holds this.
    making: Mutex<()>,
}

/// How the name of a copy begins that isn't whole yet. No manifest has a name with a control character.
const OWN: &str = ".shoal-own\u{1}";

/// The name of the copy of a file: others may be at work on other files in the same directory.
fn own_name(name: &OsStr) -> String {
    format!("{OWN}{}", &blake3::hash(name.as_encoded_bytes()).to_hex()[..16])
}

impl Tree {
    pub(crate) fn new(base: Base) -> Self {
        let budget = open_files_budget();
        let (dirs, files) = (Mutex::new(Lru::new(budget / 2)), Mutex::new(Lru::new(budget)));
        Self { base: RwLock::new(base), dirs, files, making: Mutex::new(()) }
    }

    pub(crate) fn root(&self) -> Arc<OwnedFd> {
        self.base().root.clone()
    }

    fn base(&self) -> Base {
        self.base.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs `rename`, during which nothing is looked up, and goes on below the base that it returns.
    pub(crate) fn rebase<E>(&self, rename: impl FnOnce() -> Result<Base, E>) -> Result<(), E> {
        let mut base = self.base.write().unwrap_or_else(PoisonError::into_inner);
        let result = rename().map(|new| *base = new);
        lock(&self.dirs).clear();
        // Nothing is written any more, and a file that is open for writing can't be executed.
        lock(&self.files).clear();
        result
    }

    /// The open directory and the name in it that a path stands for.
    fn locate<'p>(&self, path: &'p str, create: bool) -> io::Result<(Arc<OwnedFd>, std::borrow::Cow<'p, OsStr>)> {
        let base = self.base();
        if let Some(name) = base.single {
            return Ok((base.root, name.into()));
        }
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.directory(&base.root, parent, create)?, OsStr::new(name).into()))
    }

    fn directory(&self, root: &Arc<OwnedFd>, path: &str, create: bool) -> io::Result<Arc<OwnedFd>> {
        if path.is_empty() {
            return Ok(root.clone());
        }
        if let Some(found) = lock(&self.dirs).get(path) {
            return Ok(found);
        }
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = self.directory(root, parent, create)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&parent, name, flags, Mode::empty());
        let opened = match open() {
            Err(Errno::NOENT) if create => match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => open()?,
                Err(error) => return Err(error.into()),
            },
            other => other?,
        };
        let opened = Arc::new(opened);
        lock(&self.dirs).insert(path.to_owned(), opened.clone());
        Ok(opened)
    }

    /// Makes a directory and those above it.
    pub(crate) fn make_dir(&self, path: &str) -> io::Result<()> {
        self.directory(&self.base().root, path, true).map(drop)
    }

    /// Makes a whole small file in one go, in place of whatever had its name.
    pub(crate) fn create(&self, path: &str, executable: bool, bytes: &[u8]) -> io::Result<()> {
        let (dir, name) = self.locate(path, true)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Twice at most in practice: more only if somebody keeps making the file anew.
        for _ in 0..8 {
            match rustix::fs::openat(&dir, &*name, flags, mode(executable)) {
                Ok(fd) => return File::from(fd).write_all_at(bytes, 0),
                Err(Errno::EXIST) => self.unlink(&dir, &name)?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn unlink(&self, dir: &OwnedFd, name: &OsStr) -> io::Result<()> {
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a file of an entry is open already.
    pub(crate) fn is_open(&self, entry: u32) -> bool {
        lock(&self.files).get(&entry).is_some()
    }

    /// An entry's file for reading and writing in parts, with its final size.
    pub(crate) fn writable(&self, entry: u32, path: &str, executable: bool, size: u64) -> io::Result<Arc<File>> {
        let cached = || lock(&self.files).get(&entry).filter(|(_, writable)| *writable).map(|(file, _)| file);
        if let Some(file) = cached() {
            return Ok(file);
        }
        // Two who find the same file not fit would each make one, and one of those would be lost with all that is written to it.
        let _making = lock(&self.making);
        if let Some(file) = cached() {
            return Ok(file);
        }
        let (dir, name) = self.locate(path, true)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = |flags| rustix::fs::openat(&dir, &*name, flags, mode(executable)).map(File::from);
        let mut file = match open(flags) {
            // Somebody's link in place of our file: it goes, what it points at stays.
            Err(Errno::LOOP | Errno::MLINK) => {
                self.unlink(&dir, &name)?;
                open(flags | OFlags::EXCL)?
            }
            other => other?,
        };
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something that is not a file is in the way"));
        }
        if found.nlink() > 1 {
            // The same file has another name elsewhere; writing here must not change it there.
            file = self.own_copy(&dir, &name, &file, executable, size)?;
        }
        if file.metadata()?.len() != size {
            allocate(&file, size)?;
        }
        let file = Arc::new(file);
        lock(&self.files).insert(entry, (file.clone(), true));
        Ok(file)
    }

    /// A file of its own with the same bytes. Until it is whole and on the disk the name stays with the old one, as parts of
    /// that may count as had.
    fn own_copy(&self, dir: &OwnedFd, name: &OsStr, old: &File, executable: bool, size: u64) -> io::Result<File> {
        let own_name = own_name(name);
        self.unlink(dir, own_name.as_ref())?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let own = File::from(rustix::fs::openat(dir, &*own_name, flags, mode(executable))?);
        let mut from = old;
        let whole = io::copy(&mut io::Read::take(&mut from, size), &mut &own)
            .and_then(|_| own.sync_data())
            .and_then(|()| Ok(rustix::fs::renameat(dir, &*own_name, dir, name)?));
        if let Err(error) = whole {
            self.unlink(dir, own_name.as_ref())?;
            return Err(error);
        }
        Ok(own)
    }

    /// Removes a copy that a kill left behind.
    pub(crate) fn clear_copy(&self, path: &str) -> io::Result<()> {
        let (dir, name) = self.locate(path, false)?;
        self.unlink(&dir, own_name(&name).as_ref())
    }

    /// An entry's file for reading, from the cache or opened and put there.
    pub(crate) fn readable(&self, entry: u32, path: &str) -> io::Result<Arc<File>> {
        if let Some((file, _)) = lock(&self.files).get(&entry) {
            return Ok(file);
        }
        let file = Arc::new(self.open(path)?);
        let mut files = lock(&self.files);
        if let Some((file, _)) = files.get(&entry) {
            // Meanwhile it was made fit to be written to, and may be another one.
            return Ok(file);
        }
        files.insert(entry, (file.clone(), false));
        Ok(file)
    }

    /// Forgets an entry's open file.
    pub(crate) fn forget(&self, entry: u32) {
        lock(&self.files).remove(&entry);
    }

    /// Opens a file for reading.
    pub(crate) fn open(&self, path: &str) -> io::Result<File> {
        let (dir, name) = self.locate(path, false)?;
        // Not blocking, as a pipe in place of the file would hold us for ever; it makes no difference to files.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&dir, &*name, flags, Mode::empty())?))
    }

    /// Looks at what has a path, without following a link.
    pub(crate) fn look(&self, path: &str) -> io::Result<Found> {
        let (dir, name) = self.locate(path, false)?;
        let stat = rustix::fs::statat(&dir, &*name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Found {
            kind: FileType::from_raw_mode(stat.st_mode),
            #[allow(clippy::unnecessary_cast)]
            mode: stat.st_mode as u32,
            stamp: Stamp::of_stat(&stat),
            #[allow(clippy::unnecessary_cast)]
            allocated: (stat.st_blocks as u64).saturating_mul(512),
        })
    }

    /// Where a link points.
    pub(crate) fn link_target(&self, path: &str) -> io::Result<Vec<u8>> {
        let (dir, name) = self.locate(path, false)?;
        Ok(rustix::fs::readlinkat(&dir, &*name, Vec::new())?.into_bytes())
    }

    /// Makes a link, in place of another one or a file.
    pub(crate) fn make_link(&self, path: &str, target: &str) -> io::Result<()> {
        if self.link_target(path).is_ok_and(|found| found == target.as_bytes()) {
            return Ok(());
        }
        let (dir, name) = self.locate(path, true)?;
        self.unlink(&dir, &name)?;
        Ok(rustix::fs::symlinkat(target, &dir, &*name)?)
    }

    /// Gives a file the mode that a new one would have.
    pub(crate) fn set_executable(&self, path: &str, found: &Found, executable: bool) -> io::Result<()> {
        let mut bits = found.mode & 0o755;
        // Who may read may execute, as with a new file under the same umask.
        bits = if executable { bits | 0o100 | ((bits & 0o044) >> 2) } else { bits & !0o111 };
        let file = self.open(path)?;
        Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(bits as rustix::fs::RawMode))?)
    }
}

fn mode(executable: bool) -> Mode {
    Mode::from_raw_mode(if executable { 0o755 } else { 0o644 })
}
