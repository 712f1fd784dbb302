//! Disks that fail on request: a file system in a file that is shut down as a power cut shuts it down, and one that is
//! small; both need root. And syncs that fail, or take long, by `strace`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::process::PATIENCE;

/// Why a disk cannot be made here, if it cannot.
pub fn missing(tools: &[&str]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root, to mount a file system".into());
    }
    let there = |tool: &&&str| {
        let path = std::env::var("PATH").unwrap_or_default();
        let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
        !std::env::split_paths(&path).chain(sbin).any(|folder| folder.join(tool).is_file())
    };
    tools.iter().find(there).map(|tool| format!("needs {tool} (Debian: e2fsprogs, xfsprogs, strace)"))
}

fn run(words: &[&str]) -> Result<(), String> {
    let output = Command::new(words[0])
        .args(&words[1..])
        .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()))
        .output()
        .map_err(|error| format!("{}: {error}", words[0]))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{words:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

/// A mounted file system that goes away with its value.
pub struct Disk {
    folder: TempDir,
    image: bool,
}

impl Disk {
    /// An ext4 file system of that many MiB in a file, on a loop device.
    pub fn image(mib: u64) -> Result<Disk, String> {
        if let Some(why) = missing(&["mkfs.ext4", "xfs_io", "mount", "umount"]) {
            return Err(why);
        }
        let disk = Disk::new(true);
        let file = std::fs::File::create(disk.image_path()).map_err(|error| error.to_string())?;
        file.set_len(mib << 20).map_err(|error| error.to_string())?;
        run(&["mkfs.ext4", "-q", text(&disk.image_path())])?;
        disk.mount()?;
        Ok(disk)
    }

    /// A file system in memory of that many MiB.
    pub fn small(mib: u64) -> Result<Disk, String> {
        if let Some(why) = missing(&["mount", "umount"]) {
            return Err(why);
        }
        let disk = Disk::new(false);
        run(&["mount", "-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs", text(&disk.path())])?;
        Ok(disk)
    }

    fn new(image: bool) -> Disk {
        let folder = tempfile::Builder::new().prefix("loci-disk-").tempdir().expect("a temporary folder");
        let disk = Disk { folder, image };
        std::fs::create_dir(disk.path()).expect("a folder in a temporary folder");
        disk
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    fn image_path(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn mount(&self) -> Result<(), String> {
        run(&["mount", "-o", "loop", text(&self.image_path()), text(&self.path())])
    }

    /// As a power cut: from now on nothing reaches the disk, and what was not synced is gone.
    pub fn cut(&self) {
        assert!(self.image, "only an image can lose its power");
        run(&["xfs_io", "-x", "-c", "shutdown", text(&self.path())]).expect("the file system can be shut down");
    }

    /// Power is back: what is on the disk is all there is. Every process that used it has ended.
    pub fn restore(&self) {
        run(&["umount", text(&self.path())]).expect("nobody uses the file system any more");
        self.mount().expect("the journal is replayed");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Not mounted: then there is nothing to undo.
        let _ = run(&["umount", "-l", text(&self.path())]);
    }
}

/// Takes all the room that is left; gives it back when dropped.
pub struct Ballast(PathBuf);

impl Ballast {
    /// Of the disk on which this folder lies.
    pub fn fill(folder: &Path) -> Ballast {
        let path = folder.join("ballast");
        let mut file = std::fs::File::create(&path).expect("a file can be made");
        while file.write_all(&[1; 4096]).is_ok() {}
        Ballast(path)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        // The disk goes away with the test in any case.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What happens to the syncs of a running process, until this is dropped.
pub struct Syncs(Child);

impl Syncs {
    /// Has `strace` do something at its `fdatasync`s, in the words of `--inject`, as `error=EIO:when=5+` or `delay_exit=500000`
    /// (microseconds). Or says why that cannot be done here.
    pub fn inject(process: u32, what: &str) -> Result<Syncs, String> {
        if let Some(why) = missing(&["strace"]) {
            return Err(why);
        }
        let output = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
        let child = Command::new("strace")
            .args(["-f", "-e", "trace=fdatasync", "-e", &format!("inject=fdatasync:{what}")])
            .args(["-o", "/dev/null", "-p", &process.to_string()])
            .stderr(output.reopen().map_err(|error| error.to_string())?)
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("strace: {error}"))?;
        let (mut syncs, begun) = (Syncs(child), Instant::now());
        loop {
            let said = std::fs::read_to_string(output.path()).unwrap_or_default();
            if said.contains("attached") {
                return Ok(syncs);
            }
            if syncs.0.try_wait().is_ok_and(|ended| ended.is_some()) || begun.elapsed() > PATIENCE {
                return Err(format!("strace cannot attach here: {}", said.trim()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Syncs {
    /// Asks it to let the process go, which it does when the process goes on.
    fn drop(&mut self) {
        let id = Pid::from_child(&self.0);
        let _ = kill_process(id, Signal::INT);
        let _ = self.0.wait();
    }
}
