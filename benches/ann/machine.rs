//! What this process takes of the machine, as Linux tells it; zero where it does not.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Bytes of this process in memory, by the name that `/proc/self/status` has for them: `VmRSS` for all of it, `RssAnon`
/// for what is not a file, `VmHWM` for the most that `VmRSS` ever was.
pub fn memory(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Forgets the most that `VmRSS` ever was.
pub fn reset_peak() {
    // Only a figure is lost if that is not allowed.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Seconds of processor time that this thread has used.
pub fn thread_seconds() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

/// Seconds of processor time that all threads of this process have used, in steps of a hundredth.
pub fn process_seconds() -> f64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    // After the name in parentheses: user time is the 12th, system time the 13th.
    let ticks = |i: usize| fields.get(i).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// A memory control group that this process is in. What it took before is not counted there.
pub struct Group {
    parent: PathBuf,
    path: PathBuf,
}

impl Group {
    /// Makes a child of a group that allows so many bytes, of either version of control groups, and goes there.
    pub fn enter(parent: &Path, bytes: u64) -> io::Result<Group> {
        let path = parent.join(format!("loci-bench-{}", std::process::id()));
        fs::create_dir(&path)?;
        let group = Group { parent: parent.to_owned(), path };
        let limit = ["memory.max", "memory.limit_in_bytes"].map(|name| group.path.join(name));
        let limit = limit.into_iter().find(|file| file.exists());
        let limit = limit.ok_or_else(|| io::Error::other(format!("{} has no memory limit", group.path.display())))?;
        fs::write(limit, bytes.to_string())?;
        fs::write(group.path.join("cgroup.procs"), std::process::id().to_string())?;
        Ok(group)
    }

    /// The most bytes that were in use at a time.
    pub fn peak(&self) -> u64 {
        let read = |name: &str| fs::read_to_string(self.path.join(name)).ok()?.trim().parse().ok();
        ["memory.peak", "memory.max_usage_in_bytes"].into_iter().find_map(read).unwrap_or(0)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // An empty group that stays behind does no harm.
        let _ = fs::write(self.parent.join("cgroup.procs"), std::process::id().to_string());
        let _ = fs::remove_dir(&self.path);
    }
}
