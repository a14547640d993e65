//! Limits that cannot be configured, since one value fits every deployment. Tests set them through [`FixedLimits`].

use std::time::Duration;

/// Most clients multiplex their calls on one connection, so it must be generous; HTTP/2 libraries use 100 to 1,000. A client
/// that respects the setting waits instead of failing.
const MAX_CALLS_PER_CONNECTION: u32 = 1_024;

/// gRPC's own default, which clients and proxies expect.
const MAX_REQUEST_BYTES: usize = 4 << 20;

/// Requests of health checks and reflection hold a name or two.
const MAX_PUBLIC_REQUEST_BYTES: usize = 4 << 10;

/// OFREP has the same limit. Evaluation contexts have a few hundred bytes.
const MAX_FLAGD_REQUEST_BYTES: usize = 1 << 20;

/// The window of one stream for request data, HTTP/2's own default: most requests are smaller, and a larger one takes a few round
/// trips more.
pub const STREAM_WINDOW: u32 = 64 << 10;

/// The window of a connection for request data: the most that the server keeps of it before handlers read it. For each small frame
/// that waits for a handler, `h2` counts 256 bytes less its data, and closes the connection when the sum exceeds half of the window.
/// That allows one such frame for each of [`MAX_CALLS_PER_CONNECTION`].
pub const CONNECTION_WINDOW: u32 = 512 << 10;

/// gRPC's own default: clients refuse larger responses unless they are configured otherwise. A client that meets the limit
/// asks for smaller pages.
const MAX_RESPONSE_BYTES: usize = 4 << 20;

/// Twice the largest accepted token (16 KiB), to leave room for the headers that proxies add.
const MAX_HEADER_BYTES: u32 = 32 << 10;

/// Shorter than the idle timeouts of common load balancers (60 s and more), so that an open stream stays open.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// gRPC's own default. With the interval, a dead client frees its connection after 50 s.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Three heartbeats (`api/streams.rs`). A client that has read nothing for so long has stopped, or cannot use what it would read.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Long enough for a slow client to get the status of a stream that has ended; short enough that a caller that has lost access does
/// not keep its stream.
const RESET_TIMEOUT: Duration = Duration::from_secs(20);

/// A handshake takes a few round trips; a client that takes longer is not going to call.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// With 256 at a time and 10 s each, clients that connect and stay silent cannot keep others from connecting: the oldest
/// handshake is dropped for the newest.
const MAX_HANDSHAKES: usize = 256;

/// Against rapid reset (CVE-2023-44487). A client may cancel all its calls at once, when their deadlines pass, and must keep its
/// connection. With `h2`'s default of 20 it would lose it, and all other calls on it. A connection lets calls begin before it reads more, so
/// that few are cancelled before (`api/connection`).
const MAX_PENDING_RESETS: usize = 1_024;

/// The `h2` crate's own default against RUSTSEC-2024-0003; set here so that an update does not change it.
const MAX_ERROR_RESETS: usize = 1_024;

/// Limits that cannot be configured.
#[derive(Debug, Clone)]
pub struct FixedLimits {
    /// Calls in progress on one connection (`SETTINGS_MAX_CONCURRENT_STREAMS`).
    pub max_calls_per_connection: u32,
    /// The size of a request message. A larger one is refused with RESOURCE_EXHAUSTED.
    pub max_request_bytes: usize,
    /// The size of a request message of the services that need no token: health checks and reflection.
    pub max_public_request_bytes: usize,
    /// The size of a request message of flagd's services, which can be opened to callers without credentials.
    pub max_flagd_request_bytes: usize,
    /// The size of a response message. A larger one is replaced by RESOURCE_EXHAUSTED.
    pub max_response_bytes: usize,
    /// The headers of a request. Larger ones are refused with 431. For HTTP/1.1, hyper allows 100 headers.
    pub max_header_bytes: u32,
    /// How long an HTTP/2 connection may be silent before the server sends a ping.
    pub keepalive_interval: Duration,
    /// How long the client may take to answer that ping before the connection is closed.
    pub keepalive_timeout: Duration,
    /// How long the client of a watch may read nothing, although there is something to read, before the watch ends.
    pub unread_timeout: Duration,
    /// How long the client of a stream that has ended may take to read the rest before the stream is reset.
    pub reset_timeout: Duration,
    /// How long the TLS handshake may take, and after it the first bytes of HTTP.
    pub handshake_timeout: Duration,
    /// TLS handshakes in progress. A further one drops the oldest.
    pub max_handshakes: usize,
    /// Calls that a client cancels before the server has accepted them. One more closes the connection.
    pub max_pending_resets: usize,
    /// Calls that the server resets for a client's protocol errors. One more closes the connection.
    pub max_error_resets: usize,
}

impl Default for FixedLimits {
    fn default() -> Self {
        Self {
            max_calls_per_connection: MAX_CALLS_PER_CONNECTION,
            max_request_bytes: MAX_REQUEST_BYTES,
            max_public_request_bytes: MAX_PUBLIC_REQUEST_BYTES,
            max_flagd_request_bytes: MAX_FLAGD_REQUEST_BYTES,
            max_response_bytes: MAX_RESPONSE_BYTES,
            max_header_bytes: MAX_HEADER_BYTES,
            keepalive_interval: KEEPALIVE_INTERVAL,
            keepalive_timeout: KEEPALIVE_TIMEOUT,
            unread_timeout: UNREAD_TIMEOUT,
            reset_timeout: RESET_TIMEOUT,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            max_handshakes: MAX_HANDSHAKES,
            max_pending_resets: MAX_PENDING_RESETS,
            max_error_resets: MAX_ERROR_RESETS,
        }
    }
}
