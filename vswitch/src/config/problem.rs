//! What is wrong with a configuration, told so that a person can repair it.
//!
//! In: a place in the source text and what is wrong there. Out: a [`Problem`] that prints as
//! `file:line:column: message`, the offending line with a mark under it, and what to do.
//! Must hold: lines and columns count from 1, columns in characters.

use std::{fmt, ops::Range};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A configuration's text and where it came from.
#[derive(Debug)]
pub(crate) struct Source<'t> {
    file: &'t str,
    text: &'t str,
    /// How many lines end before each block of the text.
    blocks: Vec<u32>,
}

/// Bytes of a block. Few enough that a byte counts its line ends, which the compiler makes a few
/// instructions of.
const BLOCK: usize = 128;

fn line_ends(bytes: &[u8]) -> u32 {
    let block = |block: &[u8]| {
        let ends = block.iter().map(|byte| u8::from(*byte == b'\n'));
        u32::from(ends.sum::<u8>())
    };
    bytes.chunks(BLOCK).map(block).sum()
}

impl<'t> Source<'t> {
    pub(crate) fn new(file: &'t str, text: &'t str) -> Self {
        let mut ends = 0;
        let blocks = text.as_bytes().chunks(BLOCK).map(|block| {
            let before = ends;
            ends += line_ends(block);
            before
        });
        Self {
            file,
            text,
            blocks: blocks.collect(),
        }
    }

    /// The file's name.
    pub(crate) fn file(&self) -> &'t str {
        self.file
    }

    /// Line and column of a byte offset, from 1.
    pub(crate) fn position(&self, offset: usize) -> (usize, usize) {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let block = offset / BLOCK;
        let before = match self.blocks.get(block) {
            Some(ends) => ends + line_ends(&self.text.as_bytes()[block * BLOCK..offset]),
            None => line_ends(self.text.as_bytes()),
        };
        let start = self.line_start(offset);
        let column = self.text[start..offset].chars().count() + 1;
        (before as usize + 1, column)
    }

    /// Where the line begins that a byte of the text, or its end, is in.
    fn line_start(&self, offset: usize) -> usize {
        self.text[..offset].rfind('\n').map_or(0, |end| end + 1)
    }

    /// The text at a span.
    pub(crate) fn text(&self, span: &Range<usize>) -> Option<&'t str> {
        self.text.get(span.clone())
    }

    /// `file:line` of a byte offset.
    pub(crate) fn place(&self, offset: usize) -> String {
        format!("{}:{}", self.file, self.position(offset).0)
    }

    /// A problem at `span`.
    pub(crate) fn problem(
        &self,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Problem {
        let (line, column) = self.position(span.start);
        let mut start = span.start.min(self.text.len());
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        let rest = &self.text[self.line_start(start)..];
        let excerpt = rest.lines().next().unwrap_or("").to_owned();
        let rest = excerpt.chars().count().saturating_sub(column - 1);
        let marked = self.text.get(span).map_or(1, |t| t.chars().count());
        Problem {
            file: self.file.to_owned(),
            line,
            column,
            width: marked.min(rest).max(1),
            excerpt,
            message: message.into(),
            help: help.into(),
        }
    }
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The file, as it was named.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// How many characters are meant, at least 1.
    pub width: usize,
    /// The line's text.
    pub excerpt: String,
    /// What is wrong.
    pub message: String,
    /// What to do; may be empty.
    pub help: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len());
        // Tabs stay tabs under the line, so that the mark stands where the text does.
        let indent: String = self
            .excerpt
            .chars()
            .take(self.column - 1)
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        writeln!(
            f,
            "{}:{}:{}: {}",
            self.file, self.line, self.column, self.message
        )?;
        writeln!(f, "  {number} | {}", self.excerpt)?;
        write!(f, "  {gutter} | {indent}{}", "^".repeat(self.width))?;
        if !self.help.is_empty() {
            write!(f, "\n  {gutter} = {}", self.help)?;
        }
        Ok(())
    }
}

/// Everything that is wrong with a configuration, in the order of the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", list(.0))]
pub struct Problems(pub Vec<Problem>);

fn list(problems: &[Problem]) -> String {
    let mut text = String::new();
    for problem in problems {
        text.push_str(&problem.to_string());
        text.push_str("\n\n");
    }
    let count = problems.len();
    let plural = if count == 1 { "problem" } else { "problems" };
    text + &format!("{count} {plural}")
}

pub(crate) use policy::nearest::nearest;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_points_at_its_text() {
        let source = Source::new("a.toml", "x = 1\n\tname = \"bluue\"\n");
        let problem = source.problem(14..21, "no network \"bluue\"", "did you mean \"blue\"?");
        assert_eq!(
            problem.to_string(),
            "a.toml:2:9: no network \"bluue\"\n  2 | \tname = \"bluue\"\n    | \t       ^^^^^^^\n    = did you mean \"blue\"?"
        );
    }

    #[test]
    fn lines_are_counted_wherever_they_end() {
        let text: String = (0..2000).map(|n| "x".repeat(n * 7 % 31) + "\n").collect();
        let source = Source::new("a", &text);
        let (mut line, mut column) = (1, 1);
        for (at, byte) in text.bytes().enumerate() {
            assert_eq!(source.position(at), (line, column), "{at}");
            column += 1;
            if byte == b'\n' {
                (line, column) = (line + 1, 1);
            }
        }
        assert_eq!(source.position(text.len()), (2001, 1));
    }

    #[test]
    fn positions_beyond_the_text_stay_within_it() {
        let source = Source::new("a", "é");
        assert_eq!(source.position(1), (1, 1));
        assert_eq!(source.position(99), (1, 2));
        assert_eq!(source.problem(5..9, "m", "").width, 1);
    }
}
