//! Processor time: what the system says that the process, or a thread of it, has used.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Of the whole process since its start.
pub fn process_cpu_nanos() -> u64 {
    nanos(clock_gettime(ClockId::ProcessCPUTime))
}

/// Of the whole process since its start, in seconds: its own, and the system's on its behalf, which is known to a hundredth.
pub fn process_cpu_seconds() -> (f64, f64) {
    /// Of a second, as Linux counts for programs.
    const TICKS: f64 = 100.0;
    let all = process_cpu_nanos() as f64 / 1e9;
    // The name of the program, in parentheses, may hold spaces.
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let system = after_name.split_ascii_whitespace().nth(12).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(0.0);
    let system = (system / TICKS).min(all);
    (all - system, system)
}

/// Of the calling thread. Costs a system call, about 0.2 us.
pub fn thread_cpu_nanos() -> u64 {
    nanos(clock_gettime(ClockId::ThreadCPUTime))
}

fn nanos(time: Timespec) -> u64 {
    let (seconds, nanos) = (u64::try_from(time.tv_sec).unwrap_or(0), u64::try_from(time.tv_nsec).unwrap_or(0));
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_time_of_its_thread_and_of_the_process() {
        let (thread, process) = (thread_cpu_nanos(), process_cpu_nanos());
        let mut sum = 0u64;
        while thread_cpu_nanos() == thread {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(process_cpu_nanos() > process);
    }

    #[test]
    fn the_systems_part_grows_with_what_it_is_asked_for() {
        let (_, before) = process_cpu_seconds();
        while process_cpu_seconds().1 < before + 0.02 {}
        let (user, system) = process_cpu_seconds();
        assert!(user >= 0.0 && system > before);
    }
}
