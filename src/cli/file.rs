//! Files that commands write.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::{EXIT_FAILURE, EXIT_USAGE, Failure};

/// Replaces a file atomically: writes a temporary file in the same folder, syncs it, and renames it.
pub(super) fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if path.exists() && !path.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
    }
    // A symbolic link stays: its target is replaced.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut temporary = path.clone().into_os_string();
    temporary.push(format!(".{}.part", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let permissions = fs::metadata(&path).ok().map(|metadata| metadata.permissions());
    let written = write(&temporary, bytes, permissions).and_then(|()| fs::rename(&temporary, &path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
        return written;
    }
    sync_parent_folder(&path)
}

fn write(path: &Path, bytes: &[u8], permissions: Option<Permissions>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    if let Some(permissions) = permissions {
        // Set before the content is written, so that only users who could read the old file can read the new one.
        file.set_permissions(permissions)?;
    }
    file.write_all(bytes)?;
    file.sync_all()
}

/// Why a file cannot be read or written, and what to do about it.
pub(super) fn describe(error: &io::Error) -> String {
    let text = match error.kind() {
        ErrorKind::NotFound => "no such file or folder; check the path",
        ErrorKind::PermissionDenied => "permission denied; change the permissions of the file, or name another",
        ErrorKind::IsADirectory => "it is a folder; name a file",
        ErrorKind::NotADirectory => "a part of the path is not a folder; check the path",
        ErrorKind::ReadOnlyFilesystem => "the file system is read-only; name a file elsewhere",
        ErrorKind::StorageFull => "the disk is full; free some space, then repeat the command",
        _ => return error.to_string(),
    };
    text.to_owned()
}

/// The failure for a file that cannot be read or written. A wrong path is a usage error; a full disk is not.
pub(super) fn io_failure(name: &str, error: &io::Error) -> Failure {
    let is_wrong_path = matches!(
        error.kind(),
        ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::IsADirectory
            | ErrorKind::NotADirectory
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::InvalidFilename
            | ErrorKind::InvalidInput
    );
    Failure {
        code: if is_wrong_path { EXIT_USAGE } else { EXIT_FAILURE },
        message: format!("{name}: {}", describe(error)),
    }
}

/// Syncs the folder of a file, so that the file's name survives a crash.
pub(super) fn sync_parent_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
