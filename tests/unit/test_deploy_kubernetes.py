"""The manifests, as kustomize makes them: valid to Kubernetes, referring only to what is there."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.deploy_files import (
    DEPLOY,
    KUBERNETES,
    OVERLAYS,
    Document,
    containers,
    known_variables,
    kustomized,
    labels,
    name_of,
    parse,
    pod,
    pulsetrain_commands,
    workloads,
)

pytestmark = pytest.mark.parametrize("overlay", OVERLAYS)

# What an operator makes, and docs/deploying.md names: no value of a secret is in the repository.
SECRETS = {
    "pulsetrain-clickhouse": {"writer-password", "reader-password", "grafana-password"},
    "pulsetrain-grafana": {"admin-password"},
    "pulsetrain-monitor": set[str](),
    "pulsetrain-mail": set[str](),
    **{
        f"pulsetrain-kafka-{user}": {"username", "password"}
        for user in ("writer", "aggregator", "monitor", "admin", "producer")
    },
}
MADE_BY_HAND = {"pulsetrain-ca"}
# kubectl apply writes an object once more into an annotation of it, and all annotations together may have so much.
ANNOTATION_BYTES = 262_144


def _of_kind(overlay: str, *kinds: str) -> list[Document]:
    return [one for one in kustomized(overlay) if one["kind"] in kinds]


def _values(tree: Any, key: str) -> Iterator[Any]:
    """The values of a key, wherever it is in a document."""
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            if name == key:
                yield value
            yield from _values(value, key)
    elif isinstance(tree, list):
        for value in tree:
            yield from _values(value, key)


def _fits(selector: Document, found: Mapping[str, str]) -> bool:
    return set(selector.get("matchLabels", {}).items()) <= set(found.items())


def _pods(overlay: str, namespace: str) -> list[Document]:
    return [one for one in workloads(kustomized(overlay)) if one["metadata"]["namespace"] == namespace]


def test_every_object_is_one_that_kubernetes_takes(overlay: str):
    version = kubernetes_validate.latest_version()
    for document in kustomized(overlay):
        if not document["apiVersion"].startswith("keda.sh/"):
            kubernetes_validate.validate(document, version, strict=True)


def test_every_object_has_a_namespace_that_is_made_here(overlay: str):
    made = {one["metadata"]["name"] for one in _of_kind(overlay, "Namespace")}
    assert made == {"pulsetrain", "pulsetrain-forwarder"}
    for document in kustomized(overlay):
        if document["kind"] != "Namespace":
            assert document["metadata"].get("namespace") in made, name_of(document)


def test_nothing_is_there_twice(overlay: str):
    names = [(name_of(one), one["metadata"].get("namespace")) for one in kustomized(overlay)]
    assert len(set(names)) == len(names)


def test_no_secret_is_in_the_manifests_and_each_that_is_referred_to_is_one_of_the_documented(overlay: str):
    assert not _of_kind(overlay, "Secret")
    for document in kustomized(overlay):
        for reference in _values(document, "secretKeyRef"):
            assert reference["key"] in SECRETS[reference["name"]], name_of(document)
        for reference in _values(document, "secretRef"):
            assert reference["name"] in SECRETS
        for container in containers(document) if document in list(workloads([document])) else ():
            for variable in container.get("env", ()):
                if re.search("PASSWORD|TOKEN|SECRET", variable["name"]):
                    assert "value" not in variable, f"{name_of(document)}: {variable['name']}"


def test_the_docs_name_every_secret(overlay: str):
    text = (DEPLOY.parent / "docs" / "deploying.md").read_text()
    for name, keys in SECRETS.items():
        assert f"`{name}`" in text
        assert all(f"`{key}`" in text for key in keys)


def test_every_config_map_that_is_mounted_is_made_here_and_none_is_for_nothing(overlay: str):
    made = {one["metadata"]["name"] for one in _of_kind(overlay, "ConfigMap")}
    used = set[str]()
    for document in workloads(kustomized(overlay)):
        used |= {one["name"] for key in ("configMap", "configMapRef") for one in _values(document, key)}
    assert used - made == (MADE_BY_HAND if overlay == "production" else set())
    assert made - used == set()


def test_config_maps_are_small_enough_for_kubectl_apply(overlay: str):
    for document in _of_kind(overlay, "ConfigMap"):
        assert len(json.dumps(json.dumps(document))) < ANNOTATION_BYTES, name_of(document)


def test_every_selector_of_a_budget_a_service_or_a_policy_finds_pods(overlay: str):
    for document in _of_kind(overlay, "PodDisruptionBudget", "Service", "NetworkPolicy"):
        spec, namespace = document["spec"], document["metadata"]["namespace"]
        selector = {
            "PodDisruptionBudget": lambda spec: spec["selector"],
            "Service": lambda spec: {"matchLabels": spec["selector"]},
            "NetworkPolicy": lambda spec: spec["podSelector"],
        }[document["kind"]](spec)
        assert any(_fits(selector, labels(one)) for one in _pods(overlay, namespace)), name_of(document)


def test_every_peer_of_a_policy_is_a_pod_that_is_there_or_a_namespace(overlay: str):
    optional = {"prometheus"}  # may be another's
    for document in _of_kind(overlay, "NetworkPolicy"):
        for peers in (*_values(document["spec"], "from"), *_values(document["spec"], "to")):
            for peer in peers:
                if (
                    "podSelector" not in peer
                    or peer["podSelector"]["matchLabels"].get("app.kubernetes.io/name") in optional
                ):
                    continue
                names = peer.get("namespaceSelector", {}).get("matchLabels", {})
                namespace = names.get("kubernetes.io/metadata.name", document["metadata"]["namespace"])
                assert any(_fits(peer["podSelector"], labels(one)) for one in _pods(overlay, namespace)), name_of(
                    document
                )


def test_whoever_calls_something_inside_may_and_is_let_in(overlay: str):
    """Both ends of a connection need a rule where everything else is denied."""
    policies = _of_kind(overlay, "NetworkPolicy")

    def allows(direction: str, own: Document, peer: Document, port: int) -> bool:
        side = {"ingress": "from", "egress": "to"}[direction]
        return any(
            _fits(policy["spec"]["podSelector"], labels(own))
            and any(one["port"] == port for one in rule.get("ports", ()))
            and any("podSelector" in one and _fits(one["podSelector"], labels(peer)) for one in rule[side])
            for policy in policies
            for rule in policy["spec"].get(direction, ())
        )

    pods = {one["metadata"]["name"]: one for one in _pods(overlay, "pulsetrain")}
    calls = [("monitor", "grafana", 3000)]
    if overlay == "single-node":
        services = ("writer", "aggregator", "monitor", "setup")
        calls += [(service, "kafka", 9092) for service in services]
        calls += [(service, "clickhouse", 9000) for service in (*services, "grafana")]
        calls += [("prometheus", service, 9464) for service in ("writer", "aggregator", "monitor")]
        calls += [("prometheus", "clickhouse", 9363), ("prometheus", "grafana", 3000), ("grafana", "prometheus", 9090)]
    for caller, called, port in calls:
        assert allows("egress", pods[caller], pods[called], port), f"{caller} may not call {called}:{port}"
        assert allows("ingress", pods[called], pods[caller], port), f"{called} does not let {caller} in at {port}"


def test_ports_that_probes_and_services_name_are_ports_of_the_container(overlay: str):
    for document in workloads(kustomized(overlay)):
        for container in containers(document):
            named = {port["name"] for port in container.get("ports", ())}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                if probe in container:
                    assert set(_values(container[probe], "port")) <= named, name_of(document)
    for service in _of_kind(overlay, "Service"):
        selected = [
            one
            for one in _pods(overlay, "pulsetrain")
            if _fits({"matchLabels": service["spec"]["selector"]}, labels(one))
        ]
        named = {
            port["name"] for one in selected for container in containers(one) for port in container.get("ports", ())
        }
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= named


def test_every_volume_is_mounted_and_every_mount_has_a_volume(overlay: str):
    for document in workloads(kustomized(overlay)):
        templates = [one["metadata"]["name"] for one in document["spec"].get("volumeClaimTemplates", ())]
        there = {one["name"] for one in pod(document).get("volumes", ())} | set(templates)
        mounted = {mount["name"] for one in containers(document) for mount in one.get("volumeMounts", ())}
        assert mounted == there, name_of(document)


def test_every_call_of_pulsetrain_is_one_that_it_takes(overlay: str):
    found = [
        words
        for document in workloads(kustomized(overlay))
        for container in containers(document)
        for words in pulsetrain_commands([*container.get("command", ()), *container.get("args", ())])
    ]
    assert len(found) == 5
    for words in found:
        parse(words)


def test_services_serve_where_they_are_asked_for_their_health(overlay: str):
    for document in workloads(kustomized(overlay)):
        for container in containers(document):
            if container.get("command", ())[:2] != ["pulsetrain", "consumer"]:
                continue
            given = parse([*container["command"], *container["args"]]).params
            assert container["ports"] == [{"name": "metrics", "containerPort": given["metrics_port"]}]
            assert given["metrics_host"] == "0.0.0.0"
            assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
            assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
            annotations = document["spec"]["template"]["metadata"]["annotations"]
            assert annotations["prometheus.io/port"] == str(given["metrics_port"])


def _environments(overlay: str) -> Iterable[tuple[str, dict[str, Any]]]:
    """Of each container what is in its environment, in the order in which Kubernetes puts it there."""
    maps = {one["metadata"]["name"]: one.get("data", {}) for one in _of_kind(overlay, "ConfigMap")}
    for document in workloads(kustomized(overlay)):
        for container in containers(document):
            found: dict[str, Any] = {}
            for source in container.get("envFrom", ()):
                found |= maps[source["configMapRef"]["name"]] if "configMapRef" in source else {}
            found |= {one["name"]: one.get("value") for one in container.get("env", ())}
            yield f"{name_of(document)}, {container['name']}", found


def test_every_variable_of_ours_is_one_that_something_reads(overlay: str):
    for where, found in _environments(overlay):
        assert {name for name in found if name.startswith("PULSETRAIN_")} <= known_variables(), where


def test_what_is_put_into_a_variable_stands_before_it(overlay: str):
    for where, found in _environments(overlay):
        names = list(found)
        for position, value in enumerate(found.values()):
            for name in re.findall(r"\$\((\w+)\)", str(value)):
                assert name in names[:position], f"{where}: {name}"


def test_every_process_is_told_where_what_it_needs_is(overlay: str):
    found = dict(_environments(overlay))
    services = [f"Deployment {name}, {name}" for name in ("writer", "aggregator", "monitor")]
    for where in (*services, "Job setup, topics", "DaemonSet forwarder, leftovers"):
        assert found[where]["PULSETRAIN_KAFKA"]
        if overlay == "production":
            assert found[where]["PULSETRAIN_KAFKA_SECURITY_PROTOCOL"] == "SASL_SSL"
            assert "PULSETRAIN_KAFKA_SASL_PASSWORD" in found[where]
    for where in (*services, "Job setup, migrate"):
        assert re.match(r"clickhouses?://writer:", found[where]["PULSETRAIN_CLICKHOUSE"])
    provisioned = "".join(path.read_text() for path in (DEPLOY / "grafana" / "provisioning").rglob("*.yaml"))
    asked = set(re.findall(r"\$(PULSETRAIN_\w+)", re.sub(r"(?m)^#.*", "", provisioned))) - {"PULSETRAIN_DASHBOARDS"}
    assert asked <= set(found["Deployment grafana, grafana"])


def test_scaling_is_of_deployments_that_leave_their_number_to_it(overlay: str):
    deployments = {one["metadata"]["name"]: one for one in _of_kind(overlay, "Deployment")}
    scaled = _of_kind(overlay, "ScaledObject")
    assert len(scaled) == (2 if overlay == "production" else 0)
    logins = {one["metadata"]["name"]: one["spec"] for one in _of_kind(overlay, "TriggerAuthentication")}
    for document in scaled:
        spec = document["spec"]
        target = deployments[spec["scaleTargetRef"]["name"]]
        assert "replicas" not in target["spec"]
        assert 1 <= spec["minReplicaCount"] <= spec["maxReplicaCount"]
        for trigger in spec["triggers"]:
            assert trigger["type"] == "kafka"
            metadata = trigger["metadata"]
            assert {"bootstrapServers", "consumerGroup", "topic", "lagThreshold"} <= set(metadata)
            assert all(isinstance(value, str) for value in metadata.values())
            assert metadata["consumerGroup"] == parse(containers(target)[0]["command"]).params["group"]
            for reference in logins[trigger["authenticationRef"]["name"]]["secretTargetRef"]:
                assert reference["key"] in SECRETS[reference["name"]]


def test_what_the_generators_name_is_all_that_there_is(overlay: str):
    """kustomize takes no patterns: a file that is added has to be named."""
    for folder, patterns in {
        "grafana": ("dashboards/*.json", "provisioning/*/*.yaml"),
        "prometheus": ("prometheus.yaml", "rules/*.yaml"),
    }.items():
        generators = yaml.safe_load((DEPLOY / folder / "kustomization.yaml").read_text())["configMapGenerator"]
        named = {name for one in generators for name in one.get("files") or ()}
        there = {
            str(path.relative_to(DEPLOY / folder)) for pattern in patterns for path in (DEPLOY / folder).glob(pattern)
        }
        assert named == there


def test_the_example_of_a_training_pod_is_valid_and_finds_the_kafka_of_the_single_node(overlay: str):
    document = yaml.safe_load((KUBERNETES / "examples" / "training-job.yaml").read_text())
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    (container,) = containers(document)
    env = {one["name"]: one["value"] for one in container["env"]}
    assert set(env) <= known_variables()
    found = dict(_environments(overlay))["DaemonSet forwarder, leftovers"]
    assert env["PULSETRAIN_DIR"] == found["PULSETRAIN_DIR"]
    if overlay == "single-node":
        assert env["PULSETRAIN_KAFKA"] == found["PULSETRAIN_KAFKA"]
    assert pod(document)["securityContext"]["runAsUser"] == 10001
