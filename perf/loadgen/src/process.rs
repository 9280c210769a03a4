//! CPU time and memory of processes, from /proc (proc(5)).

use std::fs;
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

/// Clock ticks per second in /proc: `USER_HZ`, 100 on all Linux architectures in use.
const TICKS_PER_SECOND: u64 = 100;

/// Returns the CPU time of all threads of this process.
#[must_use]
pub fn own_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Returns a process's user and system time, to within 10 ms; `None` if it does not exist.
#[must_use]
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold spaces and parentheses.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// Returns a process's resident memory in KiB; `None` if it does not exist.
#[must_use]
pub fn resident_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Raises the limit on open files to the maximum allowed for this process; returns it.
#[must_use]
pub fn raise_open_files() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If it can't be raised, opening connections will report that.
    let _ = setrlimit(Resource::Nofile, limit);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Both clocks agree about this process: a wrong field or tick would be far off.
    #[test]
    fn proc_agrees_with_the_clock() {
        let end = own_cpu_time() + Duration::from_millis(200);
        while own_cpu_time() < end {
            std::hint::spin_loop();
        }
        let by_proc = cpu_time(std::process::id()).unwrap();
        let by_clock = own_cpu_time();
        assert!(
            by_proc.abs_diff(by_clock) < Duration::from_millis(100),
            "{by_proc:?} {by_clock:?}"
        );
        assert!((1000..1_000_000).contains(&resident_kib(std::process::id()).unwrap()));
        assert_eq!(cpu_time(u32::MAX), None);
    }
}
