//! Text as Markdown.

/// A comment as a paragraph or several, with the line breaks of the comment.
pub fn paragraphs(comment: &str) -> String {
    let lines: Vec<String> = comment.lines().map(|line| outside_code(line.trim())).collect();
    lines.join("\n").trim().to_owned()
}

/// A text as the cell of a table.
pub fn cell(text: &str) -> String {
    let paragraphs = text.split("\n\n").map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "));
    outside_code(&paragraphs.collect::<Vec<_>>().join("<br>")).replace('|', "\\|").trim().to_owned()
}

/// Code, if there is any.
pub fn code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("`{}`", text.replace('|', "\\|")) }
}

/// A table, or nothing if it has no rows.
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

/// Of what Markdown would take for something else, the comments hold but `<` and names with asterisks or underscores.
fn outside_code(text: &str) -> String {
    let escaped = text.split('`').enumerate().map(|(part, text)| match part % 2 {
        0 => text.replace('*', "\\*").replace('<', "&lt;").replace("&lt;br>", "<br>"),
        _ => text.to_owned(),
    });
    escaped.collect::<Vec<_>>().join("`")
}
