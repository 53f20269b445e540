"""What pods may do: nothing that they need not."""

import pytest

from tests.deploy_files import OVERLAYS, containers, is_pinned, kustomized, labels, name_of, pod, workloads

pytestmark = pytest.mark.parametrize("overlay", OVERLAYS)

# A directory of the host is root's when Kubernetes makes it; this container gives it to the user and ends.
ROOT = ("DaemonSet forwarder", "own-directory")
# It serves nothing, and cuts a round off that hangs.
WITHOUT_PROBES = {"DaemonSet forwarder"}


def test_every_container_is_locked_down(overlay: str):
    for document in workloads(kustomized(overlay)):
        of_pod = pod(document)["securityContext"]
        assert of_pod["runAsNonRoot"] is True, name_of(document)
        assert of_pod["runAsUser"] > 0
        assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(document):
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, name_of(document)
            assert own["readOnlyRootFilesystem"] is True
            assert own["capabilities"]["drop"] == ["ALL"]
            assert "privileged" not in own
            if (name_of(document), container["name"]) == ROOT:
                assert own["capabilities"]["add"] == ["CHOWN", "FOWNER"]
            else:
                assert "add" not in own["capabilities"]
                assert own.get("runAsUser", 1) > 0


def test_no_pod_shares_what_is_the_host_s_but_the_directory_of_journals(overlay: str):
    for document in workloads(kustomized(overlay)):
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod(document)), name_of(document)
        mounted = [one["hostPath"]["path"] for one in pod(document).get("volumes", ()) if "hostPath" in one]
        assert mounted == (["/var/lib/pulsetrain"] if document["kind"] == "DaemonSet" else [])


def test_every_namespace_holds_its_pods_to_a_standard(overlay: str):
    standards = {
        one["metadata"]["name"]: one["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        for one in kustomized(overlay)
        if one["kind"] == "Namespace"
    }
    assert standards == {"pulsetrain": "restricted", "pulsetrain-forwarder": "privileged"}


def test_everything_is_denied_in_every_namespace_that_is_not_allowed(overlay: str):
    denied = {
        one["metadata"]["namespace"]
        for one in kustomized(overlay)
        if one["kind"] == "NetworkPolicy" and one["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    }
    assert denied == {"pulsetrain", "pulsetrain-forwarder"}


def test_every_container_is_bounded_and_has_an_image_with_a_version(overlay: str):
    for document in workloads(kustomized(overlay)):
        for container in containers(document):
            assert is_pinned(container["image"]), container["image"]
            for kind in ("requests", "limits"):
                assert set(container["resources"][kind]) == {"cpu", "memory"}, name_of(document)


def test_every_pod_has_an_account_of_its_own_that_does_not_talk_to_the_cluster(overlay: str):
    accounts = {
        (one["metadata"]["namespace"], one["metadata"]["name"]): one
        for one in kustomized(overlay)
        if one["kind"] == "ServiceAccount"
    }
    for document in workloads(kustomized(overlay)):
        account = accounts.pop((document["metadata"]["namespace"], pod(document)["serviceAccountName"]))
        assert account["automountServiceAccountToken"] is False
        assert pod(document)["automountServiceAccountToken"] is False
    assert not accounts


def test_everything_that_serves_is_asked_how_it_is(overlay: str):
    for document in workloads(kustomized(overlay)):
        if document["kind"] != "Job" and name_of(document) not in WITHOUT_PROBES:
            for container in pod(document)["containers"]:
                assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container), name_of(document)


def test_selectors_find_the_pods_of_their_own_workload_and_of_no_other(overlay: str):
    found = [one for one in workloads(kustomized(overlay)) if "selector" in one["spec"]]
    for document in found:
        wanted = document["spec"]["selector"]["matchLabels"].items()
        matching = [one for one in found if wanted <= labels(one).items()]
        assert matching == [document]


def test_there_are_two_monitors_one_works_and_one_waits(overlay: str):
    (monitor,) = (one for one in kustomized(overlay) if name_of(one) == "Deployment monitor")
    assert monitor["spec"]["replicas"] == 2


def test_a_budget_never_keeps_a_node_from_being_emptied(overlay: str):
    budgets = [one for one in kustomized(overlay) if one["kind"] == "PodDisruptionBudget"]
    assert {one["metadata"]["name"] for one in budgets} == {"writer", "aggregator", "monitor"}
    assert all(one["spec"]["maxUnavailable"] >= 1 for one in budgets)
