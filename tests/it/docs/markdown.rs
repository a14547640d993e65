//! Formats text as Markdown.

/// Formats a comment as paragraphs, and keeps its line breaks.
pub fn paragraphs(comment: &str) -> String {
    let lines: Vec<String> = comment.lines().map(|line| escape_outside_code(line.trim())).collect();
    lines.join("\n").trim().to_owned()
}

/// Formats a text as a table cell.
pub fn cell(text: &str) -> String {
    let paragraphs = text.split("\n\n").map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "));
    escape_outside_code(&paragraphs.collect::<Vec<_>>().join("<br>")).replace('|', "\\|").trim().to_owned()
}

/// Formats a text as inline code; an empty text stays empty.
pub fn code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("`{}`", text.replace('|', "\\|")) }
}

/// Formats a table. Without rows the result is empty.
pub fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut text = format!("| {} |\n|{}\n", heads.join(" | "), "---|".repeat(heads.len()));
    for row in rows {
        text += &format!("| {} |\n", row.join(" | "));
    }
    text
}

/// Escapes `*` and `<` outside of inline code. The comments contain no other Markdown syntax that needs it.
fn escape_outside_code(text: &str) -> String {
    let escaped = text.split('`').enumerate().map(|(part, text)| match part % 2 {
        0 => text.replace('*', "\\*").replace('<', "&lt;").replace("&lt;br>", "<br>"),
        _ => text.to_owned(),
    });
    escaped.collect::<Vec<_>>().join("`")
}
