// SPDX-License-Identifier: GPL-2.0

//! What the options of several things have in common.

/// Parses the value of the option `option`.
///
/// # Errors
/// What is wrong, for the user.
pub fn on_or_off(option: &str, value: &str) -> Result<bool, String> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("'{option}': on or off")),
    }
}
