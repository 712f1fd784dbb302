//! Processor time: what the system says that the process, or a thread of it, has used.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Of the whole process since its start.
pub fn process_cpu_nanos() -> u64 {
    nanos(clock_gettime(ClockId::ProcessCPUTime))
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
}
