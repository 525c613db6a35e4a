// SPDX-License-Identifier: GPL-2.0

//! The module's counters of each processor, in KVM's binary statistics format.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::abi::stats::{Desc, Header};

/// One counter: its name and value.
pub type Counter = (String, u64);

/// A histogram: its name and how many lie in each bucket; bucket `n` holds what needs `n` bits.
pub type Histogram = (String, Vec<u64>);

/// What one processor counted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Plain counters.
    pub plain: Vec<Counter>,
    /// Times, where the module measures them.
    pub histograms: Vec<Histogram>,
}

/// Reads all counters of a statistics file.
///
/// # Errors
/// Those of reading, and `InvalidData` for a file that is not in the format.
pub fn read(file: &File) -> io::Result<Counters> {
    parse(|buf, at| file.read_exact_at(buf, at))
}

fn parse(read_at: impl Fn(&mut [u8], u64) -> io::Result<()>) -> io::Result<Counters> {
    let mut header = Header::new_zeroed();
    read_at(header.as_mut_bytes(), 0)?;
    let step = size_of::<Desc>().checked_add(header.name_size as usize).ok_or_else(invalid)?;
    let mut counters = Counters::default();
    for i in 0..header.num_desc {
        let mut desc = vec![0u8; step];
        read_at(&mut desc, u64::from(header.desc_offset) + u64::from(i) * step as u64)?;
        let (desc, name) = Desc::read_from_prefix(&desc).map_err(|_| invalid())?;
        let name = name.split(|b| *b == 0).next().unwrap_or(&[]);
        let name = String::from_utf8_lossy(name).into_owned();
        let value = |n: u16| {
            let mut value = [0u8; 8];
            let values = u64::from(header.data_offset) + u64::from(desc.offset);
            read_at(&mut value, values + u64::from(n) * 8)?;
            Ok(u64::from_le_bytes(value))
        };
        if desc.size == 1 {
            counters.plain.push((name, value(0)?));
        } else {
            counters.histograms.push((name, (0..desc.size).map(value).collect::<io::Result<_>>()?));
        }
    }
    Ok(counters)
}

fn invalid() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not KVM's binary statistics format")
}

/// Returns the counters of all processors as a table, one column a processor, and the sum of their
/// histograms, a line each: "less than so many ticks of the TSC: so many exits".
pub fn render(cpus: &[Counters]) -> String {
    let mut text = String::from("counter         ");
    for id in 0..cpus.len() {
        text += &format!(" {:>14}", format!("vcpu {id}"));
    }
    text += "\n";
    let Some(first) = cpus.first() else { return text };
    for (row, (name, _)) in first.plain.iter().enumerate() {
        text += &format!("{name:<16}");
        for cpu in cpus {
            text += &format!(" {:>14}", cpu.plain.get(row).map_or(0, |(_, v)| *v));
        }
        text += "\n";
    }
    for (row, (name, buckets)) in first.histograms.iter().enumerate() {
        text += &format!("{name:<16}");
        for bucket in 0..buckets.len() {
            let counts = cpus.iter().filter_map(|c| c.histograms.get(row)?.1.get(bucket));
            let sum: u64 = counts.sum();
            if sum != 0 {
                text += &format!(" <2^{bucket}: {sum}");
            }
        }
        text += "\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A statistics file with the counters `exits` = 7 and `user_exits` = 1, and a histogram of 3 buckets.
    fn sample() -> Vec<u8> {
        let mut b = Vec::new();
        for w in [0u32, 48, 3, 24, 72, 72 + 3 * 64] {
            b.extend(w.to_le_bytes());
        }
        b.extend([0; 48]);
        for (i, name, size) in [(0, "exits", 1u16), (1, "user_exits", 1), (2, "io_cycles", 3)] {
            b.extend([0; 6]);
            b.extend(size.to_le_bytes());
            b.extend((i * 8u32).to_le_bytes());
            b.extend([0; 4]);
            let mut n = name.as_bytes().to_vec();
            n.resize(48, 0);
            b.extend(n);
        }
        for value in [7u64, 1, 0, 5, 6] {
            b.extend(value.to_le_bytes());
        }
        b
    }

    fn parse_bytes(bytes: &[u8]) -> io::Result<Counters> {
        parse(|buf, at| {
            let at = usize::try_from(at).map_err(|_| invalid())?;
            buf.copy_from_slice(bytes.get(at..at + buf.len()).ok_or_else(invalid)?);
            Ok(())
        })
    }

    #[test]
    fn reads_names_and_values() {
        let counters = parse_bytes(&sample()).unwrap();

        assert_eq!(counters.plain, [("exits".into(), 7), ("user_exits".into(), 1)]);
        assert_eq!(counters.histograms, [("io_cycles".into(), vec![0, 5, 6])]);
    }

    #[test]
    fn a_file_cut_short_is_an_error() {
        let bytes = sample();

        for len in [0, 10, 24, 80, bytes.len() - 1] {
            assert!(parse_bytes(&bytes[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn the_table_has_a_column_for_each_processor() {
        let cpu = |n| Counters { plain: vec![("exits".to_owned(), n)], ..Counters::default() };
        let cpus = [cpu(7), cpu(9)];

        let text = render(&cpus);

        assert!(text.lines().next().unwrap().contains("vcpu 1"));
        assert!(text.lines().nth(1).unwrap().ends_with(" 9"));
    }

    #[test]
    fn histograms_are_added_up_and_empty_buckets_left_out() {
        let cpu =
            || Counters { plain: Vec::new(), histograms: vec![("io_cycles".to_owned(), vec![0, 2, 0, 3])] };

        let text = render(&[cpu(), cpu()]);

        assert_eq!(text.lines().last().unwrap(), "io_cycles        <2^1: 4 <2^3: 6");
    }
}
