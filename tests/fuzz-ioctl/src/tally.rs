// SPDX-License-Identifier: GPL-2.0

//! What all children together have done, counted in memory that they share.

use crate::driver::Model;
use crate::sys::Arena;
use crate::table::{Row, Target, REFUSED, TABLE};
use std::sync::atomic::Ordering::Relaxed;

/// The devices that move data.
pub const MODELS: [Model; 4] = [Model::Disk, Model::Entropy, Model::Card, Model::Console];

/// How often each row of the table was called, how often it succeeded, and how often each model's queues moved.
#[derive(Clone, Copy)]
pub struct Tally(Arena);

impl Tally {
    /// Nothing was done.
    pub fn new() -> Tally {
        Tally(Arena::new((2 * TABLE.len() + MODELS.len()) * 8, true))
    }

    /// Notes a call of the `row`th.
    pub fn note(&self, row: usize, succeeded: bool) {
        self.0.counter(row).fetch_add(1, Relaxed);
        self.0.counter(TABLE.len() + row).fetch_add(succeeded.into(), Relaxed);
    }

    /// As [`Tally::note`], of the row with this number for this kind of file.
    pub fn note_of(&self, target: Target, number: u32, succeeded: bool) {
        let row = TABLE.iter().position(|row| row.1 == number && row.2 == target);
        self.note(row.expect("a row"), succeeded);
    }

    /// Notes that a queue of the `n`th model moved.
    pub fn note_served(&self, n: usize) {
        self.0.counter(2 * TABLE.len() + n).fetch_add(1, Relaxed);
    }

    fn calls(&self, row: usize) -> u64 {
        self.0.counter(row).load(Relaxed)
    }

    fn successes(&self, row: usize) -> u64 {
        self.0.counter(TABLE.len() + row).load(Relaxed)
    }

    fn served(&self, n: usize) -> u64 {
        self.0.counter(2 * TABLE.len() + n).load(Relaxed)
    }

    /// Prints how often each row succeeded and was called, and how often each queue moved.
    pub fn print(&self) {
        let row = |i: usize| format!("{} {}/{}", name(&TABLE[i]), self.successes(i), self.calls(i));
        let mut lines: Vec<String> = (0..TABLE.len()).map(row).collect();
        lines.extend((0..MODELS.len()).map(|n| format!("{:?} moved {}", MODELS[n], self.served(n))));
        lines.chunks(6).for_each(|c| println!("# {}", c.join(", ")));
    }

    /// Returns what has not been done: rows that never were called, or never succeeded and could, and models whose queues
    /// never moved. `without`: names that are not called.
    pub fn missing(&self, without: &[String]) -> Vec<String> {
        let wanted = (0..TABLE.len()).filter(|i| !without.iter().any(|w| w == TABLE[*i].0));
        let is_done = |i: usize| {
            let row = &TABLE[i];
            if REFUSED.contains(&(row.0, row.2)) {
                self.calls(i) != 0
            } else {
                self.successes(i) != 0
            }
        };
        let mut missing: Vec<String> = wanted.filter(|i| !is_done(*i)).map(|i| name(&TABLE[i])).collect();
        let still = (0..MODELS.len()).filter(|n| self.served(*n) == 0);
        missing.extend(still.map(|n| format!("{:?}", MODELS[n])));
        missing
    }
}

/// Returns a row's name, with the kind of file, since several take some.
fn name(row: &Row) -> String {
    format!("{}@{:?}", row.0, row.2)
}
