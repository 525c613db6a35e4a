// SPDX-License-Identifier: GPL-2.0

//! The options of OpenBSD's boot(8), which become the bits of `boothowto`. OpenBSD, `sys/sys/reboot.h`.

use crate::kernel::error::KernelError;

/// A good seed is in the segment of random bytes.
pub const GOOD_RANDOM: u32 = 0x1_0000;

/// Letters with their bits: ask for the root device, change the configuration, enter the debugger, single user.
const LETTERS: [(char, u32); 4] = [('a', 0x1), ('c', 0x400), ('d', 0x40), ('s', 0x2)];

/// What the user asks the kernel for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BootHowto(u32);

impl BootHowto {
    /// Parses options such as `-s` or `-a -c`.
    ///
    /// # Errors
    /// `BootOption` for what boot(8) would not take.
    pub fn parse(text: &str) -> Result<Self, KernelError> {
        let mut howto = Self::default();
        for word in text.split_whitespace() {
            let letters = word.strip_prefix('-').filter(|letters| !letters.is_empty());
            for letter in letters.ok_or_else(|| KernelError::BootOption(word.into()))?.chars() {
                let found = LETTERS.iter().find(|(known, _)| *known == letter);
                howto.0 |= found.ok_or_else(|| KernelError::BootOption(word.into()))?.1;
            }
        }
        Ok(howto)
    }

    /// The bits.
    pub fn bits(self) -> u32 {
        self.0
    }
}
