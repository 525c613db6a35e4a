// SPDX-License-Identifier: GPL-2.0

//! Configuration files: a VM in TOML.
//!
//! | module | what it does |
//! |---|---|
//! | [`find`] | finds the file of a VM that is called by its name |
//! | [`keys`] | which keys there are, and what each means |
//! | [`table`] | reads a table key by key |
//! | [`error`] | what is wrong, and where |
//! | [`print`] | the way back: a VM as a file |
//!
//! A file may include others, and be made after another VM. Their settings lie below its own. Everything that is wrong
//! is told at once, in all files that could be read.

pub mod error;
pub mod find;
pub mod keys;
pub mod print;
pub mod table;

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use self::error::{FileError, FileErrors, SourceFile};
use self::find::FileArgument;
use super::spec::SpecLayer;
use crate::devices::file_id::FileId;
use crate::errno;

/// The longest file that is read, in bytes.
const LONGEST: u64 = 1 << 20;
/// How deep files may include each other.
const DEEPEST: usize = 8;

/// Reads a file with all that it includes. A `base` that is called by its name is looked for beside the file first, then in
/// `folders`.
///
/// # Errors
/// Everything that is wrong with any of the files.
pub fn load(path: &Path, folders: &[PathBuf]) -> Result<SpecLayer, FileErrors> {
    let mut loader = Loader { folders, errors: Vec::new(), open: Vec::new() };
    let layer = loader.load(path, None);
    match layer {
        Some(layer) if loader.errors.is_empty() => Ok(layer),
        _ => Err(FileErrors(loader.errors)),
    }
}

/// A file and those that it is read for.
struct Loader<'a> {
    folders: &'a [PathBuf],
    errors: Vec<FileError>,
    /// The files that include each other, the outermost first.
    open: Vec<FileId>,
}

impl Loader<'_> {
    /// Reads a file, for another one's sake at a place.
    fn load(&mut self, path: &Path, from: Option<(&SourceFile<'_>, &Range<usize>)>) -> Option<SpecLayer> {
        let mut wrong = |text: String| match from {
            Some((source, at)) => source.wrong(at, format!("{}: {text}", path.display())),
            None => self.errors.push(FileError { file: path.into(), place: None, text }),
        };
        let (id, text) = match read(path) {
            Ok(read) => read,
            Err(text) => {
                wrong(text);
                return None;
            }
        };
        if self.open.contains(&id) {
            wrong("the file includes itself".into());
            return None;
        }
        if self.open.len() == DEEPEST {
            wrong(format!("files may include each other {DEEPEST} deep"));
            return None;
        }
        self.open.push(id);
        let layer = self.load_text(path, &text);
        self.open.pop();
        Some(layer)
    }

    /// Reads a file's text, and the files below it.
    fn load_text(&mut self, path: &Path, text: &str) -> SpecLayer {
        let source = SourceFile::new(path, text);
        let contents = keys::parse(&source);
        let mut layer = contents.layer;
        for include in contents.include.iter().rev() {
            let below = self.load(&include.value, Some((&source, &include.at)));
            layer = layer.over(below.unwrap_or_default());
        }
        if let Some(base) = contents.base {
            let file = self.base(path, &base.value);
            let below = self.load(&file, Some((&source, &base.at))).unwrap_or_default();
            // What is made after another VM is another one.
            layer = layer.over(SpecLayer { name: None, pid_file: None, ..below });
        }
        // What is wrong with this file goes before what is with those below.
        let below = std::mem::replace(&mut self.errors, source.into_errors());
        self.errors.extend(below);
        layer
    }

    /// The file of a `base`.
    fn base(&self, path: &Path, base: &str) -> PathBuf {
        let folder = path.parent().unwrap_or(Path::new(""));
        match FileArgument::new(base) {
            FileArgument::Path(base) => folder.join(base),
            name => name.find([folder].into_iter().chain(self.folders.iter().map(PathBuf::as_path))),
        }
    }
}

/// Reads a file's text, and says which file it is.
fn read(path: &Path) -> Result<(FileId, String), String> {
    let told = |e: io::Error| errno::explain(&e);
    let file = File::open(path).map_err(told)?;
    let id = FileId::of(&file).map_err(told)?;
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(told)?;
    if bytes.len() as u64 > LONGEST {
        return Err("the file is longer than 1 MiB: is it a configuration?".into());
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let line = e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        format!("line {line} is not text in UTF-8")
    })?;
    Ok((id, text))
}
