"""Checks beyond a schema: whether manifests, settings and the program's own names agree.

Arguments: the manifests of an overlay, as kustomize renders them; the path to which the settings
file that they mount is written.
"""

import re
import sys
import tomllib
from pathlib import Path

import yaml

SOURCE = Path(__file__).resolve().parents[2]
LABELS = {"app.kubernetes.io/name": "xks-proxy"}
ANNOTATION = "service.beta.kubernetes.io/aws-load-balancer-"
# Time in addition to drain_delay_milli and drain_timeout_milli, for closing the HSM's sessions and
# writing the logs: STOP_TIME in src/limits/drain.rs, and a little more.
GRACE_BESIDE_MILLI = 25_000
# The same for a process that does not answer /ping, in addition to the preStop hook.
MAX_HANGING_MILLI = 20_000

failures = []


def check(is_right, what):
    if not is_right:
        failures.append(what)


def check_ports(settings, pod, container, service):
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    server = settings["server"]
    expected = {
        "api": server["port"],
        "ping": server["port_http_ping"],
        "metrics": settings["admin"]["port"],
    }
    check(ports == expected, f"ports of the container: {ports}, of the settings: {expected}")
    annotations = pod["metadata"]["annotations"]
    check(annotations["prometheus.io/port"] == str(ports["metrics"]), "Prometheus's port")
    targets = [(port["port"], port["targetPort"]) for port in service["spec"]["ports"]]
    check(targets == [(443, "api")], f"the Service's ports: {targets}")
    probes = {
        name: (container[name]["httpGet"]["port"], container[name]["httpGet"]["path"])
        for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    expected = {
        "startupProbe": ("ping", "/ping"),
        "livenessProbe": ("ping", "/ping"),
        "readinessProbe": ("ping", "/readyz"),
    }
    check(probes == expected, f"probes: {probes}")
    of_nlb = service["metadata"]["annotations"]
    health = [of_nlb[ANNOTATION + "healthcheck-" + name] for name in ("protocol", "port", "path")]
    check(health == ["http", str(ports["ping"]), "/readyz"], f"load balancer's probe: {health}")


def limit_seconds(name):
    """Returns a Duration of src/limits/drain.rs, which may be a sum."""
    text = (SOURCE / "src/limits/drain.rs").read_text()
    seconds = re.search(rf"{name}: Duration = Duration::from_secs\(([\d+ ]+)\)", text)[1]
    return sum(int(part) for part in seconds.split("+"))


def check_draining(settings, spec, container, service):
    """The pod serves until the load balancer has stopped sending to it, whichever way it learns of
    the pod's end; nothing cuts the drain short."""
    delay = settings["server"]["drain_delay_milli"]
    drain = delay + settings["server"]["drain_timeout_milli"]
    hook = 1000 * container["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = 1000 * spec["terminationGracePeriodSeconds"]
    needed = hook + drain + GRACE_BESIDE_MILLI
    check(grace >= needed, f"killed after {grace} ms, while the end takes {needed} ms")
    for probe in ("startupProbe", "livenessProbe"):
        of_probe = 1000 * container[probe].get("terminationGracePeriodSeconds", grace // 1000)
        hanging = of_probe - hook
        check(0 < hanging <= MAX_HANGING_MILLI, f"{probe}: killed {hanging} ms after preStop")
    check(settings["server"]["load_balancer"] == "nlb", "the settings say another load balancer")
    for name in ("NLB_UNHEALTHY_DELAY", "NLB_DEREGISTERED_DELAY"):
        needed = 1000 * limit_seconds(name)
        check(delay >= needed, f"the pod serves for {delay} ms after SIGTERM, {name} is {needed} ms")
    annotations = service["metadata"]["annotations"]
    attributes = annotations[ANNOTATION + "target-group-attributes"]
    attributes = dict(pair.split("=") for pair in attributes.split(","))
    deregistration = 1000 * int(attributes["deregistration_delay.timeout_seconds"])
    check(
        delay >= deregistration,
        f"the pod stops serving after {delay} ms, the load balancer after {deregistration} ms",
    )
    unhealthy = "target_health_state.unhealthy."
    check(
        attributes[unhealthy + "connection_termination.enabled"] == "false",
        "the load balancer resets the connections of a pod that shuts down",
    )
    interval = 1000 * int(attributes[unhealthy + "draining_interval_seconds"])
    check(interval >= drain, f"the load balancer resets connections after {interval} ms of {drain}")
    # NLB_UNHEALTHY_DELAY counts on these.
    checks = [annotations[f"{ANNOTATION}healthcheck-{it}"] for it in ("interval", "unhealthy-threshold")]
    check(checks == ["10", "2"], f"health checks: {checks}")


def check_scaling(settings, autoscaler, budget):
    spec = autoscaler["spec"]
    replicas = spec["minReplicas"]
    check(2 <= replicas <= spec["maxReplicas"], f"{replicas} pods are no redundancy")
    fleet_size = settings["server"]["fleet_size"]
    check(fleet_size == replicas, f"fleet_size {fleet_size}, minReplicas {replicas}")
    check(budget["spec"]["maxUnavailable"] < replicas, "the budget lets all pods be evicted")
    (metric,) = spec["metrics"]
    name = metric["pods"]["metric"]["name"]
    exposed = (SOURCE / "src/admin/prometheus/mod.rs").read_text()
    gauge = re.search(rf'"{re.escape(name)}",\s*Gauge', exposed)
    check(gauge, f"the proxy has no gauge {name}")
    adapter = yaml.safe_load((SOURCE / "packaging/kubernetes/prometheus-adapter.yaml").read_text())
    (rule,) = adapter["rules"]["custom"]
    check(rule["seriesQuery"].startswith(name + "{"), f"the adapter's rule is not for {name}")
    target = int(metric["pods"]["target"]["averageValue"])
    sessions = settings["pkcs11"]["session_pool_max_size"]
    check(target < sessions, f"scales at {target} in flight, after {sessions} sessions queue")


def check_confinement(namespace, spec):
    of_pod = spec["securityContext"]
    check(of_pod["runAsNonRoot"] and of_pod["runAsUser"] > 0, "the pod may run as root")
    check(of_pod["fsGroup"] == of_pod["runAsGroup"], "Secrets are not the process's group's")
    check(of_pod["seccompProfile"]["type"] == "RuntimeDefault", "no seccomp profile")
    check(spec["automountServiceAccountToken"] is False, "a token for the Kubernetes API")
    for container in spec["containers"] + spec.get("initContainers", []):
        context = container["securityContext"]
        name = container["name"]
        check(context["allowPrivilegeEscalation"] is False, f"{name}: privilege escalation")
        check(context["readOnlyRootFilesystem"] is True, f"{name}: writable root file system")
        check(context["capabilities"] == {"drop": ["ALL"]}, f"{name}: capabilities")
        check(re.search(r":[\w.-]+$", container["image"]), f"{name}: image without a tag")
    has_host_path = any("hostPath" in volume for volume in spec["volumes"])
    level = namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    expected = "privileged" if has_host_path else "restricted"
    check(level == expected, f"the namespace's level is {level}, the pod's {expected}")


def check_files(settings, spec, container):
    check("user_pin" not in settings["pkcs11"], "the PIN is in a ConfigMap")
    paths = [settings["pkcs11"]["user_pin_file"], settings["pkcs11"]["PKCS11_HSM_MODULE"]]
    paths += [settings["tls"]["tls_cert_pem"], settings["tls"]["tls_key_pem"]]
    for store in settings["external_key_stores"]:
        check("sigv4_secret_access_key" not in store, "a secret access key is in a ConfigMap")
        paths.append(store["sigv4_secret_access_key_file"])
    (variable,) = [env for env in container["env"] if env["name"] == "XKS_PROXY_SETTINGS_TOML"]
    paths.append(variable["value"])
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    for path in paths:
        check(
            any(path.startswith(mount + "/") for mount in mounts), f"{path} is in no volume"
        )
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    check(set(mounts.values()) <= set(volumes), f"mounts {mounts}, volumes {set(volumes)}")
    for volume in volumes.values():
        if "secret" in volume:
            mode = volume["secret"]["defaultMode"]
            check(mode == 0o400, f"{volume['name']}: mode {mode:o}")


def check_monitoring(objects, pod):
    """The component: the operator's pods are scraped once, under the job that the alerts name, and
    the rules are those of the alert file."""
    monitor, rule = objects["PodMonitor"], objects["PrometheusRule"]
    check(monitor["spec"]["selector"]["matchLabels"] == LABELS, "the PodMonitor's selector")
    job = pod["metadata"]["labels"][monitor["spec"]["jobLabel"]]
    alerts = yaml.safe_load((SOURCE / "configuration/prometheus-alerts.yml").read_text())
    check(f'job="{job}"' in str(alerts), f"no alert is for the job {job}")
    ports = [endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]]
    check(ports == ["metrics"], f"the PodMonitor's ports: {ports}")
    check(rule["spec"] == alerts, "the PrometheusRule differs from configuration/prometheus-alerts.yml")
    scraped = pod["metadata"]["annotations"]["prometheus.io/scrape"]
    check(scraped == "false", "the pods are scraped twice: by the PodMonitor and by annotations")
    for it in (monitor, rule):
        check(it["metadata"]["namespace"] == "xks-proxy", f"namespace of the {it['kind']}")


def check_public(service):
    """The component: a load balancer that KMS can reach over the internet."""
    parameters = (SOURCE / "packaging/kubernetes/components/public/public.env").read_text()
    values = dict(re.findall(r"^(\w+)=(.*)$", parameters, re.M))
    annotations = service["metadata"]["annotations"]
    found = {
        "SCHEME": annotations[ANNOTATION + "scheme"],
        "SUBNETS": annotations[ANNOTATION + "subnets"],
        "SOURCE_RANGES": annotations["service.beta.kubernetes.io/load-balancer-source-ranges"],
    }
    check(found == values, f"the Service has {found}, public.env {values}")
    check(found["SCHEME"] == "internet-facing", "KMS cannot reach it")


def main():
    rendered, settings_file = sys.argv[1:]
    objects = {}
    for document in yaml.safe_load_all(Path(rendered).read_text()):
        check(document["kind"] not in objects, f"two of {document['kind']}")
        objects[document["kind"]] = document
    text = objects["ConfigMap"]["data"]["settings.toml"]
    Path(settings_file).write_text(text)
    settings = tomllib.loads(text)
    pod = objects["Deployment"]["spec"]["template"]
    spec = pod["spec"]
    (container,) = spec["containers"]
    check("replicas" not in objects["Deployment"]["spec"], "replicas: the autoscaler's to say")
    check("Secret" not in objects, "a Secret is in the source tree")
    for kind, selector in [
        ("Deployment", objects["Deployment"]["spec"]["selector"]["matchLabels"]),
        ("Service", objects["Service"]["spec"]["selector"]),
        ("PodDisruptionBudget", objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]),
        ("NetworkPolicy", objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]),
    ] + [
        ("topologySpreadConstraints", spread["labelSelector"]["matchLabels"])
        for spread in spec["topologySpreadConstraints"]
    ]:
        check(selector == LABELS, f"{kind} selects {selector}")
    check(pod["metadata"]["labels"] == LABELS, "labels of the pods")
    check_ports(settings, pod, container, objects["Service"])
    check_draining(settings, spec, container, objects["Service"])
    check_scaling(settings, objects["HorizontalPodAutoscaler"], objects["PodDisruptionBudget"])
    check_confinement(objects["Namespace"], spec)
    check_files(settings, spec, container)
    gate = "elbv2.k8s.aws/pod-readiness-gate-inject"
    check(objects["Namespace"]["metadata"]["labels"].get(gate) == "enabled", "no readiness gate")
    if "PodMonitor" in objects:
        check_monitoring(objects, pod)
        check_public(objects["Service"])
    for failure in failures:
        print(f"{rendered}: {failure}", file=sys.stderr)
    sys.exit(1 if failures else 0)


main()
