// SPDX-License-Identifier: GPL-2.0

//! Reads a table of a configuration file key by key, and notes what is wrong with each.
//!
//! Which keys there are is said by asking for them: what nobody has asked for is unknown, and the nearest of those that
//! were is suggested.

use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use toml::de::{DeTable, DeValue};
use toml::Spanned;

use super::error::SourceFile;

/// How like a key must be to be suggested, from 0 to 1.
const LIKENESS: f64 = 0.8;
/// How like a key is that is part of another.
const LIKENESS_OF_PART: f64 = 0.9;

/// A table that is being read.
#[derive(Debug)]
pub struct TableReader<'a> {
    source: &'a SourceFile<'a>,
    table: &'a DeTable<'a>,
    /// What it is, as in "of a disk"; empty for the file itself.
    of: &'static str,
    asked: Vec<&'static str>,
}

/// A value with its key, where it stands, and what it was read as.
#[derive(Clone, Debug)]
pub struct Located<T> {
    /// Bytes of the file.
    pub at: Range<usize>,
    /// What stands there.
    pub value: T,
}

impl<'a> TableReader<'a> {
    /// Begins to read a table that is `of` something.
    pub fn new(source: &'a SourceFile<'a>, table: &'a DeTable<'a>, of: &'static str) -> Self {
        Self { source, table, of, asked: Vec::new() }
    }

    /// The keys that were asked for.
    pub fn asked(&self) -> &[&'static str] {
        &self.asked
    }

    fn find(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.asked.push(key);
        self.table.iter().find(|(k, _)| k.get_ref() == key).map(|(_, value)| value)
    }

    /// Where the value of `key` stands, if there is one.
    pub fn place(&self, key: &str) -> Option<Range<usize>> {
        self.table.iter().find(|(k, _)| k.get_ref() == key).map(|(k, _)| k.span())
    }

    /// A value that `take` knows, or a note that it is no `wanted`.
    fn typed<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        take: impl Fn(&'a DeValue<'a>) -> Option<T>,
    ) -> Option<Located<T>> {
        let found = self.find(key)?;
        match take(found.get_ref()) {
            Some(value) => Some(Located { at: found.span(), value }),
            None => {
                let kind = kind_of(found.get_ref());
                self.source.wrong(&found.span(), format!("{key}: {wanted} is wanted, not {kind}"));
                None
            }
        }
    }

    /// Text of any kind but with a zero byte, which nothing takes that it could be for.
    pub fn text(&mut self, key: &'static str) -> Option<Located<&'a str>> {
        let text = self.typed(key, "a string", DeValue::as_str)?;
        self.without_zero(key, text)
    }

    fn without_zero(&self, key: &str, text: Located<&'a str>) -> Option<Located<&'a str>> {
        if text.value.contains('\0') {
            self.source.wrong(&text.at, format!("{key}: there is a zero byte in it"));
            return None;
        }
        Some(text)
    }

    /// Text that `T` parses.
    pub fn parsed<T: FromStr<Err: Display>>(&mut self, key: &'static str) -> Option<T> {
        let text = self.text(key)?;
        self.checked(key, &text.at, text.value.parse())
    }

    /// What was made of a value, or a note why nothing could be.
    fn checked<T>(&self, key: &str, at: &Range<usize>, made: Result<T, impl Display>) -> Option<T> {
        made.map_err(|e| self.source.wrong(at, format!("{key}: {e}"))).ok()
    }

    /// A size: text that `T` parses, or a whole number, which is parsed as its digits.
    pub fn size<T, E: Display>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        let size = self.typed(key, "a string or a whole number", |value| match value {
            DeValue::Integer(_) => integer(value).map(|n| n.to_string()),
            value => value.as_str().map(str::to_string),
        })?;
        self.checked(key, &size.at, parse(&size.value))
    }

    /// `true` or `false`.
    pub fn flag(&mut self, key: &'static str) -> Option<bool> {
        Some(self.typed(key, "true or false", DeValue::as_bool)?.value)
    }

    /// A whole number of a range.
    pub fn number<T>(&mut self, key: &'static str, range: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i64> + Into<i64> + Copy,
    {
        let found = self.typed(key, "a whole number", |v| v.is_integer().then(|| integer(v)))?;
        let (least, most) = ((*range.start()).into(), (*range.end()).into());
        let fits = found.value.filter(|n| (least..=most).contains(n));
        let number = fits.and_then(|n| T::try_from(n).ok());
        if number.is_none() {
            let limit = if most == i64::from(u32::MAX) {
                format!("at least {least}")
            } else {
                format!("{least} to {most}")
            };
            self.source.wrong(&found.at, format!("{key}: a number out of range: {limit}"));
        }
        number
    }

    /// A path, relative to the file's folder.
    pub fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let text = self.text(key)?;
        self.path_of(key, text).map(|path| path.value)
    }

    fn path_of(&self, key: &str, text: Located<&str>) -> Option<Located<PathBuf>> {
        if text.value.is_empty() {
            self.source.wrong(&text.at, format!("{key}: the path is empty"));
            return None;
        }
        Some(Located { value: self.beside(Path::new(text.value)), at: text.at })
    }

    /// A path as seen from the file's folder.
    pub fn beside(&self, path: &Path) -> PathBuf {
        self.source.path.parent().map_or_else(|| path.into(), |folder| folder.join(path))
    }

    /// A list, each item of which `read` makes something of; it is told the item's place and value.
    fn list<T>(
        &mut self,
        key: &'static str,
        example: &str,
        read: impl Fn(&Self, Range<usize>, &'a DeValue<'a>) -> Option<T>,
    ) -> Option<Vec<Located<T>>> {
        let found = self.find(key)?;
        let Some(items) = found.get_ref().as_array() else {
            let kind = kind_of(found.get_ref());
            self.source.wrong(&found.span(), format!("{key}: a list is wanted, not {kind}: write {example}"));
            return None;
        };
        let read = |item: &'a Spanned<DeValue<'a>>| {
            let value = read(self, item.span(), item.get_ref())?;
            Some(Located { at: item.span(), value })
        };
        // Every item is read, for what is wrong with it.
        let read: Vec<_> = items.iter().map(read).collect();
        read.into_iter().collect()
    }

    /// A list of strings.
    pub fn texts(&mut self, key: &'static str) -> Option<Vec<Located<&'a str>>> {
        let example = format!("{key} = [\"…\"]");
        let list = self.list(key, &example, |this, at, value| match value.as_str() {
            Some(value) => this.without_zero(key, Located { at, value }).map(|text| text.value),
            None => {
                this.source.wrong(&at, format!("{key}: a string is wanted, not {}", kind_of(value)));
                None
            }
        })?;
        Some(list)
    }

    /// A list of tables, or of paths that say all there is to say. `one` is what an item is, as in "of a disk".
    pub fn items<T>(
        &mut self,
        key: &'static str,
        one: &'static str,
        of_path: Option<impl Fn(PathBuf) -> T>,
        of_table: impl Fn(&mut TableReader<'a>, Range<usize>) -> Option<T>,
    ) -> Option<Vec<Located<T>>> {
        let wanted = if of_path.is_some() { "a path or a table" } else { "a table" };
        self.list(key, &format!("[[{key}]]"), |this, at, value| match (value, &of_path) {
            (DeValue::Table(table), _) => {
                let mut reader = TableReader::new(this.source, table, one);
                let made = of_table(&mut reader, at);
                reader.finish();
                made
            }
            (DeValue::String(text), Some(of_path)) => {
                let text = this.without_zero(key, Located { at, value: text.as_ref() })?;
                this.path_of(key, text).map(|path| of_path(path.value))
            }
            (value, _) => {
                this.source.wrong(&at, format!("{key}: {wanted} is wanted, not {}", kind_of(value)));
                None
            }
        })
    }

    /// Notes something wrong at a place.
    pub fn wrong(&self, at: &Range<usize>, text: impl Into<String>) {
        self.source.wrong(at, text);
    }

    /// Notes every key that was not asked for.
    pub fn finish(self) {
        for (key, _) in self.table.iter() {
            let name = key.get_ref().as_ref();
            if self.asked.contains(&name) {
                continue;
            }
            let hint = match nearest(name, &self.asked) {
                Some(near) => format!("did you mean '{near}'?"),
                None => "rvmm.toml(5) tells which there are".to_string(),
            };
            let of = self.of;
            self.source.wrong(&key.span(), format!("unknown key '{}'{of}: {hint}", name.escape_debug()));
        }
    }
}

/// Returns the number of an integer that fits in 64 bits.
fn integer(value: &DeValue<'_>) -> Option<i64> {
    let number = value.as_integer()?;
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or a time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// Returns which of the keys is most like `name`, if any is.
fn nearest<'k>(name: &str, keys: &[&'k str]) -> Option<&'k str> {
    let name = name.to_lowercase().replace('_', "-");
    let likeness = |key: &str| {
        let like = strsim::jaro_winkler(&name, key);
        let is_part = name.len() >= 3 && (key.contains(&name) || name.contains(key));
        if is_part {
            like.max(LIKENESS_OF_PART)
        } else {
            like
        }
    };
    let best = keys.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) >= LIKENESS).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_key_is_found_whatever_the_slip() {
        let keys = ["memory", "cpus", "disk", "root", "no-reboot", "console", "console-device", "net"];

        for (name, key) in [
            ("memry", "memory"),
            ("mem", "memory"),
            ("cpu", "cpus"),
            ("vcpus", "cpus"),
            ("disks", "disk"),
            ("no_reboot", "no-reboot"),
            ("reboot", "no-reboot"),
            ("Console", "console"),
            ("console_device", "console-device"),
            ("nets", "net"),
        ] {
            assert_eq!(nearest(name, &keys), Some(key), "{name}");
        }
        assert_eq!(nearest("x", &keys), None);
        assert_eq!(nearest("", &keys), None);
        assert_eq!(nearest("colour", &[]), None);
    }
}
