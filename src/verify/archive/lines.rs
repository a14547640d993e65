//! The lines of an exported file, one at a time, each of limited length.

use std::io::{self, BufRead, Read};

/// The longest line in bytes: a message of 4 MiB with every character escaped, and room to spare. A file with a longer line
/// was not exported.
const MAX_LINE_LENGTH: u64 = 32 * 1024 * 1024;

/// How a line ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineEnd {
    /// With its line feed.
    LineFeed,
    /// At the end of the file. If it is empty, the line before was the last.
    EndOfFile,
    /// Cut off at the longest length.
    TooLong,
}

/// Reads the next line into `line`, with its line feed. Line feeds between two `quote` bytes, as in CSV, do not end a line.
///
/// # Errors
/// The source could not be read.
pub fn read_line(source: &mut impl BufRead, line: &mut Vec<u8>, quote: Option<u8>) -> io::Result<LineEnd> {
    line.clear();
    let mut is_quoted = false;
    loop {
        let start = line.len();
        let read = source.by_ref().take(MAX_LINE_LENGTH - start as u64).read_until(b'\n', line)?;
        let quotes = |quote| line[start..].iter().filter(|byte| **byte == quote).count();
        is_quoted ^= quote.is_some_and(|quote| quotes(quote) % 2 == 1);
        match line.last() {
            Some(b'\n') if read > 0 && !is_quoted => return Ok(LineEnd::LineFeed),
            _ if line.len() as u64 >= MAX_LINE_LENGTH => return Ok(LineEnd::TooLong),
            Some(b'\n') if read > 0 => {}
            _ => return Ok(LineEnd::EndOfFile),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut text: &[u8], quote: Option<u8>) -> Vec<(String, LineEnd)> {
        let (mut lines, mut line) = (Vec::new(), Vec::new());
        loop {
            let ending = read_line(&mut text, &mut line, quote).unwrap();
            lines.push((String::from_utf8(line.clone()).unwrap(), ending));
            if ending != LineEnd::LineFeed {
                return lines;
            }
        }
    }

    #[test]
    fn line_ends_at_line_feed_unless_quoted() {
        use LineEnd::{EndOfFile, LineFeed};
        let read = |text: &str, quote| all(text.as_bytes(), quote);
        let expected = |lines: &[(&str, LineEnd)]| lines.iter().map(|(l, e)| ((*l).to_owned(), *e)).collect::<Vec<_>>();
        assert_eq!(read("a\nb", None), expected(&[("a\n", LineFeed), ("b", EndOfFile)]));
        assert_eq!(read("a\n", None), expected(&[("a\n", LineFeed), ("", EndOfFile)]));
        assert_eq!(read("a\"\nb\"\n", None), expected(&[("a\"\n", LineFeed), ("b\"\n", LineFeed), ("", EndOfFile)]));
        assert_eq!(read("a\"\nb\"\n", Some(b'"')), expected(&[("a\"\nb\"\n", LineFeed), ("", EndOfFile)]));
        assert_eq!(read("\"\n\n", Some(b'"')), expected(&[("\"\n\n", EndOfFile)]), "the quote is not closed");
    }

    #[test]
    fn line_length_is_limited() {
        let most = MAX_LINE_LENGTH as usize;
        for quote in [None, Some(b'"')] {
            let mut endless = io::BufReader::new(io::repeat(b'x'));
            let mut line = Vec::new();
            assert_eq!(read_line(&mut endless, &mut line, quote).unwrap(), LineEnd::TooLong);
            assert_eq!(line.len(), most);
        }
        let feeds = [b"\"", &vec![b'\n'; most][..]].concat();
        assert_eq!(
            read_line(&mut &feeds[..], &mut Vec::new(), Some(b'"')).unwrap(),
            LineEnd::TooLong,
            "quoted as well"
        );
        let mut just = vec![b'x'; most - 1];
        just.push(b'\n');
        assert_eq!(read_line(&mut &just[..], &mut Vec::new(), None).unwrap(), LineEnd::LineFeed);
    }
}
