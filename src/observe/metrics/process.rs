//! The kernel's figures of this process, from /proc (proc(5)).

use std::fs;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The figures of the process at one moment; 0 where the system provides none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// Processor time, user and system.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Mapped memory.
    pub virtual_bytes: u64,
    /// Number of threads.
    pub threads: u64,
    /// Number of open file descriptors.
    pub open_descriptors: u64,
    /// Limit of open file descriptors.
    pub max_descriptors: u64,
}

impl Process {
    /// Reads the present figures.
    #[must_use]
    pub fn now() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let page_bytes = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
        Self {
            cpu_seconds: cpu_seconds(),
            open_descriptors: open_descriptors(),
            max_descriptors: max_descriptors(&limits).unwrap_or(0),
            ..parse(&stat, page_bytes).unwrap_or_default()
        }
    }
}

/// Since Linux 6.2, their number is the size of the directory. Before, they have to be counted,
/// which is forbidden to a process that is not dumpable, unless it is root's (prctl(2),
/// PR_SET_DUMPABLE).
fn open_descriptors() -> u64 {
    match fs::metadata("/proc/self/fd").map_or(0, |directory| directory.len()) {
        0 => {
            let counted = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
            // Reading the directory takes one.
            u64::try_from(counted.saturating_sub(1)).unwrap_or(0)
        }
        size => size,
    }
}

/// Uses clock_gettime(2), as /proc counts only hundredths of a second.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let secs = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(secs, nanos).as_secs_f64()
}

/// Parses fields 20 (threads), 23 and 24 (memory) of /proc/PID/stat. Field 2 is a name that may
/// contain spaces and parentheses.
fn parse(stat: &str, page_bytes: u64) -> Option<Process> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<u64> =
        rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    let field = |number: usize| fields.get(number - 3).copied();
    Some(Process {
        threads: field(20)?,
        virtual_bytes: field(23)?,
        resident_bytes: field(24)? * page_bytes,
        ..Process::default()
    })
}

fn max_descriptors(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Fields are counted correctly, whatever the name of the program.
    #[test]
    fn fields_of_stat() {
        let stat = "17 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 50 13 14 15 16 9 18 19 4096000 33 0\n";
        let process = parse(stat, 4096).unwrap();
        assert_eq!((process.threads, process.virtual_bytes), (9, 4_096_000));
        assert_eq!(process.resident_bytes, 33 * 4096);
        assert_eq!(parse("17 (a) S 1", 4096), None);
        assert_eq!(
            max_descriptors("Max open files            1024    4096    files\n"),
            Some(1024)
        );
    }

    /// This process has memory, threads and descriptors.
    #[test]
    #[cfg(target_os = "linux")]
    fn this_process() {
        let process = Process::now();
        assert!(process.cpu_seconds > 0.0 && Process::now().cpu_seconds > process.cpu_seconds);
        assert!(process.resident_bytes > 1_000_000 && process.threads >= 1, "{process:?}");
        assert!(process.open_descriptors >= 3, "{process:?}");
        assert!(process.max_descriptors >= process.open_descriptors, "{process:?}");
        assert!(process.virtual_bytes >= process.resident_bytes, "{process:?}");
    }
}
