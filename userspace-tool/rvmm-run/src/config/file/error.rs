// SPDX-License-Identifier: GPL-2.0

//! What is wrong with a configuration file, and where.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One thing that is wrong: `FILE:LINE:COLUMN: what`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    /// The file, as the user or another file names it.
    pub file: PathBuf,
    /// Line and column, both from 1; none where it is the file as a whole. Columns count characters.
    pub place: Option<(usize, usize)>,
    /// What is wrong, and what to do about it.
    pub text: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some((line, column)) = self.place {
            write!(f, "{line}:{column}:")?;
        }
        write!(f, " {}", self.text)
    }
}

/// Everything that is wrong, at least one thing, a line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileErrors(pub Vec<FileError>);

impl fmt::Display for FileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(FileError::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for FileErrors {}

/// The text of a file, and what was found wrong with it.
#[derive(Debug)]
pub struct SourceFile<'a> {
    /// The file's name for messages; what it says of paths is relative to its folder.
    pub path: &'a Path,
    /// Its contents.
    pub text: &'a str,
    errors: RefCell<Vec<FileError>>,
}

impl<'a> SourceFile<'a> {
    /// A file that nothing is wrong with yet.
    pub fn new(path: &'a Path, text: &'a str) -> Self {
        Self { path, text, errors: RefCell::default() }
    }

    /// Notes what is wrong at a place, in bytes of the text.
    pub fn wrong(&self, at: &Range<usize>, text: impl Into<String>) {
        let place = Some(line_and_column(self.text, at.start));
        self.errors.borrow_mut().push(FileError { file: self.path.into(), place, text: text.into() });
    }

    /// Returns what is wrong, in the order of the file.
    pub fn into_errors(self) -> Vec<FileError> {
        let mut errors = self.errors.into_inner();
        errors.sort_by_key(|e| e.place);
        errors
    }
}

/// Returns line and column of a byte, both from 1; of one behind the end, those of the end.
fn line_and_column(text: &str, byte: usize) -> (usize, usize) {
    let before = text.char_indices().take_while(|(at, _)| *at < byte).map(|(_, c)| c);
    before.fold((1, 1), |(line, column), c| if c == '\n' { (line + 1, 1) } else { (line, column + 1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters() {
        let text = "a = 1\nfé = 2\n";

        assert_eq!(line_and_column(text, 0), (1, 1));
        assert_eq!(line_and_column(text, 6), (2, 1));
        assert_eq!(line_and_column(text, text.find('2').unwrap()), (2, 6));
        assert_eq!(line_and_column(text, 1000), (3, 1));
    }

    #[test]
    fn errors_come_in_the_order_of_the_file() {
        let source = SourceFile::new(Path::new("x.toml"), "a\nb\n");
        source.wrong(&(2..3), "second");
        source.wrong(&(0..1), "first");

        let errors = FileErrors(source.into_errors());

        assert_eq!(errors.to_string(), "x.toml:1:1: first\nx.toml:2:1: second");
    }
}
