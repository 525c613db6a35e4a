// SPDX-License-Identifier: GPL-2.0

//! Where the configuration of a VM is that is called by its name.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Where the system's are.
const SYSTEM: &str = "/etc/rvmm";

/// What `-f` and `base` are given: a path where it has a slash or ends as a file of ours does, else a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileArgument {
    /// This file.
    Path(PathBuf),
    /// The file of this name in one of the folders.
    Name(String),
}

impl FileArgument {
    /// Tells which it is.
    pub fn new(text: &str) -> Self {
        if text.contains('/') || text.ends_with(".toml") || text.is_empty() {
            return Self::Path(text.into());
        }
        Self::Name(text.to_string())
    }

    /// Returns the file: the first that exists in `folders`, or where it is missed in the last of them.
    pub fn find<'a>(&self, folders: impl Iterator<Item = &'a Path>) -> PathBuf {
        let name = match self {
            Self::Path(path) => return path.clone(),
            Self::Name(name) => format!("{name}.toml"),
        };
        let mut last = PathBuf::from(&name);
        for folder in folders {
            last = folder.join(&name);
            if last.exists() {
                break;
            }
        }
        last
    }
}

/// Returns the folders with VMs by name: for who is not root their own, then the system's.
pub fn folders(is_root: bool, variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let set = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let own = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
    let own = own.filter(|_| !is_root).map(|folder| folder.join("rvmm"));
    own.into_iter().chain([PathBuf::from(SYSTEM)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_paths() {
        assert_eq!(FileArgument::new("web"), FileArgument::Name("web".into()));
        for path in ["web.toml", "./web", "/etc/rvmm/web.toml", ""] {
            assert_eq!(FileArgument::new(path), FileArgument::Path(path.into()), "{path}");
        }
    }

    #[test]
    fn user_has_a_folder_of_their_own_before_the_systems() {
        let variables = |name: &str| (name == "HOME").then(|| OsString::from("/home/me"));

        assert_eq!(folders(false, variables), [Path::new("/home/me/.config/rvmm"), Path::new("/etc/rvmm")]);
        assert_eq!(folders(true, variables), [Path::new("/etc/rvmm")]);
        assert_eq!(folders(false, |_| Some("relative".into())), [Path::new("/etc/rvmm")]);
    }

    #[test]
    fn missing_name_is_missed_in_the_last_folder() {
        let folders = [Path::new("/nonexistent/a"), Path::new("/nonexistent/b")];

        assert_eq!(FileArgument::new("x").find(folders.into_iter()), Path::new("/nonexistent/b/x.toml"));
    }
}
