//! `[server] load_balancer`: whether the drain is long enough for it.

use std::time::Duration;

use super::environment::{Environment, is_in_kubernetes};
use super::section::Section;
use crate::limits::{NLB_DEREGISTERED_DELAY, NLB_UNHEALTHY_DELAY};

const MEMBER: &str = "load_balancer";
const DRAIN_DELAY: &str = "drain_delay_milli";
const CHOICES: [(&str, Kind); 2] = [("nlb", Kind::Nlb), ("other", Kind::Other)];

/// The kind of load balancer that opens the connections.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// An AWS Network Load Balancer.
    Nlb,
    /// One of which nothing is known.
    Other,
    /// The settings do not say.
    Unsaid,
}

/// Warns if the proxy stops before the load balancer has stopped opening connections to it.
/// `sends_headers` tells that a load balancer is in front, even if the settings do not say which.
///
/// Returns `None` after a mistake.
pub(super) fn check(
    server: &Section<'_>,
    drain_delay: Option<Duration>,
    sends_headers: bool,
    environment: Environment<'_>,
) -> Option<()> {
    let kind = server.choice(MEMBER, &CHOICES, Kind::Unsaid)?;
    let is_nlb = kind == Kind::Nlb || (kind == Kind::Unsaid && sends_headers);
    let (needed, why) = if is_in_kubernetes(environment) {
        (NLB_DEREGISTERED_DELAY, "has been deregistered, as a pod is that ends")
    } else {
        (NLB_UNHEALTHY_DELAY, "first fails a health check")
    };
    let Some(delay) = drain_delay.filter(|delay| is_nlb && *delay < needed) else {
        return Some(());
    };
    let (delay, needed_millis) = (delay.as_millis(), needed.as_millis());
    let problem = format!(
        "a drain of {delay} ms is too short for a Network Load Balancer, which opens connections for \
         up to {} s after a target {why}: at each restart those are refused",
        needed.as_secs()
    );
    let mut remedy = format!("set {DRAIN_DELAY} to {needed_millis} or more");
    if kind == Kind::Unsaid {
        remedy += &format!("; or, for another load balancer, add {MEMBER} = \"other\"");
    }
    let stated = [DRAIN_DELAY, MEMBER, "proxy_protocol_from"];
    if let Some(member) = stated.into_iter().find_map(|name| server.get(name)) {
        member.warning(problem, remedy);
    }
    Some(())
}
