// SPDX-License-Identifier: GPL-2.0

//! Rules that the fields of a type keep between the calls of its methods.
//!
//! A type that has such rules says them under "Invariants", and has a method `check()` that looks whether they hold.
//! It is called where a value is made or changed, by `debug_assert_eq!`: so in every test under cargo, and in the module
//! for a kernel with `CONFIG_RUST_DEBUG_ASSERTIONS`; else it is no code.
//!
//! ```ignore
//! pub(crate) fn check(&self) -> Result<(), &'static str> {
//!     rule(self.len <= self.buf.len(), "no more bytes than there is room for")?;
//!     rule(self.buf.len().is_power_of_two(), "the room is a power of two")
//! }
//! ```

/// Returns the rule called `name` if it does not hold.
pub(crate) fn rule(holds: bool, name: &'static str) -> Result<(), &'static str> {
    if holds {
        Ok(())
    } else {
        Err(name)
    }
}
