//! The picture of a session in README: real commands and their real output on a terminal, drawn as SVG.

use std::fmt::Write;

use crate::cli::terminal::on_terminal_with;
use crate::support::{Backend, Database, Server};

const USER: &str = "olga@example.com";

/// The commands of the picture, as typed after `toggled`.
const COMMANDS: [&str; 4] = [
    "flag create checkout --name \"New checkout\"",
    "flag enable checkout --reason \"launch day\"",
    "flag list",
    "audit list --flag checkout",
];

const FONT_SIZE: f64 = 14.0;
const CHARACTER_WIDTH: f64 = 8.43;
const LINE_HEIGHT: usize = 20;
const MARGIN: usize = 18;

/// Text in one style.
struct Span {
    text: String,
    /// The parameter of the escape sequence before the text: `1` for bold, `32` for green; empty for plain text.
    style: String,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated_picture_of_a_session_is_current() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let permissions = ["view_feature_flags", "toggle_feature_flags", "manage_feature_flags", "view_audit_logs"];
    let token = server.admin().await.new_user(USER, &permissions).await;
    let mut lines = Vec::new();
    for command in COMMANDS {
        lines.push(vec![
            Span { text: "$ ".into(), style: "2".into() },
            Span { text: format!("toggled {command}"), style: "1".into() },
        ]);
        let (succeeded, shown) = on_terminal_with(command, server.address, "", &[("TOGGLED_TOKEN", &token)]).await;
        assert!(succeeded, "{command}: {shown}");
        lines.extend(shown.lines().map(|line| spans(&with_fixed_time(line))));
        lines.push(Vec::new());
    }
    lines.pop();
    super::assert_current("docs/session.svg", &svg(&lines));
}

/// Replaces the time in a line by one of the same width.
fn with_fixed_time(line: &str) -> String {
    const FIXED: &str = "2026-01-31T12:00:00.000000Z";
    let is_time = |at: &usize| {
        line.get(*at..at + FIXED.len()).is_some_and(|text| {
            text.bytes().zip(FIXED.bytes()).all(|(a, b)| a == b || (a.is_ascii_digit() && b.is_ascii_digit()))
        })
    };
    match (0..line.len()).find(is_time) {
        Some(at) => format!("{}{FIXED}{}", &line[..at], &line[at + FIXED.len()..]),
        None => line.to_owned(),
    }
}

/// Splits a line at its escape sequences.
fn spans(line: &str) -> Vec<Span> {
    let mut parts = line.trim_end().split("\u{1b}[");
    let plain = Span { text: parts.next().unwrap_or_default().to_owned(), style: String::new() };
    let styled = parts.map(|part| {
        let (style, text) = part.split_once('m').unwrap_or_default();
        Span { text: text.to_owned(), style: style.trim_start_matches('0').to_owned() }
    });
    std::iter::once(plain).chain(styled).filter(|span| !span.text.is_empty()).collect()
}

fn svg(lines: &[Vec<Span>]) -> String {
    let length = |line: &Vec<Span>| line.iter().map(|span| span.text.chars().count()).sum::<usize>();
    let columns = lines.iter().map(length).max().unwrap_or_default();
    let width = (columns as f64 * CHARACTER_WIDTH).ceil() as usize + 2 * MARGIN;
    let height = lines.len() * LINE_HEIGHT + 2 * MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace\" font-size=\"{FONT_SIZE}\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#0d1117\"/>\n"
    );
    for (row, line) in lines.iter().enumerate() {
        let y = MARGIN + row * LINE_HEIGHT + 14;
        let mut column = 0;
        for span in line {
            let x = MARGIN as f64 + column as f64 * CHARACTER_WIDTH;
            let characters = span.text.chars().count();
            let _ = writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{y}\" textLength=\"{:.1}\" lengthAdjust=\"spacingAndGlyphs\" xml:space=\"preserve\" {}>{}</text>",
                characters as f64 * CHARACTER_WIDTH,
                attributes(&span.style),
                escape(&span.text)
            );
            column += characters;
        }
    }
    svg + "</svg>\n"
}

fn attributes(style: &str) -> &'static str {
    match style {
        "1" => "fill=\"#f0f6fc\" font-weight=\"bold\"",
        "2" => "fill=\"#8b949e\"",
        "32" => "fill=\"#3fb950\"",
        "33" => "fill=\"#d29922\"",
        _ => "fill=\"#c9d1d9\"",
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

#[test]
fn lines_are_split_at_escape_sequences() {
    let found: Vec<_> = spans("a \u{1b}[32mon\u{1b}[0m b").into_iter().map(|span| (span.text, span.style)).collect();
    let expected = [("a ", ""), ("on", "32"), (" b", "")].map(|(text, style)| (text.to_owned(), style.to_owned()));
    assert_eq!(found, expected);
    assert_eq!(with_fixed_time("at 2031-12-11T10:09:08.123456Z."), "at 2026-01-31T12:00:00.000000Z.");
}
