// SPDX-License-Identifier: GPL-2.0

//! `--pid-file`: the number of the run's process, for whoever keeps it running.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// A file with the process' number. It goes when this is dropped.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    text: String,
}

impl PidFile {
    /// Writes the file. One that is there is overwritten only if it was one of these: that of a killed run.
    ///
    /// # Errors
    /// Those of the file; `AlreadyExists` for one with anything else in it.
    pub fn new(path: &Path) -> io::Result<Self> {
        let text = format!("{}\n", std::process::id());
        match fs::read(path) {
            Ok(old) if !is_number(&old) => return Err(ErrorKind::AlreadyExists.into()),
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        fs::File::create(path)?.write_all(text.as_bytes())?;
        Ok(Self { path: path.into(), text })
    }
}

fn is_number(bytes: &[u8]) -> bool {
    let text = std::str::from_utf8(bytes).map(str::trim).unwrap_or("no");
    text.is_empty() || text.parse::<u32>().is_ok()
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Another run may have taken it over.
        if fs::read(&self.path).is_ok_and(|text| text == self.text.as_bytes()) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_has_the_number_and_goes_with_the_run() {
        let path = std::env::temp_dir().join(format!("rvmm-pid-{}", std::process::id()));
        fs::write(&path, "4711\n").unwrap();

        let file = PidFile::new(&path).unwrap();

        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        drop(file);
        assert!(!path.exists());
        let file = PidFile::new(&path).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(file);
        assert!(path.exists(), "it is another run's");
        fs::write(&path, "precious").unwrap();
        assert!(PidFile::new(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
    }
}
