//! The memory that the process may use, by its control group, and the limits derived from it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::limits::{
    DEFAULT_MAX_BUFFERED_BYTES, DEFAULT_MAX_CONNECTIONS, MAX_SYSLOG_BACKLOG_BYTES,
    MEMORY_BYTES_PER_CONNECTION, MEMORY_PARTS, MIN_MAX_BUFFERED_BYTES, MIN_SYSLOG_BACKLOG_BYTES,
    OTLP_MEMORY_BYTES, RESERVED_MEMORY_BYTES, SYSLOG_MEMORY_PARTS,
};
use crate::observe::syslog::SyslogConfig;

/// Limits that are larger mean that there is none: cgroup v1 has a number for that.
const UNLIMITED: u64 = 1 << 60;

/// The smallest limit of a control group on the way from the process's to the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MemoryLimit {
    pub(super) bytes: u64,
    /// The file that the limit is in.
    pub(super) file: PathBuf,
    /// The part that `[[syslog]]` and `[otlp]` may hold.
    pub(super) exports: u64,
}

/// Defaults that fit into the memory that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Defaults {
    pub(super) max_connections: usize,
    pub(super) max_buffered_bytes: usize,
}

impl MemoryLimit {
    /// Reads the limit that applies to this process; `None` if there is none, or it is unknown.
    pub(super) fn of_process() -> Option<Self> {
        let read = |path: &str| fs::read_to_string(path).ok();
        let (groups, mounts) = (read("/proc/self/cgroup")?, read("/proc/self/mountinfo")?);
        Self::find(&groups, &mounts, |path| fs::read_to_string(path).ok())
    }

    /// Finds the limit by the files that cgroups(7) and proc_pid_mountinfo(5) describe.
    fn find(groups: &str, mounts: &str, read: impl Fn(&Path) -> Option<String>) -> Option<Self> {
        let mut least: Option<Self> = None;
        for group in groups.lines() {
            let Some((_, [controllers, path])) = split(group) else { continue };
            let file = match controllers {
                "" => "memory.max",
                list if list.split(',').any(|name| name == "memory") => "memory.limit_in_bytes",
                _ => continue,
            };
            let is_v2 = controllers.is_empty();
            let Some((root, mount)) = mounts.lines().find_map(|line| mount_of(line, is_v2)) else {
                continue;
            };
            // In a namespace of its own, a process sees only the part below its mount.
            let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
            let mut group = mount.join(below);
            while group.starts_with(&mount) {
                let file = group.join(file);
                let bytes = read(&file).and_then(|text| text.trim().parse().ok());
                if let Some(bytes) = bytes.filter(|bytes| *bytes < UNLIMITED)
                    && least.as_ref().is_none_or(|least| bytes < least.bytes)
                {
                    least = Some(Self { bytes, file, exports: 0 });
                }
                if !group.pop() {
                    break;
                }
            }
        }
        least
    }

    /// Shares the forwarders' part among them, and counts what they and the export by OTLP may hold.
    pub(super) fn count_exports(&mut self, syslog: &mut [SyslogConfig], has_otlp: bool) {
        // A queue holds its backlog twice: the lines that wait, and those that are being sent.
        let queues = 2 * syslog.iter().map(SyslogConfig::forwarders).sum::<u64>();
        let share = (self.bytes / SYSLOG_MEMORY_PARTS).checked_div(queues);
        let backlog = share.map_or(0, |share| usize::try_from(share).unwrap_or(usize::MAX));
        let backlog = backlog.clamp(MIN_SYSLOG_BACKLOG_BYTES, MAX_SYSLOG_BACKLOG_BYTES);
        for config in syslog {
            config.backlog_bytes = backlog;
        }
        let otlp = if has_otlp { OTLP_MEMORY_BYTES } else { 0 };
        self.exports = queues.saturating_mul(backlog as u64).saturating_add(otlp);
    }

    /// The part that connections may use.
    fn available(&self) -> u64 {
        let rest = self.bytes.saturating_sub(self.exports);
        rest.saturating_sub(RESERVED_MEMORY_BYTES).max(rest / MEMORY_PARTS)
    }

    /// Returns whether connections and their buffers fit in, all else being as usual.
    pub(super) fn has_room_for(&self, max_connections: usize, max_buffered_bytes: usize) -> bool {
        let connections = (max_connections as u64).saturating_mul(MEMORY_BYTES_PER_CONNECTION);
        connections.saturating_add(max_buffered_bytes as u64) <= self.available()
    }
}

impl Defaults {
    /// The usual defaults, or a part of the memory each, if that is less. The rest is for what the
    /// allocator, the kernel's sockets and reused buffers need beyond that.
    pub(super) fn within(limit: Option<&MemoryLimit>) -> Self {
        let part = limit.map_or(u64::MAX, |limit| limit.available() / MEMORY_PARTS);
        let least =
            |usual: usize, part: u64| usize::try_from(part).map_or(usual, |part| part.min(usual));
        Self {
            max_connections: least(DEFAULT_MAX_CONNECTIONS, part / MEMORY_BYTES_PER_CONNECTION)
                .max(1),
            max_buffered_bytes: least(DEFAULT_MAX_BUFFERED_BYTES, part).max(MIN_MAX_BUFFERED_BYTES),
        }
    }
}

/// Splits a line of /proc/self/cgroup at its first two colons.
fn split(line: &str) -> Option<(&str, [&str; 2])> {
    let (number, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    Some((number, [controllers, path]))
}

/// Returns the root and the mount point of a line of /proc/self/mountinfo, if it is that of the
/// hierarchy with the memory controller.
fn mount_of(line: &str, is_v2: bool) -> Option<(&str, PathBuf)> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(3);
    let (root, mount) = (fields.next()?, fields.next()?);
    let mut fields = after.split(' ');
    let (kind, options) = (fields.next()?, fields.nth(1).unwrap_or_default());
    let is_it = match is_v2 {
        true => kind == "cgroup2",
        false => kind == "cgroup" && options.split(',').any(|option| option == "memory"),
    };
    is_it.then(|| (root, PathBuf::from(mount)))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::observe::syslog::{Address, Facility};

    const MIB: u64 = 1 << 20;
    const V2: &str =
        "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
    const V1: &str = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                      36 31 0:33 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices";

    fn limit(bytes: u64) -> MemoryLimit {
        MemoryLimit { bytes, file: PathBuf::new(), exports: 0 }
    }

    fn find(groups: &str, mounts: &str, files: &[(&str, &str)]) -> Option<(u64, String)> {
        let read = |path: &Path| {
            let (_, text) = files.iter().find(|(name, _)| Path::new(name) == path)?;
            Some((*text).to_owned())
        };
        let limit = MemoryLimit::find(groups, mounts, read)?;
        Some((limit.bytes, limit.file.to_str().unwrap().to_owned()))
    }

    /// Version 2: the least of the limits on the way to the root counts, and "max" is none.
    #[test]
    fn version_2() {
        let groups = "0::/system.slice/xks-proxy.service\n";
        let own = "/sys/fs/cgroup/system.slice/xks-proxy.service/memory.max";
        let slice = "/sys/fs/cgroup/system.slice/memory.max";
        let limit = |bytes, file: &str| Some((bytes, file.to_owned()));
        assert_eq!(find(groups, V2, &[(own, "67108864\n")]), limit(64 * MIB, own));
        assert_eq!(find(groups, V2, &[(own, "max\n"), (slice, "9000\n")]), limit(9000, slice));
        assert_eq!(find(groups, V2, &[(own, "9001\n"), (slice, "9000\n")]), limit(9000, slice));
        assert_eq!(find(groups, V2, &[(own, "max\n"), (slice, "max\n")]), None);
        assert_eq!(find(groups, "", &[(own, "67108864\n")]), None);
    }

    /// Version 1, beside a hierarchy of version 2 without the memory controller; its number for
    /// no limit is none.
    #[test]
    fn version_1() {
        let groups = "5:devices:/\n4:cpu,memory:/one/two\n0::/\n";
        let mounts = format!("{V1}\n{V2}");
        let file = "/sys/fs/cgroup/memory/one/two/memory.limit_in_bytes";
        let root = "/sys/fs/cgroup/memory/memory.limit_in_bytes";
        let files = [(file, "67108864"), (root, "9223372036854771712")];
        assert_eq!(find(groups, &mounts, &files), Some((64 * MIB, file.to_owned())));
        assert_eq!(find(groups, &mounts, &files[1..]), None);
    }

    /// A container sees its group at the mount point, with or without a namespace for it.
    #[test]
    fn containers() {
        let file = "/sys/fs/cgroup/memory.max";
        let expected = Some((64 * MIB, file.to_owned()));
        assert_eq!(find("0::/\n", V2, &[(file, "67108864")]), expected);
        let mounts = V2.replace(" / /sys", " /docker/abc /sys");
        assert_eq!(find("0::/docker/abc\n", &mounts, &[(file, "67108864")]), expected);
    }

    /// The usual defaults need no more than a gigabyte and a half; below that they shrink, and
    /// always fit.
    #[test]
    fn defaults() {
        let usual = Defaults {
            max_connections: DEFAULT_MAX_CONNECTIONS,
            max_buffered_bytes: DEFAULT_MAX_BUFFERED_BYTES,
        };
        assert_eq!(Defaults::within(None), usual);
        assert_eq!(Defaults::within(Some(&limit(1536 * MIB))), usual);
        for (mib, max_connections, buffered_mib) in
            [(64, 512, 8), (128, 1_536, 24), (768, 11_776, 184), (32, 128, 4), (1, 4, 4)]
        {
            let limit = limit(mib * MIB);
            let defaults = Defaults::within(Some(&limit));
            let buffered = usize::try_from(buffered_mib * MIB).unwrap();
            assert_eq!(
                (defaults.max_connections, defaults.max_buffered_bytes),
                (max_connections, buffered),
                "{mib}"
            );
            let fits = limit.has_room_for(max_connections, buffered);
            assert_eq!(fits, mib >= 32, "{mib}");
            assert!(!limit.has_room_for(DEFAULT_MAX_CONNECTIONS, buffered) || mib > 512);
        }
    }
    /// All forwarders together hold no more than a quarter of the memory, and what they and the export
    /// by OTLP may hold is not given to connections.
    #[test]
    fn exports() {
        let collector = |has_audit: bool| SyslogConfig {
            address: Address::UnixDatagram("/dev/log".into()),
            tag: String::new(),
            log: Some(Facility::Daemon),
            audit: has_audit.then_some(Facility::Daemon),
            backlog_bytes: MAX_SYSLOG_BACKLOG_BYTES,
        };
        for (mib, collectors, has_otlp, backlog_kib, exports_mib) in [
            (64, 0, false, 0, 0),
            (64, 0, true, 0, 24),
            (64, 1, false, 4_096, 16),
            (64, 8, true, 512, 16 + 24),
            (16, 8, false, 256, 8),
            (128, 1, false, 8_192, 32),
            (4_096, 8, true, 8_192, 256 + 24),
        ] {
            let mut configs = vec![collector(true); collectors];
            let mut limit = limit(mib * MIB);
            limit.count_exports(&mut configs, has_otlp);
            assert!(configs.iter().all(|it| it.backlog_bytes == backlog_kib << 10), "{mib}");
            assert_eq!(limit.exports, exports_mib * MIB, "{mib}");
            let Defaults { max_connections, max_buffered_bytes } = Defaults::within(Some(&limit));
            let connections = max_connections as u64 * MEMORY_BYTES_PER_CONNECTION;
            let most = max_buffered_bytes as u64 + connections + limit.exports;
            assert!(most <= mib * MIB, "{mib}: {most}");
        }
        // The forwarders' memory is less for connections.
        let mut limit = limit(256 * MIB);
        assert_eq!(Defaults::within(Some(&limit)).max_buffered_bytes as u64, 56 * MIB);
        assert!(limit.has_room_for(100, 220 << 20));
        limit.count_exports(&mut [collector(false)], true);
        assert_eq!(Defaults::within(Some(&limit)).max_buffered_bytes as u64, 46 * MIB);
        assert!(!limit.has_room_for(100, 200 << 20));
    }
}
