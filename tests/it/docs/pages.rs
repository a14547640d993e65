//! README and the pages of docs/: their length, their order and their sentences.

use super::{documents, read};

/// The most lines of README: it welcomes, the pages explain.
const MAX_README_LINES: usize = 200;

/// The most words of a sentence.
const MAX_SENTENCE_WORDS: usize = 25;

/// How each page begins, after its title.
const PURPOSE: &str = "With this page you ";

/// The pages that the table of contents links to, in its order.
fn contents() -> Vec<String> {
    let table = read("docs/README.md");
    let links =
        super::links::links(&table).into_iter().filter(|link| link.ends_with(".md") && !link.starts_with("../"));
    links.collect()
}

#[test]
fn readme_has_at_most_200_lines() {
    let lines = read("README.md").lines().count();
    assert!(lines <= MAX_README_LINES, "README.md has {lines} lines: move details to a page of docs/");
}

#[test]
fn contents_list_each_page_once() {
    let mut listed = contents();
    listed.sort();
    let pages = documents().into_iter().filter_map(|page| page.strip_prefix("docs/").map(str::to_owned));
    let pages: Vec<_> = pages.filter(|page| page != "README.md").collect();
    assert_eq!(listed, pages);
}

#[test]
fn readme_lists_pages_in_the_same_order() {
    let text = read("README.md");
    let (_, table) = text.split_once("\n## Documentation\n").unwrap();
    let links: Vec<_> = super::links::links(table)
        .into_iter()
        .filter_map(|link| link.strip_prefix("docs/").map(str::to_owned))
        .filter(|page| page != "README.md")
        .collect();
    assert_eq!(links, contents());
}

#[test]
fn pages_say_first_what_they_are_for() {
    for page in contents() {
        let text = read(&format!("docs/{page}"));
        let mut paragraphs = text.split("\n\n");
        assert!(paragraphs.next().unwrap().starts_with("# "), "{page}");
        assert!(paragraphs.next().unwrap().starts_with(PURPOSE), "{page} must begin with: {PURPOSE}...");
    }
}

#[test]
fn sentences_of_pages_are_short() {
    let mut report = String::new();
    for document in documents() {
        // Generated from comments, or a list of changes.
        if matches!(
            document.as_str(),
            "docs/api.md" | "docs/README.md" | "CHANGELOG.md" | "CONTRIBUTING.md" | "ARCHITECTURE.md"
        ) {
            continue;
        }
        for sentence in sentences(&read(&document)) {
            let words = sentence.split_whitespace().filter(|word| word.contains(char::is_alphanumeric)).count();
            if words > MAX_SENTENCE_WORDS {
                report += &format!("{document}: {words} words: {sentence}\n");
            }
        }
    }
    assert!(report.is_empty(), "{report}");
}

/// The sentences of the prose: no code blocks, no generated parts; each list item, table cell and heading apart.
fn sentences(text: &str) -> Vec<String> {
    let (mut code, mut generated) = (false, false);
    let mut pieces = vec![String::new()];
    for line in text.lines() {
        code ^= line.trim_start().starts_with("```");
        generated = (generated || line.contains(": written by make docs -->")) && !line.starts_with("<!-- end of");
        let line = line.trim();
        if code || generated || line.is_empty() || line.starts_with("```") || line.starts_with('#') {
            pieces.push(String::new());
        } else if line.starts_with('|') {
            pieces.extend(line.split('|').map(str::to_owned));
            pieces.push(String::new());
        } else {
            let is_item =
                line.starts_with("- ") || line.split_once(". ").is_some_and(|(number, _)| number.parse::<u8>().is_ok());
            if is_item {
                pieces.push(String::new());
            }
            let piece = pieces.last_mut().unwrap();
            piece.push(' ');
            piece.push_str(line);
        }
    }
    pieces.iter().flat_map(|piece| split_sentences(piece)).collect()
}

/// Splits at a full stop, question mark or colon before a space. A link counts as its text, inline code as one word.
fn split_sentences(piece: &str) -> Vec<String> {
    let mut plain = String::new();
    for (index, part) in piece.split('`').enumerate() {
        plain.push_str(if index % 2 == 1 { "code" } else { part });
    }
    let mut text = String::new();
    let mut rest = plain.as_str();
    while let Some((before, after)) = rest.split_once("](") {
        text.push_str(before);
        rest = after.split_once(')').map_or("", |(_, rest)| rest);
    }
    text.push_str(rest);
    let text = text.replace(['*', '[', '!', '('], " ");
    let mut sentences = Vec::new();
    let mut sentence = String::new();
    for word in text.split_whitespace() {
        sentence.push_str(word);
        sentence.push(' ');
        if word.trim_end_matches([')', '"']).ends_with(['.', '?', ':', ';']) {
            sentences.push(std::mem::take(&mut sentence));
        }
    }
    sentences.push(sentence);
    sentences
}

#[test]
fn sentences_are_found_in_prose_only() {
    let text = "# A title\n\nOne. Two `a b c`\n[three](four five).\n\n- item\n- item two\n\n```sh\ncode. code\n```\n| a b | c |\n";
    let found: Vec<_> = sentences(text).iter().map(|one| one.trim().to_owned()).filter(|one| !one.is_empty()).collect();
    assert_eq!(found, ["One.", "Two code three.", "- item", "- item two", "a b", "c"]);
}
