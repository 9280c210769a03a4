//! The packaged settings, the unit, the load balancers' templates and the manifests agree on how long a
//! drain takes.
#![expect(clippy::expect_used, reason = "tests")]

use std::time::Duration;

use toml::{Table, Value};
use xks_proxy::limits::{HSM_STOP_TIMEOUT, NLB_DEREGISTERED_DELAY, NLB_UNHEALTHY_DELAY, STOP_TIME};

const TEMPLATE: &str = include_str!("../../packaging/cloudformation/template.yaml");
const UNIT: &str = include_str!("../../packaging/systemd/xks-proxy.service");
const DEPLOYMENT: &str = include_str!("../../packaging/kubernetes/base/deployment.yaml");
const SERVICE: &str = include_str!("../../packaging/kubernetes/overlays/aws/service.yaml");
const INTERVAL: &str = "target_health_state.unhealthy.draining_interval_seconds";
const TERMINATION: &str = "target_health_state.unhealthy.connection_termination.enabled";

/// The first number after `name`, which may be on the next line.
fn seconds(text: &str, name: &str) -> Duration {
    let (_, rest) = text.split_once(name).expect(name);
    let digits = rest.trim_start_matches(|it: char| !it.is_ascii_digit());
    let end = digits.find(|it: char| !it.is_ascii_digit()).unwrap_or(digits.len());
    Duration::from_secs(digits[..end].parse().expect(name))
}

/// `drain_delay_milli` and `drain_timeout_milli` of a settings file for a Network Load Balancer.
fn drain(settings: &str) -> (Duration, Duration) {
    let settings: Table = settings.parse().expect("TOML");
    assert_eq!(settings["server"]["load_balancer"].as_str(), Some("nlb"));
    let millis = |name: &str| {
        let value = settings["server"].get(name).and_then(Value::as_integer).expect(name);
        Duration::from_millis(value.try_into().expect("a time"))
    };
    (millis("drain_delay_milli"), millis("drain_timeout_milli"))
}

/// The health checks that `NLB_UNHEALTHY_DELAY` assumes: two, 10 seconds apart.
#[test]
fn health_checks_are_as_supposed() {
    for (text, interval, threshold) in [
        (TEMPLATE, "HealthCheckIntervalSeconds", "UnhealthyThresholdCount"),
        (SERVICE, "healthcheck-interval", "unhealthy-threshold"),
    ] {
        let found = (seconds(text, interval).as_secs(), seconds(text, threshold).as_secs());
        assert_eq!(found, (10, 2), "{interval}, {threshold}");
    }
}

#[test]
fn systemd_and_cloudformation() {
    let (delay, timeout) = drain(include_str!("../../packaging/settings.toml"));
    assert!(delay >= NLB_UNHEALTHY_DELAY, "{delay:?}");
    let stop = seconds(UNIT, "TimeoutStopSec=");
    assert!(stop >= delay + timeout + HSM_STOP_TIMEOUT, "{stop:?}");
    let value = |name: &str| TEMPLATE.split_once(name).expect(name).1.lines().nth(1).expect(name);
    assert_eq!(value(TERMINATION).trim(), "Value: \"false\"");
    let interval = seconds(TEMPLATE, INTERVAL);
    assert!(interval > delay + timeout, "connections are reset after {interval:?}");
    let deregistration = seconds(TEMPLATE, "DeregistrationDelaySeconds:\n");
    assert!(deregistration >= NLB_DEREGISTERED_DELAY, "{deregistration:?}");
}

#[test]
fn kubernetes() {
    for settings in [
        include_str!("../../packaging/kubernetes/base/settings.toml"),
        include_str!("../../packaging/kubernetes/overlays/nshield/settings.toml"),
    ] {
        let (delay, timeout) = drain(settings);
        assert!(delay >= NLB_DEREGISTERED_DELAY.max(NLB_UNHEALTHY_DELAY), "{delay:?}");
        let (_, hook) = DEPLOYMENT.split_once("preStop:").expect("preStop");
        let all = seconds(hook, "sleep:") + delay + timeout + STOP_TIME;
        let grace = seconds(DEPLOYMENT, "terminationGracePeriodSeconds:");
        assert!(grace >= all, "killed after {grace:?} of {all:?}");
        assert!(SERVICE.contains(&format!("{TERMINATION}=false")));
        let interval = seconds(SERVICE, INTERVAL);
        assert!(interval > delay + timeout, "connections are reset after {interval:?}");
        let deregistration = seconds(SERVICE, "deregistration_delay.timeout_seconds");
        assert!(deregistration <= delay, "{deregistration:?}");
    }
}

/// A process that hangs is killed soon: it would not end before the pod's grace period, in which a
/// healthy one drains.
#[test]
fn kubernetes_and_a_process_that_hangs() {
    let (_, hook) = DEPLOYMENT.split_once("preStop:").expect("preStop");
    let hook = seconds(hook, "sleep:");
    for name in ["startupProbe:", "livenessProbe:"] {
        let (_, probe) = DEPLOYMENT.split_once(name).expect(name);
        let (probe, _) = probe.split_once("Probe:").expect("another probe");
        let grace = seconds(probe, "terminationGracePeriodSeconds:");
        assert!(grace > hook && grace <= hook + HSM_STOP_TIMEOUT + STOP_TIME, "{name} {grace:?}");
    }
}
