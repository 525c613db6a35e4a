// SPDX-License-Identifier: GPL-2.0

//! The option `--module`.

use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;

/// A file that a kernel is given, and what it is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleSpec {
    /// The file.
    pub path: PathBuf,
    /// Its arguments, empty without any.
    pub args: String,
}

impl FromStr for ModuleSpec {
    type Err = Infallible;

    /// Takes what lies before the first comma for the path, in which two commas are one, and everything behind it as it is for
    /// the arguments.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        let mut path = String::new();
        let mut rest = text;
        loop {
            let Some((before, behind)) = rest.split_once(',') else {
                path.push_str(rest);
                return Ok(Self { path: path.into(), args: String::new() });
            };
            path.push_str(before);
            match behind.strip_prefix(',') {
                Some(behind) => {
                    path.push(',');
                    rest = behind;
                }
                None => return Ok(Self { path: path.into(), args: behind.into() }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (String, String) {
        let Ok(spec) = text.parse::<ModuleSpec>();
        (spec.path.display().to_string(), spec.args)
    }

    #[test]
    fn first_comma_ends_the_path() {
        assert_eq!(parts("initrd"), ("initrd".into(), String::new()));
        assert_eq!(parts("a,b c,d,,e"), ("a".into(), "b c,d,,e".into()));
        assert_eq!(parts("a,"), ("a".into(), String::new()));
    }

    #[test]
    fn two_commas_are_one_of_the_path() {
        assert_eq!(parts("a,,b,c"), ("a,b".into(), "c".into()));
        assert_eq!(parts("a,,"), ("a,".into(), String::new()));
    }
}
