//! A client of OFREP's streams of events, over both versions of HTTP.

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;

use super::web::{Web, post};
use super::with_timeout;

pub const FLAGS: &str = "/ofrep/v1/evaluate/flags";

/// An answer with all flags.
pub struct Bulk {
    pub status: u16,
    pub body: Value,
    /// With its quotes.
    pub etag: String,
}

impl Bulk {
    /// The path and query of the stream of events.
    pub fn events(&self) -> String {
        self.body["eventStreams"][0]["endpoint"]["requestUri"].as_str().unwrap().to_owned()
    }

    /// The tag of the flags, without that of the ticket.
    pub fn tag(&self) -> String {
        self.etag.trim_matches('"').rsplit_once('-').unwrap().0.to_owned()
    }
}

/// Asks for all flags of an environment, as a provider does: with the tag that it has, and what an event announced.
pub async fn bulk(web: &Web, token: &str, environment: &str, etag: Option<&str>, announced: Option<&str>) -> Bulk {
    let query = announced.map(|tag| format!("?flagConfigEtag={tag}&flagConfigLastModified=1")).unwrap_or_default();
    let mut request = post(&format!("{FLAGS}{query}"), "application/json", Some(token), r#"{"context":{}}"#);
    request.headers_mut().insert("flagd-selector", environment.parse().unwrap());
    if let Some(etag) = etag {
        request.headers_mut().insert("if-none-match", etag.parse().unwrap());
    }
    let answer = web.send(request).await;
    let etag = answer.headers().get("etag").map(|tag| tag.to_str().unwrap().to_owned()).unwrap_or_default();
    let body = serde_json::from_slice(answer.body()).unwrap_or_default();
    Bulk { status: answer.status().as_u16(), body, etag }
}

/// An event.
#[derive(Debug, PartialEq, Eq)]
pub struct Event {
    pub id: String,
    pub data: Value,
}

/// A stream of events.
pub struct Events {
    body: Incoming,
    text: String,
    /// What the server asks a client to wait before it connects again.
    pub retry_ms: u64,
}

impl Events {
    /// Opens a stream, which must be there.
    pub async fn open(web: &Web, uri: &str, last_event_id: Option<&str>) -> Self {
        let answer = ask(web, uri, last_event_id).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        assert_eq!(answer.headers()["cache-control"], "no-store");
        assert_eq!(answer.headers()["x-accel-buffering"], "no");
        let mut events = Self { body: answer.into_body(), text: String::new(), retry_ms: 0 };
        let first = events.block().await.expect("not the end");
        events.retry_ms = first.strip_prefix("retry: ").unwrap_or_else(|| panic!("{first}")).parse().unwrap();
        events
    }

    /// The next event.
    pub async fn next(&mut self) -> Event {
        loop {
            let block = self.block().await.expect("an event, not the end");
            if block == ":" {
                continue;
            }
            let lines: Vec<_> = block.lines().collect();
            let [id, "event: message", data] = &lines[..] else { panic!("{block}") };
            let data = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            return Event { id: id.strip_prefix("id: ").unwrap().to_owned(), data };
        }
    }

    /// Reads until the server ends the stream; returns the number of events before that.
    pub async fn rest(mut self) -> usize {
        let mut events = 0;
        while let Some(block) = self.block().await {
            events += usize::from(block != ":");
        }
        events
    }

    /// What comes up to the next empty line; `None` at the end.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let block = block.to_owned();
                self.text = rest.to_owned();
                return Some(block);
            }
            let frame = with_timeout("an event", self.body.frame()).await;
            let Some(frame) = frame else {
                assert_eq!(self.text, "", "a part of an event");
                return None;
            };
            // Trailers would be a status of gRPC.
            let data = frame.expect("an orderly end").into_data().expect("data");
            self.text.push_str(std::str::from_utf8(&data).unwrap());
        }
    }
}

/// Asks for a stream of events.
pub async fn ask(web: &Web, uri: &str, last_event_id: Option<&str>) -> Response<Incoming> {
    let mut request = Request::get(uri).header("accept", "text/event-stream");
    if let Some(id) = last_event_id {
        request = request.header("last-event-id", id);
    }
    web.open(request.body(Vec::new()).unwrap()).await
}

/// Asserts that a request for events gets 204, which ends an `EventSource`.
pub async fn assert_refused(web: &Web, uri: &str) {
    let answer = ask(web, uri, None).await;
    assert_eq!(answer.status(), 204, "{uri} {answer:?}");
    assert!(answer.into_body().collect().await.unwrap().to_bytes().is_empty());
}
