// SPDX-License-Identifier: GPL-2.0

//! What the options of several things have in common.

/// Splits a value at its commas. Two commas are one of a part, so that a path may have some.
pub fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ',' if chars.next_if_eq(&',').is_none() => parts.push(String::new()),
            c => parts.last_mut().expect("there is always one").push(c),
        }
    }
    parts
}

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
