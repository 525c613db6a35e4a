// SPDX-License-Identifier: GPL-2.0

//! Cuts what comes over a connection into lines, however it comes.

/// Longest line, in bytes.
pub const LONGEST: usize = 64 << 10;

/// The line grew longer than [`LONGEST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineTooLong;

/// Bytes that are no whole line yet.
#[derive(Debug, Default)]
pub struct LineReader {
    bytes: Vec<u8>,
    /// There is no line end before here.
    searched: usize,
}

impl LineReader {
    /// Adds what came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// Takes the next whole line, without its end.
    ///
    /// # Errors
    /// `LineTooLong`: nothing more can be made of this connection.
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>, LineTooLong> {
        let Some(len) = self.bytes.iter().skip(self.searched).position(|b| *b == b'\n') else {
            self.searched = self.bytes.len();
            return if self.searched > LONGEST { Err(LineTooLong) } else { Ok(None) };
        };
        let len = self.searched + len;
        self.searched = 0;
        if len > LONGEST {
            return Err(LineTooLong);
        }
        let mut line: Vec<u8> = self.bytes.drain(..=len).collect();
        line.pop();
        Ok(Some(line))
    }

    /// Takes what is left, a line or not.
    pub fn take_rest(&mut self) -> Vec<u8> {
        self.searched = 0;
        std::mem::take(&mut self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_however_they_come() {
        let mut reader = LineReader::default();
        reader.push(b"on");
        assert_eq!(reader.next_line(), Ok(None));
        reader.push(b"e\ntwo\n\nthr");

        assert_eq!(reader.next_line(), Ok(Some(b"one".to_vec())));
        assert_eq!(reader.next_line(), Ok(Some(b"two".to_vec())));
        assert_eq!(reader.next_line(), Ok(Some(Vec::new())));
        assert_eq!(reader.next_line(), Ok(None));
        assert_eq!(reader.take_rest(), b"thr");
    }

    #[test]
    fn line_without_an_end_is_refused_in_time() {
        let mut reader = LineReader::default();
        reader.push(&[b'x'; LONGEST]);
        assert_eq!(reader.next_line(), Ok(None));
        reader.push(b"x");
        assert_eq!(reader.next_line(), Err(LineTooLong));
        let mut reader = LineReader::default();
        reader.push(&[b'x'; LONGEST + 1]);
        reader.push(b"\n");
        assert_eq!(reader.next_line(), Err(LineTooLong));
    }
}
