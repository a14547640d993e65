//! The output of an export: a file, or standard output.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufReader, ErrorKind, Seek, SeekFrom, Write};
use std::path::PathBuf;

use super::Format;
use super::file_entries::{EntryPosition, FileEntries, NotContinuable};
use super::record;
use crate::api::pb::{ListAuditLogsRequest, StreamAuditLogsResponse};
use crate::cli::output::CsvCells;
use crate::cli::{EXIT_FAILURE, Failure, file, output};

/// A file that is created or continued, or standard output.
pub(in crate::cli::audit) struct ExportTarget {
    format: Format,
    cells: CsvCells,
    /// `None` for standard output.
    path: Option<PathBuf>,
    /// `None` for a new file until something is written to it.
    file: Option<File>,
    entries: FileEntries,
    has_begun: bool,
}

impl ExportTarget {
    /// Reads the entries of the file, which are to be those that pass `filters`. It is changed only once the server has sent entries
    /// that follow them.
    pub fn open(
        path: Option<PathBuf>,
        format: Format,
        cells: CsvCells,
        filters: &ListAuditLogsRequest,
    ) -> Result<Self, Failure> {
        let mut target = Self { format, cells, path, file: None, entries: FileEntries::default(), has_begun: false };
        let Some(path) = &target.path else { return Ok(target) };
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(target),
            file => file.map_err(|error| target.failed(&error))?,
        };
        let regular = file.metadata().map_err(|error| target.failed(&error))?.is_file();
        if !regular {
            return Err(Failure::usage(format!("{}: it is not a regular file; name another file", path.display())));
        }
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                target.failed(&io::Error::new(ErrorKind::ResourceBusy, "another export is writing to it"))
            }
            TryLockError::Error(error) => target.failed(&error),
        })?;
        target.entries =
            FileEntries::read(BufReader::new(&file), format, cells, filters).map_err(|error| match error {
                NotContinuable::Io(error) => target.failed(&error),
                error => Failure::usage(format!("{}: {error}", path.display())),
            })?;
        target.file = Some(file);
        Ok(target)
    }

    pub fn entries(&self) -> &FileEntries {
        &self.entries
    }

    /// Writes the entries of a message.
    pub fn write(&mut self, message: &StreamAuditLogsResponse) -> Result<(), Failure> {
        let mut bytes = self.begin()?;
        for entry in &message.items {
            record::write(self.format, self.cells, &message.log_id, entry, &mut bytes)?;
            let position = EntryPosition::new(&message.log_id, entry);
            position.and_then(|position| self.entries.push(position)).ok_or_else(|| Failure {
                code: EXIT_FAILURE,
                message: format!("the server sent revision {} of log {} out of order", entry.revision, message.log_id),
            })?;
        }
        match &mut self.file {
            Some(file) => file.write_all(&bytes).map_err(|error| self.failed(&error))?,
            None => output::print_bytes(&bytes)?,
        }
        self.entries.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Prepares the file before the first write: cuts off an incomplete line, or creates the file. Returns the first line.
    fn begin(&mut self) -> Result<Vec<u8>, Failure> {
        if std::mem::replace(&mut self.has_begun, true) {
            return Ok(Vec::new());
        }
        if let Some(path) = self.path.as_ref().filter(|_| self.file.is_none()) {
            let file = OpenOptions::new().write(true).create_new(true).open(path);
            let file = file.and_then(|file| file.try_lock().map_err(std::io::Error::from).map(|()| file));
            self.file = Some(file.map_err(|error| self.failed(&error))?);
        }
        if let Some(file) = &mut self.file {
            let cut = file.set_len(self.entries.bytes).and_then(|()| file.seek(SeekFrom::End(0)));
            cut.map_err(|error| self.failed(&error))?;
        }
        if self.entries.bytes > 0 { Ok(Vec::new()) } else { Ok(record::header(self.format)?) }
    }

    /// Syncs the file to disk.
    pub fn finish(&mut self) -> Result<(), Failure> {
        let (Some(path), Some(file)) = (&self.path, &self.file) else { return Ok(()) };
        file.sync_all().and_then(|()| file::sync_parent_folder(path)).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &io::Error) -> Failure {
        file::io_failure(&self.name(), error)
    }

    /// The name for messages.
    pub fn name(&self) -> String {
        self.path.as_ref().map_or("standard output".into(), |path| path.display().to_string())
    }
}
