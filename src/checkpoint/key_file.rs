//! Creates files of private keys: readable by their owner only, and complete or absent.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use uuid::Uuid;

/// Creates a private file atomically: other processes see the whole file or none. The name survives a crash.
///
/// # Errors
/// `AlreadyExists` if there is such a file; it stays as it is.
pub(super) fn create(path: &Path, text: &str) -> io::Result<()> {
    create_with(path, text, |from, to| fs::hard_link(from, to))
}

/// Waits until the names in a file's directory are on disk, where the file system supports that.
pub(super) fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(directory)?.sync_all() {
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        synced => synced,
    }
}

/// Writes a temporary file and gives it its name with `link`. On file systems without hard links, it writes the file under
/// its own name instead.
fn create_with(path: &Path, text: &str, link: impl FnOnce(&Path, &Path) -> io::Result<()>) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.part", Uuid::now_v7().simple()));
    let temporary = Path::new(&temporary);
    let linked = write_private(temporary, text).map(|()| link(temporary, path));
    let _ = fs::remove_file(temporary);
    match linked? {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => write_private(path, text),
        linked => linked,
    }
}

/// Writes a new file that only its owner may read. Removes it if writing fails.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use tempfile::TempDir;

    /// Errors of file systems without hard links, among others.
    const NO_LINKS: [ErrorKind; 4] =
        [ErrorKind::PermissionDenied, ErrorKind::Unsupported, ErrorKind::TooManyLinks, ErrorKind::Other];

    #[test]
    fn file_is_created_without_hard_links() {
        for kind in NO_LINKS {
            let folder = TempDir::new().unwrap();
            let path = folder.path().join("key");
            create_with(&path, "a key", |_, _| Err(kind.into())).unwrap();
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            // The second call keeps the existing file.
            let again = create_with(&path, "another", |_, _| Err(kind.into()));
            assert_eq!(again.unwrap_err().kind(), ErrorKind::AlreadyExists);
            assert_eq!(fs::read_to_string(&path).unwrap(), "a key");
            let files: Vec<_> = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().file_name()).collect();
            assert_eq!(files, ["key"]);
        }
    }
}
