//! Files that a command writes.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::{EXIT_FAILURE, EXIT_USAGE, Failure};

/// Writes a file beside the one that is there, and puts it in its place when it is complete and on disk.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if path.exists() && !path.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is no file"));
    }
    // What a link points to is replaced, and not the link.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut beside = path.clone().into_os_string();
    beside.push(format!(".{}.part", std::process::id()));
    let beside = PathBuf::from(beside);
    let permissions = fs::metadata(&path).ok().map(|there| there.permissions());
    let written = write(&beside, bytes, permissions).and_then(|()| fs::rename(&beside, &path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
        return written;
    }
    sync_folder(&path)
}

fn write(path: &Path, bytes: &[u8], permissions: Option<Permissions>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    if let Some(permissions) = permissions {
        // Before there is anything in it: what nobody else may read, nobody else reads meanwhile.
        file.set_permissions(permissions)?;
    }
    file.write_all(bytes)?;
    file.sync_all()
}

/// Why a file could not be written. A path that is of no use is a wrong setting; a disk that is full is none.
pub(super) fn failed(name: &str, error: &io::Error) -> Failure {
    let is_wrong = matches!(
        error.kind(),
        ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::IsADirectory
            | ErrorKind::NotADirectory
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::InvalidFilename
            | ErrorKind::InvalidInput
    );
    Failure { code: if is_wrong { EXIT_USAGE } else { EXIT_FAILURE }, line: format!("{name}: {error}") }
}

/// Makes sure that the folder remembers the file.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
