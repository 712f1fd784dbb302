//! Rows that are no records: a JSON object a line, with file, line, reason, and the row's beginning.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::json;

#[derive(Debug)]
pub struct DeadLetters {
    path: PathBuf,
    /// Made with the first letter, so that a good file leaves none behind.
    output: Option<BufWriter<File>>,
    bytes: u64,
}

/// Beside where the command is run: the directory of the data may be read-only.
pub fn default_path(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".dead.jsonl");
    name.into()
}

impl DeadLetters {
    /// Keeps the first `bytes` of an earlier run; 0: begins anew, and removes what an earlier run left.
    pub fn open(path: &Path, bytes: u64) -> io::Result<DeadLetters> {
        let mut letters = DeadLetters { path: path.into(), output: None, bytes: 0 };
        if bytes == 0 {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => return Ok(letters),
            }
        }
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        letters.bytes = bytes.min(file.metadata()?.len());
        file.set_len(letters.bytes)?;
        file.seek(SeekFrom::End(0))?;
        letters.output = Some(BufWriter::new(file));
        Ok(letters)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn path_if_any(&self) -> Option<PathBuf> {
        (self.bytes > 0).then(|| self.path.clone())
    }

    pub fn write(&mut self, file: &Path, line: u64, reason: &str, raw: &str) -> io::Result<()> {
        let output = match &mut self.output {
            Some(output) => output,
            None => self.output.insert(BufWriter::new(File::create(&self.path)?)),
        };
        let mut text =
            json!({"file": file.display().to_string(), "line": line, "reason": reason, "raw": raw}).to_string();
        text.push('\n');
        output.write_all(text.as_bytes())?;
        self.bytes += text.len() as u64;
        Ok(())
    }

    /// How many bytes are on disk now, which is all of them.
    pub fn sync(&mut self) -> io::Result<u64> {
        if let Some(output) = &mut self.output {
            output.flush()?;
            output.get_ref().sync_data()?;
        }
        Ok(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_goes_on_where_the_first_was_noted() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("x.dead.jsonl");
        let mut letters = DeadLetters::open(&path, 0).expect("opened");
        assert!(!path.exists());
        letters.write(Path::new("x"), 3, "one", "raw").expect("written");
        let noted = letters.sync().expect("synced");
        letters.write(Path::new("x"), 9, "not noted", "raw").expect("written");
        drop(letters);
        let mut letters = DeadLetters::open(&path, noted).expect("opened");
        letters.write(Path::new("x"), 7, "two", "raw").expect("written");
        letters.sync().expect("synced");
        let text = std::fs::read_to_string(&path).expect("read");
        let lines: Vec<u64> = text
            .lines()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).expect("JSON")["line"].as_u64().expect("a line")
            })
            .collect();
        assert_eq!(lines, [3, 7]);
        DeadLetters::open(&path, 0).expect("opened");
        assert!(!path.exists(), "a new run removes the old letters");
    }
}
