//! The limit on open files, which also limits connections.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::limits::RESERVED_DESCRIPTORS;

/// Raises the limit on open files, and returns the number of possible connections: the number
/// requested, or as many as the limit allows. At our own limit, a new connection evicts a
/// stranger's. At the system's limit, no one could connect, and neither a load balancer's health
/// checks nor the HSM's module would get a descriptor.
pub(super) fn possible_connections(max_connections: usize) -> usize {
    let possible = raise(max_connections).err().unwrap_or(max_connections);
    if possible >= max_connections {
        // Also if the descriptors beside the connections are fewer than should be reserved.
        return max_connections;
    }
    tracing::warn!(
        possible,
        max_connections,
        "there are fewer connections than max_connections, since the hard limit of open files \
         (RLIMIT_NOFILE) is too low for them"
    );
    possible
}

/// Raises the soft limit, which is usually 1,024, as far as `max_connections` needs and the hard
/// limit allows.
///
/// # Errors
/// The number of possible connections, if the hard limit is too low for all of them.
fn raise(max_connections: usize) -> Result<(), usize> {
    let limit = getrlimit(Resource::Nofile);
    let connections = u64::try_from(max_connections).unwrap_or(u64::MAX);
    let needed = connections.saturating_add(RESERVED_DESCRIPTORS);
    let allowed = |limit: Option<u64>| limit.is_none_or(|limit| limit >= needed);
    if allowed(limit.current) {
        return Ok(());
    }
    let wanted = limit.maximum.map_or(needed, |maximum| maximum.min(needed));
    let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
    let current =
        if setrlimit(Resource::Nofile, raised).is_ok() { Some(wanted) } else { limit.current };
    if allowed(current) { Ok(()) } else { Err(connections_within(current.unwrap_or(0))) }
}

/// Returns the number of connections that leaves enough of `descriptors` for the HSM's module, the
/// log and `/ping`: half, if there are few.
fn connections_within(descriptors: u64) -> usize {
    let connections = descriptors - RESERVED_DESCRIPTORS.min(descriptors / 2);
    usize::try_from(connections).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sufficient limit is kept, a lower one is raised, and one that no process may have is
    /// reported.
    #[test]
    fn raised_as_far_as_it_goes() {
        assert_eq!(raise(1), Ok(()));
        if getrlimit(Resource::Nofile).maximum.is_some_and(|maximum| maximum < u64::MAX / 2) {
            assert!(raise(usize::MAX).is_err_and(|connections| connections < usize::MAX / 2));
            let limit = getrlimit(Resource::Nofile);
            assert_eq!(limit.current, limit.maximum);
        }
    }

    /// Connections alone never use up all descriptors.
    #[test]
    fn some_are_left() {
        for (descriptors, connections) in
            [(0, 1), (2, 1), (256, 128), (2048, 1024), (2100, 1076), (21_024, 20_000)]
        {
            assert_eq!(connections_within(descriptors), connections, "{descriptors}");
        }
    }
}
