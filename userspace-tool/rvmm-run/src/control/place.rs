// SPDX-License-Identifier: GPL-2.0

//! Where the sockets of running VMs are: `NAME.sock` in one folder a user.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

use crate::config::name::VmName;

/// The environment variable that names another folder.
pub const VARIABLE: &str = "RVMM_RUNTIME_DIR";
/// What the name of a socket ends with.
const SUFFIX: &str = ".sock";

/// Returns the folder: `/run/rvmm` for root, `$XDG_RUNTIME_DIR/rvmm` for others, or what [`VARIABLE`] says.
pub fn folder(user: Uid, variable: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let set = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(folder) = set(VARIABLE) {
        return folder;
    }
    if user.is_root() {
        return "/run/rvmm".into();
    }
    // Where a login would have set it to.
    set("XDG_RUNTIME_DIR").unwrap_or_else(|| format!("/run/user/{user}").into()).join("rvmm")
}

/// Returns the folder of this process.
pub fn own_folder() -> PathBuf {
    folder(Uid::effective(), |name| std::env::var_os(name))
}

/// Returns the socket of a VM.
pub fn socket(folder: &Path, name: &VmName) -> PathBuf {
    folder.join(format!("{name}{SUFFIX}"))
}

/// Returns the names of all sockets, sorted; none where there is no folder.
pub fn names(folder: &Path) -> Vec<VmName> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let name = |entry: std::fs::DirEntry| entry.file_name().to_str()?.strip_suffix(SUFFIX)?.parse().ok();
    let mut names: Vec<VmName> = entries.flatten().filter_map(name).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_a_folder() {
        let nothing = |_: &str| None;
        let login = |name: &str| (name == "XDG_RUNTIME_DIR").then(|| "/run/user/7".into());
        let own = |name: &str| (name == VARIABLE).then(|| "/tmp/x".into());

        assert_eq!(folder(Uid::from_raw(0), login), Path::new("/run/rvmm"));
        assert_eq!(folder(Uid::from_raw(7), login), Path::new("/run/user/7/rvmm"));
        assert_eq!(folder(Uid::from_raw(7), nothing), Path::new("/run/user/7/rvmm"));
        assert_eq!(folder(Uid::from_raw(0), own), Path::new("/tmp/x"));
    }
}
