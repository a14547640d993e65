//! The lines of a file that holds entries of the log, read one at a time, however long somebody made them.

use std::io::{self, BufRead, Read};

/// No line is longer, in bytes: a message of 4 MiB, of which every character is escaped, with room to spare. What goes on
/// for longer is some other file.
const LONGEST: u64 = 32 * 1024 * 1024;

/// How a line ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// With its line feed.
    Complete,
    /// With the file. A line of no length is none: the one before was the last.
    File,
    /// Not within what is the most.
    TooLong,
}

/// Reads the next line, with its line feed, in the place of what `line` holds. Where marks `quote` a text, as in CSV, line
/// feeds between them end no line.
pub(super) fn next(source: &mut impl BufRead, line: &mut Vec<u8>, quote: Option<u8>) -> io::Result<Ending> {
    line.clear();
    let mut quoted = false;
    loop {
        let start = line.len();
        let read = source.by_ref().take(LONGEST - start as u64).read_until(b'\n', line)?;
        let marks = |quote| line[start..].iter().filter(|byte| **byte == quote).count();
        quoted ^= quote.is_some_and(|quote| marks(quote) % 2 == 1);
        match line.last() {
            Some(b'\n') if read > 0 && !quoted => return Ok(Ending::Complete),
            _ if line.len() as u64 >= LONGEST => return Ok(Ending::TooLong),
            Some(b'\n') if read > 0 => {}
            _ => return Ok(Ending::File),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut text: &[u8], quote: Option<u8>) -> Vec<(String, Ending)> {
        let (mut lines, mut line) = (Vec::new(), Vec::new());
        loop {
            let ending = next(&mut text, &mut line, quote).unwrap();
            lines.push((String::from_utf8(line.clone()).unwrap(), ending));
            if ending != Ending::Complete {
                return lines;
            }
        }
    }

    #[test]
    fn a_line_ends_with_its_line_feed_unless_that_is_quoted() {
        use Ending::{Complete, File};
        let told = |text: &str, quote| all(text.as_bytes(), quote);
        let of = |lines: &[(&str, Ending)]| lines.iter().map(|(l, e)| ((*l).to_owned(), *e)).collect::<Vec<_>>();
        assert_eq!(told("a\nb", None), of(&[("a\n", Complete), ("b", File)]));
        assert_eq!(told("a\n", None), of(&[("a\n", Complete), ("", File)]));
        assert_eq!(told("a\"\nb\"\n", None), of(&[("a\"\n", Complete), ("b\"\n", Complete), ("", File)]));
        assert_eq!(told("a\"\nb\"\n", Some(b'"')), of(&[("a\"\nb\"\n", Complete), ("", File)]));
        assert_eq!(told("\"\n\n", Some(b'"')), of(&[("\"\n\n", File)]), "the quotation has no end");
    }

    #[test]
    fn a_line_has_a_longest_length() {
        let most = LONGEST as usize;
        for quote in [None, Some(b'"')] {
            let mut endless = io::BufReader::new(io::repeat(b'x'));
            let mut line = Vec::new();
            assert_eq!(next(&mut endless, &mut line, quote).unwrap(), Ending::TooLong);
            assert_eq!(line.len(), most);
        }
        let feeds = [b"\"", &vec![b'\n'; most][..]].concat();
        assert_eq!(
            next(&mut &feeds[..], &mut Vec::new(), Some(b'"')).unwrap(),
            Ending::TooLong,
            "nor is it endless quoted"
        );
        let mut just = vec![b'x'; most - 1];
        just.push(b'\n');
        assert_eq!(next(&mut &just[..], &mut Vec::new(), None).unwrap(), Ending::Complete);
    }
}
