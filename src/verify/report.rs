//! The result of a verification.

use super::{Fault, Verified, Verifier};

/// Why a verification stopped before the end of the log.
#[derive(Debug)]
pub enum Stop<E> {
    /// The log is not intact.
    Fault(Fault),
    /// The log could not be read further.
    Error(E),
}

impl<E> Stop<E> {
    /// Prefers a fault among the entries that were read before: the lowest revision takes precedence, and a fault
    /// takes precedence over an error.
    pub fn or_earlier_fault(self, verifier: &Verifier) -> Self {
        match (self, verifier.check_nonmatching()) {
            (Self::Fault(fault), Err(earlier)) if fault.revision < earlier.revision => Self::Fault(fault),
            (_, Err(earlier)) => Self::Fault(earlier),
            (stop, Ok(())) => stop,
        }
    }
}

impl<E> From<Fault> for Stop<E> {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// What was verified, and the first fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The entries with the right hash, from the first on.
    pub verified: Verified,
    /// The fault with the lowest revision; `None` for an intact log.
    pub fault: Option<Fault>,
}

impl Report {
    /// Combines the end of a verification with a fault that was found beside it, such as a forged checkpoint.
    ///
    /// # Errors
    /// The error that stopped the verification, if there is no fault to report.
    pub fn new<E>(verified: Verified, end: Result<(), Stop<E>>, other: Option<Fault>) -> Result<Self, E> {
        let fault = match end {
            Ok(()) => None,
            Err(Stop::Fault(fault)) => Some(fault),
            Err(Stop::Error(error)) if other.is_none() => return Err(error),
            Err(Stop::Error(_)) => None,
        };
        let fault = fault.into_iter().chain(other).min_by_key(|fault| fault.revision);
        Ok(Self { verified, fault })
    }
}

/// How far a verification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The number of entries that were read.
    pub entries: u64,
    /// The number of entries to read, as far as known; an estimate for a file.
    pub expected: u64,
}

/// Receives the progress now and then.
pub type OnProgress<'a> = &'a mut (dyn FnMut(Progress) + Send);
