//! Where the entries go: a file, or standard output.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufReader, ErrorKind, Seek, SeekFrom, Write};
use std::path::PathBuf;

use super::Format;
use super::held::{Cursor, Held, Unreadable};
use super::record;
use crate::api::pb::StreamAuditLogsResponse;
use crate::cli::{EXIT_FAILURE, Failure, file, output};

pub(in crate::cli::audit) struct Target {
    format: Format,
    /// None for standard output.
    path: Option<PathBuf>,
    /// None until there is something to write to it.
    file: Option<File>,
    held: Held,
    begun: bool,
}

impl Target {
    /// Reads what the file holds already. It is left as it is until the server has agreed to go on from there.
    pub fn open(path: Option<PathBuf>, format: Format) -> Result<Self, Failure> {
        let mut target = Self { format, path, file: None, held: Held::default(), begun: false };
        let Some(path) = &target.path else { return Ok(target) };
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(target),
            file => file.map_err(|error| target.failed(&error))?,
        };
        let regular = file.metadata().map_err(|error| target.failed(&error))?.is_file();
        if !regular {
            return Err(Failure::usage(format!("{}: it is no file", path.display())));
        }
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                target.failed(&io::Error::new(ErrorKind::ResourceBusy, "another export is writing to it"))
            }
            TryLockError::Error(error) => target.failed(&error),
        })?;
        target.held = Held::read(BufReader::new(&file), format).map_err(|unreadable| match unreadable {
            Unreadable::Foreign(..) | Unreadable::Older => Failure::usage(format!("{}: {unreadable}", path.display())),
            Unreadable::Io(error) => target.failed(&error),
        })?;
        target.file = Some(file);
        Ok(target)
    }

    pub fn held(&self) -> &Held {
        &self.held
    }

    /// Writes the entries of a message down.
    pub fn take(&mut self, message: &StreamAuditLogsResponse) -> Result<(), Failure> {
        let mut bytes = self.begin()?;
        for entry in &message.items {
            record::write(self.format, &message.log_id, entry, &mut bytes)?;
            let line = Cursor::new(&message.log_id, entry);
            line.and_then(|line| self.held.take(line)).ok_or_else(|| Failure {
                code: EXIT_FAILURE,
                line: format!("the server sent revision {} of log {} out of turn", entry.revision, message.log_id),
            })?;
        }
        match &mut self.file {
            Some(file) => file.write_all(&bytes).map_err(|error| self.failed(&error))?,
            None => output::file(&bytes)?,
        }
        self.held.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Makes ready for what comes first, now that something comes: cuts off what is not complete, and begins a new file.
    fn begin(&mut self) -> Result<Vec<u8>, Failure> {
        if std::mem::replace(&mut self.begun, true) {
            return Ok(Vec::new());
        }
        if let Some(path) = self.path.as_ref().filter(|_| self.file.is_none()) {
            let file = OpenOptions::new().write(true).create_new(true).open(path);
            let file = file.and_then(|file| file.try_lock().map_err(std::io::Error::from).map(|()| file));
            self.file = Some(file.map_err(|error| self.failed(&error))?);
        }
        if let Some(file) = &mut self.file {
            let cut = file.set_len(self.held.bytes).and_then(|()| file.seek(SeekFrom::End(0)));
            cut.map_err(|error| self.failed(&error))?;
        }
        if self.held.bytes > 0 { Ok(Vec::new()) } else { Ok(record::head(self.format)?) }
    }

    /// Makes sure that what was written stays.
    pub fn finish(&mut self) -> Result<(), Failure> {
        let (Some(path), Some(file)) = (&self.path, &self.file) else { return Ok(()) };
        file.sync_all().and_then(|()| file::sync_folder(path)).map_err(|error| self.failed(&error))
    }

    fn failed(&self, why: &io::Error) -> Failure {
        file::failed(&self.name(), why)
    }

    /// What it is called in words to a person.
    pub fn name(&self) -> String {
        self.path.as_ref().map_or("standard output".into(), |path| path.display().to_string())
    }
}
