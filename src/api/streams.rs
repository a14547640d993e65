//! What all streams share.

use std::time::Duration;

/// How long a stream may be silent before it sends a heartbeat.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(20);

/// A message of a stream, or a page of a list, ends at about this many bytes, well below the largest message. A page of the audit
/// log is limited by its 100 entries.
pub(super) const MESSAGE_BYTES: usize = 1024 * 1024;
