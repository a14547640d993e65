//! Defects: internal errors and panics, in the log, and at Sentry if it is asked to collect them.
//!
//! What is sent there names nobody: no user, address, token or request, nor what was logged before.

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
use super::request::Request;

/// How long the collector may take for an event.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// The Sentry project that collects errors.
#[derive(Clone)]
pub struct Collector {
    dsn: Dsn,
    environment: String,
    release: String,
}

impl Collector {
    /// The project of this DSN, on Sentry or a compatible server. The environment is `production` and the release this
    /// program's version unless given.
    ///
    /// # Errors
    /// The rule that the DSN breaks, without the DSN: it holds a key.
    pub fn new(dsn: &str, environment: Option<String>, release: Option<String>) -> Result<Self, &'static str> {
        Ok(Self {
            dsn: dsn.parse().map_err(|_| "must be a DSN like https://KEY@HOST/PROJECT")?,
            environment: environment.unwrap_or_else(|| "production".to_owned()),
            release: release.unwrap_or_else(|| concat!("toggled@", env!("CARGO_PKG_VERSION")).to_owned()),
        })
    }

    pub(super) fn start(self) -> ClientInitGuard {
        // It fails only where there is a provider already, which is as good.
        let _ = ring::default_provider().install_default();
        sentry::init(self.options())
    }

    fn options(self) -> ClientOptions {
        let mut options = ClientOptions::new()
            .release(self.release)
            .send_default_pii(false)
            .max_breadcrumbs(0)
            .shutdown_timeout(super::LAST_WAIT)
            .environment(self.environment)
            .before_send(|event| Some(anonymous(event)))
            .transport(InTime);
        options.dsn = Some(self.dsn);
        options
    }
}

/// Sends over HTTP like Sentry's own, which would wait for ever for a collector that has gone silent.
struct InTime;

impl TransportFactory for InTime {
    fn create_transport_with_options(&self, options: TransportOptions) -> Arc<dyn Transport> {
        let options = ReqwestHttpTransportOptions::from(options);
        Arc::new(match reqwest::Client::builder().timeout(SEND_TIMEOUT).build() {
            Ok(client) => options.with_client(client).build(),
            Err(_) => options.build(),
        })
    }
}

/// Tells of an internal error, which a caller is told nothing of.
pub fn internal(what: &str) {
    let (trace_id, method) = request();
    // A database may name whom a row is about.
    let what = without_addresses(what);
    tracing::error!(error = what, trace_id, method, "internal error");
    sentry::capture_event(Event { message: Some(what), level: Level::Error, ..Event::default() });
}

/// From here on panics are counted and told of in the log, like everything else.
pub(super) fn tell_of_panics() {
    panic::set_hook(Box::new(told));
}

/// Held by tests that put another hook in the place of the last.
#[cfg(test)]
static HOOK: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// The same for a test: the panics of its own thread alone, the others go on failing their tests.
#[cfg(test)]
pub(crate) fn tell_of_panics_here() {
    let _turn = HOOK.lock();
    let (here, otherwise) = (std::thread::current().id(), panic::take_hook());
    panic::set_hook(Box::new(move |panic| match std::thread::current().id() {
        id if id == here => told(panic),
        _ => otherwise(panic),
    }));
}

fn told(panic: &PanicHookInfo<'_>) {
    ::metrics::counter!(metrics::PANICS).increment(1);
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    let (trace_id, method) = request();
    let (what, at) = (panic.payload_as_str(), panic.location().map(ToString::to_string));
    tracing::error!(panic = what, at, trace_id, method, backtrace, "a panic");
}

/// The trace and the method of the request that is being answered, if one is.
fn request() -> (Option<String>, Option<String>) {
    Request::current().map(|request| (request.trace_id.to_string(), request.method.to_string())).unzip()
}

/// An event without what could tell who called, and with what tells which call it was.
fn anonymous(event: Event<'static>) -> Event<'static> {
    let mut event = Event { server_name: None, user: None, request: None, ..event };
    event.breadcrumbs = Vec::new().into();
    event.extra.clear();
    event.message = event.message.as_deref().map(without_addresses);
    for exception in &mut event.exception {
        exception.value = exception.value.as_deref().map(without_addresses);
    }
    let (trace_id, method) = request();
    if let Some(Context::Trace(trace)) = event.contexts.get_mut("trace")
        && let Some(id) = trace_id.as_ref().and_then(|id| id.parse().ok())
    {
        trace.trace_id = id;
    }
    event.tags.extend(trace_id.map(|id| ("trace_id".to_owned(), id)));
    event.tags.extend(method.map(|method| ("method".to_owned(), method)));
    event
}

/// A database that refuses a row, for one, may say what is in it.
fn without_addresses(text: &str) -> String {
    let words = text.split_inclusive(char::is_whitespace);
    words.map(|word| if word.contains('@') { Cow::from("[address] ") } else { Cow::from(word) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::traces::Traced;
    use sentry::protocol::{Breadcrumb, EnvelopeItem, User};
    use sentry::{Client, Envelope, Hub};
    use std::panic::AssertUnwindSafe;

    #[derive(Default)]
    struct Sent(std::sync::Mutex<Vec<Envelope>>);

    impl Transport for Sent {
        fn send_envelope(&self, envelope: Envelope) {
            self.0.lock().unwrap().push(envelope);
        }
    }

    #[test]
    fn a_panic_is_sent_with_the_trace_of_its_request() {
        tell_of_panics_here();
        let sent = Arc::new(Sent::default());
        let mut options = Collector::new("https://key@sentry.example.com/1", None, None).unwrap().options();
        options.transport = Some(Arc::new(Arc::clone(&sent)));
        let client = {
            let _turn = HOOK.lock();
            Client::from(sentry::apply_defaults(options))
        };
        Hub::current().bind_client(Some(Arc::new(client)));
        let request = Request::new("a.A/B".into(), Traced::of(&http::HeaderMap::new(), "a.A/B", true));
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
    fn a_wrong_dsn_is_told_without_its_key() {
        for bad in ["", "secret", "https://host/1", "https://secret@host", "https://secret@host/"] {
            let rule = Collector::new(bad, None, None).err().unwrap();
            assert!(rule.starts_with("must be") && !rule.contains("secret"), "{bad}");
        }
        assert!(Collector::new("https://key@sentry.example.com/1", None, None).is_ok());
    }

    #[test]
    fn what_is_sent_names_nobody() {
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
        let sent = serde_json::to_string(&anonymous(event)).unwrap();
        assert!(!sent.contains("ann@") && sent.contains("Key [address] exists"), "{sent}");
    }
}
