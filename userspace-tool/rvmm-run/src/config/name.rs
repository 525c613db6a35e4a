// SPDX-License-Identifier: GPL-2.0

//! The name of a VM, by which it is found while it runs.

use std::fmt;
use std::str::FromStr;

/// Longest name: with the folder before it and `.sock` behind it, it fits in the address of a socket.
const LONGEST: usize = 64;

/// A name that is fit for a file: 1 to 64 letters, digits, `-`, `_` and `.` of ASCII, the first a letter or a digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VmName(String);

impl VmName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VmName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_known = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        let starts_well = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if text.len() > LONGEST || !starts_well || !text.bytes().all(is_known) {
            return Err(format!(
                "'{}' is no name of a VM: 1 to {LONGEST} letters, digits, '-', '_' and '.', the first a letter or a digit",
                text.escape_debug()
            ));
        }
        Ok(Self(text.to_string()))
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_fit_for_files() {
        for good in ["web", "a", "7", "debian-13.2_test", &"x".repeat(64)] {
            assert!(good.parse::<VmName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".hidden", "-f", "a/b", "a b", "é", "a\0", "a\n", &"x".repeat(65)] {
            assert!(bad.parse::<VmName>().is_err(), "{bad:?}");
        }
    }
}
