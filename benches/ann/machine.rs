//! What this process takes of the machine, as Linux tells it; zero where it does not.

use std::fs;

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
