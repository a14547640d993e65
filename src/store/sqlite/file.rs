//! The files of the database, and whether they still are the ones that were opened.
//!
//! SQLite opens its files by name. After the database was moved, a new connection would create another one in its place, and
//! lay the write-ahead log of the first over it. So the database is created here, once, and connections open only a file that exists.
//! Before each use, every name must still lead to the file that was opened, by device and inode.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::wal_index::{Checkpointed, WalIndex};
use crate::store::StoreError;

/// The permissions of a new database: its owner may read and write it. SQLite gives the same to its other files.
const MODE: u32 = 0o600;

/// The permissions of users who are neither the owner nor in the file's group.
const OTHERS: u32 = 0o007;

/// The endings of the files that SQLite keeps beside an open database.
const COMPANIONS: [&str; 2] = ["-wal", "-shm"];

/// The same for all names of one file, and for no other file that exists at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// The size of a file and when it was last written. Another value means that it was written since.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct WriteMark {
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl WriteMark {
    fn of(metadata: &Metadata) -> Self {
        Self {
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the content may differ from that of `other`. Renaming a file and changing its permissions count as a change
    /// of the file only.
    pub fn has_other_content(&self, other: &Self) -> bool {
        (self.size, self.modified) != (other.size, other.modified)
    }
}

/// Why the database's files cannot be used any more.
#[derive(Debug)]
pub(super) enum FileProblem {
    /// Nothing is found under this name.
    Missing(PathBuf, io::Error),
    /// Another file is found under this name.
    Replaced(PathBuf),
    /// The database was overwritten without SQLite.
    Overwritten(PathBuf),
    /// The database has content that SQLite or this program did not write so.
    Damaged(PathBuf, String),
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(path, error) => write!(
                f,
                "{} was moved or deleted, or its file system is gone ({error}): if it was moved, move it back; if it was \
                 deleted, save it before you stop process {}: see \"A deleted SQLite file\" in docs/operations.md",
                path.display(),
                std::process::id()
            ),
            Self::Replaced(path) => write!(
                f,
                "another file was put in the place of {}: stop the server and start it again to use it, or move the first one \
                 back",
                path.display()
            ),
            Self::Overwritten(path) => write!(
                f,
                "{path} was overwritten while it was in use: stop the server, keep a copy of {path}, {path}-wal and \
                 {path}-shm, then delete {path}-wal and {path}-shm, restore the database and start again",
                path = path.display()
            ),
            Self::Damaged(path, error) => write!(
                f,
                "{path} is damaged, or was overwritten while it was in use ({error}): stop the server, keep a copy of {path}, \
                 {path}-wal and {path}-shm, then check the copy with `toggled audit verify`, or delete all three and restore the \
                 database, and start again",
                path = path.display()
            ),
        }
    }
}

impl From<&FileProblem> for StoreError {
    fn from(problem: &FileProblem) -> Self {
        Self::Unusable(problem.to_string().into())
    }
}

impl From<FileProblem> for StoreError {
    fn from(problem: FileProblem) -> Self {
        Self::from(&problem)
    }
}

/// The database's file, by the name that the operator gave.
pub(super) struct DatabaseFile(PathBuf);

impl DatabaseFile {
    pub fn new(path: &Path) -> Self {
        Self(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
    }

    /// Creates the file, empty, unless it exists. Keep the handle of a new file open as long as the database: when a process
    /// closes a file, it loses SQLite's locks on it.
    ///
    /// # Errors
    /// When it cannot be created, or when only its write-ahead log is there. The database was moved then, and SQLite would delete
    /// the write-ahead log, with all that was not yet moved from it.
    pub fn create_if_missing(&self) -> Result<Option<File>, StoreError> {
        let path = &self.0;
        let log = companion(path, "-wal");
        if fs::symlink_metadata(path).is_err() && log.exists() {
            let (path, log) = (path.display(), log.display());
            return Err(StoreError::Inaccessible(
                format!(
                    "{path} is missing, but {log} belongs to it: move {path} back, or {log} away to begin a new log"
                )
                .into(),
            ));
        }
        match OpenOptions::new().write(true).create_new(true).mode(MODE).open(path) {
            Ok(file) => {
                tracing::info!(path = %path.display(), "database file created");
                Ok(Some(file))
            }
            // A symbolic link that leads nowhere exists as well. It is not followed: its target may be missing for a while.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(None),
            Err(error) => {
                let problem = format!("the database {} cannot be created: {error}", path.display());
                Err(StoreError::Inaccessible(problem.into()))
            }
        }
    }

    /// The file as it is before the first connection is opened.
    ///
    /// # Errors
    /// When there is no file.
    pub fn id(&self) -> Result<FileId, StoreError> {
        let metadata = fs::metadata(&self.0).map_err(|error| {
            StoreError::Inaccessible(format!("the database {} cannot be opened: {error}", self.0.display()).into())
        })?;
        Ok(FileId::of(&metadata))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Why it cannot be opened to read and write, when SQLite could not.
    pub fn problem(&self) -> Option<io::Error> {
        OpenOptions::new().read(true).write(true).open(&self.0).err()
    }

    /// Warns of a database that every user of the machine may open. Its permissions are the operator's: they are not changed.
    pub fn warn_if_public(&self) {
        if fs::metadata(&self.0).is_ok_and(|metadata| metadata.mode() & OTHERS != 0) {
            let path = self.0.display();
            tracing::warn!(%path, "every user of this machine has access to the database; withdraw that access with chmod o=");
        }
    }
}

/// The names of the database's files, and what they led to when the first connection had opened them.
pub(super) struct OpenedFiles {
    /// The real name of the database.
    path: PathBuf,
    names: Vec<(PathBuf, FileId)>,
    wal_index: Option<WalIndex>,
}

impl OpenedFiles {
    /// `before` is what the database's name led to before the first connection was opened.
    ///
    /// # Errors
    /// When it leads elsewhere now.
    pub fn new(file: &DatabaseFile, before: FileId) -> Result<Self, FileProblem> {
        // SQLite names the other files after the real one.
        let path = fs::canonicalize(&file.0).unwrap_or_else(|_| file.0.clone());
        let mut names = vec![(file.0.clone(), before)];
        if path != file.0 {
            names.push((path.clone(), before));
        }
        // On a read-only file system there may be none.
        let companions = COMPANIONS.map(|ending| companion(&path, ending)).into_iter();
        names.extend(
            companions
                .filter_map(|path| Some((FileId::of(&fs::metadata(&path).ok()?), path)))
                .map(|(id, path)| (path, id)),
        );
        let wal_index = WalIndex::open(&companion(&path, "-shm"));
        let files = Self { path, names, wal_index };
        files.check()?;
        Ok(files)
    }

    /// The real name of the database.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checks that all names still lead to the files that were opened. That takes some microseconds on a local disk. Returns
    /// when the database itself was last written.
    ///
    /// # Errors
    /// The first name that leads elsewhere.
    pub fn check(&self) -> Result<WriteMark, FileProblem> {
        let mut mark = WriteMark::default();
        for (path, id) in self.names.iter().rev() {
            let metadata = fs::metadata(path).map_err(|error| FileProblem::Missing(path.clone(), error))?;
            if FileId::of(&metadata) != *id {
                return Err(FileProblem::Replaced(path.clone()));
            }
            mark = WriteMark::of(&metadata);
        }
        Ok(mark)
    }

    /// How much of the write-ahead log was moved into the database; `None` without a `-shm` file.
    pub fn checkpointed(&self) -> Option<Checkpointed> {
        self.wal_index.as_ref()?.read()
    }

    /// Whether the write-ahead log is shorter than its frames, of which `before` was just read, so that another program than SQLite
    /// cut it.
    pub fn is_log_cut(&self, before: Checkpointed) -> bool {
        let is_short = fs::metadata(companion(&self.path, "-wal")).is_ok_and(|log| log.len() < before.least_length);
        // A checkpoint empties the index before it cuts the file.
        is_short && self.checkpointed() == Some(before)
    }

    /// Whether the database has no name any more, and nothing else has its name: it ends with its last open handle. Where the
    /// system does not tell, it counts as moved.
    pub fn is_deleted(&self) -> bool {
        let Some((_, id)) = self.names.first() else { return false };
        let is_gone = |handle: &Path| {
            fs::metadata(handle).is_ok_and(|metadata| FileId::of(&metadata) == *id && metadata.nlink() == 0)
        };
        let is_missing = fs::symlink_metadata(&self.path).is_err();
        is_missing && fs::read_dir("/proc/self/fd").is_ok_and(|handles| handles.flatten().any(|at| is_gone(&at.path())))
    }
}

fn companion(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}
