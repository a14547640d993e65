//! Defects: internal errors and panics. They are logged, and sent to Sentry if a DSN is configured.
//!
//! Events for Sentry carry no personal data: no user, email address, token, request or earlier log lines.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::borrow::Cow;
use std::panic::{self, PanicHookInfo};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use sentry::protocol::{Context, Event, Level};
use sentry::transports::ReqwestHttpTransportOptions;
use sentry::types::Dsn;
use sentry::{ClientInitGuard, ClientOptions, Transport, TransportFactory, TransportOptions};

use super::metrics;
use super::request::RequestContext;

/// Time limit for sending one event.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// The Sentry project that defects are sent to.
#[derive(Clone)]
pub struct ErrorCollector {
    dsn: Dsn,
    environment: String,
    release: String,
}

impl ErrorCollector {
    /// The project with this DSN, on Sentry or a compatible service. `environment` tells deployments apart and defaults to
    /// `production`. `release` defaults to the program's version.
    ///
    /// # Errors
    /// The rule that the DSN breaks. The message never contains the DSN, since the DSN contains a key.
    pub fn new(dsn: &str, environment: Option<String>, release: Option<String>) -> Result<Self, &'static str> {
        Ok(Self {
            dsn: dsn.parse().map_err(|_| "must be a DSN like https://KEY@HOST/PROJECT")?,
            environment: environment.unwrap_or_else(|| "production".to_owned()),
            release: release.unwrap_or_else(|| concat!("toggled@", env!("CARGO_PKG_VERSION")).to_owned()),
        })
    }

    pub(super) fn start(self) -> ClientInitGuard {
        // Fails only if a provider is installed already, and any provider will do.
        let _ = ring::default_provider().install_default();
        sentry::init(self.options())
    }

    fn options(self) -> ClientOptions {
        let mut options = ClientOptions::new()
            .release(self.release)
            .send_default_pii(false)
            .max_breadcrumbs(0)
            .shutdown_timeout(super::SHUTDOWN_TIMEOUT)
            .environment(self.environment)
            .before_send(|event| Some(anonymize(event)))
            .transport(TimedTransport);
        options.dsn = Some(self.dsn);
        options
    }
}

/// Sentry's own HTTP transport with a time limit: without one it waits forever for a collector that does not answer.
struct TimedTransport;

impl TransportFactory for TimedTransport {
    fn create_transport_with_options(&self, options: TransportOptions) -> Arc<dyn Transport> {
        let options = ReqwestHttpTransportOptions::from(options);
        Arc::new(match reqwest::Client::builder().timeout(SEND_TIMEOUT).build() {
            Ok(client) => options.with_client(client).build(),
            Err(_) => options.build(),
        })
    }
}

/// Logs an internal error and sends it to Sentry. The caller's answer contains no details of it.
pub fn report_internal_error(message: &str) {
    let (trace_id, method) = current_request();
    // A database error may contain values of a row, such as a user's email address.
    let message = redact_addresses(message);
    tracing::error!(error = message, trace_id, method, "internal error");
    sentry::capture_event(Event { message: Some(message), level: Level::Error, ..Event::default() });
}

/// From now on, every panic is logged and counted.
pub(super) fn install_panic_hook() {
    panic::set_hook(Box::new(report_panic));
}

/// Held by tests while they replace the panic hook.
#[cfg(test)]
static HOOK: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// Reports panics of the current thread only, so that panics of other threads still fail their own tests.
#[cfg(test)]
pub(crate) fn install_panic_hook_for_this_thread() {
    let _lock = HOOK.lock();
    let (this_thread, previous) = (std::thread::current().id(), panic::take_hook());
    panic::set_hook(Box::new(move |panic| match std::thread::current().id() {
        id if id == this_thread => report_panic(panic),
        _ => previous(panic),
    }));
}

fn report_panic(panic: &PanicHookInfo<'_>) {
    ::metrics::counter!(metrics::PANICS).increment(1);
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    let (trace_id, method) = current_request();
    let (message, at) = (panic.payload_as_str(), panic.location().map(ToString::to_string));
    tracing::error!(panic = message, at, trace_id, method, backtrace, "panic");
}

/// The trace and the method of the current request, if there is one.
fn current_request() -> (Option<String>, Option<String>) {
    RequestContext::current().map(|request| (request.trace_id.to_string(), request.method.to_string())).unzip()
}

/// Removes everything that could identify the caller, and adds the trace and the method of the request.
fn anonymize(event: Event<'static>) -> Event<'static> {
    let mut event = Event { server_name: None, user: None, request: None, ..event };
    event.breadcrumbs = Vec::new().into();
    event.extra.clear();
    event.message = event.message.as_deref().map(redact_addresses);
    for exception in &mut event.exception {
        exception.value = exception.value.as_deref().map(redact_addresses);
    }
    let (trace_id, method) = current_request();
    if let Some(Context::Trace(trace)) = event.contexts.get_mut("trace")
        && let Some(id) = trace_id.as_ref().and_then(|id| id.parse().ok())
    {
        trace.trace_id = id;
    }
    event.tags.extend(trace_id.map(|id| ("trace_id".to_owned(), id)));
    event.tags.extend(method.map(|method| ("method".to_owned(), method)));
    event
}

/// Replaces every word that contains an `@`: errors of the database, for one, quote values of the row.
fn redact_addresses(text: &str) -> String {
    let words = text.split_inclusive(char::is_whitespace);
    words.map(|word| if word.contains('@') { Cow::from("[address] ") } else { Cow::from(word) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::traces::RequestTrace;
    use sentry::protocol::{Breadcrumb, EnvelopeItem, User};
    use sentry::{Client, Envelope, Hub};
    use std::panic::AssertUnwindSafe;

    #[derive(Default)]
    struct SentEnvelopes(std::sync::Mutex<Vec<Envelope>>);

    impl Transport for SentEnvelopes {
        fn send_envelope(&self, envelope: Envelope) {
            self.0.lock().unwrap().push(envelope);
        }
    }

    #[test]
    fn panic_is_sent_with_trace_of_its_request() {
        install_panic_hook_for_this_thread();
        let sent = Arc::new(SentEnvelopes::default());
        let mut options = ErrorCollector::new("https://key@sentry.example.com/1", None, None).unwrap().options();
        options.transport = Some(Arc::new(Arc::clone(&sent)));
        let client = {
            let _lock = HOOK.lock();
            Client::from(sentry::apply_defaults(options))
        };
        Hub::current().bind_client(Some(Arc::new(client)));
        let trace = RequestTrace::from_headers(&http::HeaderMap::new(), "a.A/B", true);
        let request = RequestContext::new("a.A/B".into(), trace);
        let panicked = panic::catch_unwind(AssertUnwindSafe(|| request.enter(|| panic!("ann@example.com broke it"))));
        assert!(panicked.is_err());
        Hub::current().bind_client(None);
        let sent = sent.0.lock().unwrap();
        let [EnvelopeItem::Event(event)] = &sent[0].items().collect::<Vec<_>>()[..] else { panic!("{sent:?}") };
        assert_eq!(sent.len(), 1);
        assert_eq!(event.tags["trace_id"], request.trace_id.to_string());
        assert_eq!(event.tags["method"], "a.A/B");
        assert_eq!(event.exception[0].value.as_deref(), Some("[address] broke it"));
    }

    #[test]
    fn invalid_dsn_is_reported_without_its_key() {
        for bad in ["", "secret", "https://host/1", "https://secret@host", "https://secret@host/"] {
            let rule = ErrorCollector::new(bad, None, None).err().unwrap();
            assert!(rule.starts_with("must be") && !rule.contains("secret"), "{bad}");
        }
        assert!(ErrorCollector::new("https://key@sentry.example.com/1", None, None).is_ok());
    }

    #[test]
    fn sent_event_has_no_personal_data() {
        let mut event = Event { message: Some("Key (email)=(ann@example.com) exists".to_owned()), ..Event::default() };
        event.user = Some(User { email: Some("ann@example.com".to_owned()), ..User::default() });
        event.server_name = Some("host-of-ann@example.com".into());
        event.breadcrumbs =
            vec![Breadcrumb { message: Some("ann@example.com".to_owned()), ..Default::default() }].into();
        event.extra.insert("to".to_owned(), "ann@example.com".into());
        event.exception = vec![sentry::protocol::Exception {
            value: Some("no ann@example.com\nhere".to_owned()),
            ..Default::default()
        }]
        .into();
        let sent = serde_json::to_string(&anonymize(event)).unwrap();
        assert!(!sent.contains("ann@") && sent.contains("Key [address] exists"), "{sent}");
    }
}
