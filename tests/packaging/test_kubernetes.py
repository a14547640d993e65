"""The manifests match Kubernetes' schema, each other, the image and the program."""

import copy
import re

import kubernetes_validate
import pytest

from dockerfile import stages
from manifests import FOLDER, PLAIN, TLS, container, environment, objects, pod
from paths import ROOT

# The oldest and the newest version to support, as far as the installed schemas cover them.
VERSIONS = ["1.29", "1.37"]
DEPLOYMENTS = [PLAIN, TLS]
# Seconds that a server needs for its last writes, after the drain delay and the shutdown timeout.
FINAL_WRITE_SECONDS = 3


def deployment(file):
    return objects(file)["Deployment"]


def validate(thing, version):
    """Fails if a field is unknown, missing or of a wrong type."""
    assert kubernetes_validate.validate(thing, version, strict=True) == version


def seconds(text):
    return int(re.fullmatch(r"(\d+)s", text)[1])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("file", DEPLOYMENTS, ids=lambda file: file.stem)
def test_objects_match_the_schema(file, version):
    for thing in objects(file).values():
        validate(thing, version)


def test_manifests_hold_the_expected_objects():
    assert sorted(FOLDER.iterdir()) == sorted(DEPLOYMENTS)
    assert objects(PLAIN).keys() == {"Deployment", "Service", "PodDisruptionBudget"}
    assert objects(TLS).keys() == {"Deployment"}


@pytest.mark.parametrize("version", VERSIONS)
def test_invalid_field_is_detected(version):
    def misspelt(thing):
        probe = container(thing)["readinessProbe"]
        probe["periodSecond"] = probe.pop("periodSeconds")

    def missing(thing):
        del thing["spec"]["selector"]

    def mistyped(thing):
        thing["spec"]["replicas"] = "two"

    for spoil in [misspelt, missing, mistyped]:
        thing = copy.deepcopy(deployment(PLAIN))
        spoil(thing)
        with pytest.raises(kubernetes_validate.ValidationError):
            validate(thing, version)


def differences(one, other, path=""):
    """The paths at which two values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = one.keys() | other.keys()
        return {d for key in keys for d in differences(one.get(key), other.get(key), f"{path}/{key}")}
    return set() if one == other else {path}


def test_tls_manifest_differs_only_in_tls():
    plain, tls = deployment(PLAIN), deployment(TLS)
    ours, theirs = environment(plain), environment(tls)
    assert ours.keys() - theirs.keys() == {"TOGGLED_ALLOW_PLAINTEXT"}
    assert theirs.keys() - ours.keys() == {"TOGGLED_TLS_CERTIFICATE", "TOGGLED_TLS_KEY"}
    assert all(ours[name] == theirs[name] for name in ours.keys() & theirs.keys())
    one, other = copy.deepcopy(container(plain)), copy.deepcopy(container(tls))
    del one["env"], other["env"]
    assert differences(one, other) == {"/readinessProbe/grpc", "/readinessProbe/httpGet", "/volumeMounts"}
    one, other = copy.deepcopy(plain), copy.deepcopy(tls)
    del pod(one)["containers"], pod(other)["containers"]
    assert differences(one, other) == {"/spec/template/spec/volumes"}
    assert all(volume in pod(tls)["volumes"] for volume in pod(plain)["volumes"])
    assert all(mount in container(tls)["volumeMounts"] for mount in container(plain)["volumeMounts"])
    (mount,) = [mount for mount in container(tls)["volumeMounts"] if mount["name"] == "tls"]
    for name, key in [("TOGGLED_TLS_CERTIFICATE", "tls.crt"), ("TOGGLED_TLS_KEY", "tls.key")]:
        assert theirs[name] == f"{mount['mountPath']}/{key}"


@pytest.mark.parametrize("file", DEPLOYMENTS, ids=lambda file: file.stem)
def test_probes_use_the_right_endpoints(file):
    ports = {port["name"]: port["containerPort"] for port in container(deployment(file))["ports"]}
    settings = environment(deployment(file))
    assert settings["TOGGLED_METRICS_LISTEN"] == f"0.0.0.0:{ports['metrics']}"
    probes = {name: probe for name, probe in container(deployment(file)).items() if name.endswith("Probe")}
    assert probes.keys() == {"readinessProbe", "livenessProbe"}
    # Liveness must not depend on the database: a restarted server would lose the flags in memory.
    assert probes["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "metrics"}
    if "TOGGLED_TLS_KEY" in settings:
        assert probes["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}
    else:
        assert probes["readinessProbe"]["grpc"] == {"port": ports["grpc"]}


@pytest.mark.parametrize("file", DEPLOYMENTS, ids=lambda file: file.stem)
def test_grace_period_covers_the_shutdown(file):
    settings = environment(deployment(file))
    longest = seconds(settings["TOGGLED_DRAIN_DELAY"]) + seconds(settings["TOGGLED_SHUTDOWN_TIMEOUT"])
    assert pod(deployment(file))["terminationGracePeriodSeconds"] > longest + FINAL_WRITE_SECONDS


@pytest.mark.parametrize("file", DEPLOYMENTS, ids=lambda file: file.stem)
def test_container_is_restricted(file):
    inside, outside = container(deployment(file))["securityContext"], pod(deployment(file))["securityContext"]
    assert inside == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert outside["runAsNonRoot"] and outside["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod(deployment(file))["automountServiceAccountToken"] is False
    # Variables that Kubernetes sets for Services would be unknown settings.
    assert pod(deployment(file))["enableServiceLinks"] is False
    # The same user and port as in the image.
    image = stages(ROOT / "packaging" / "Dockerfile")[-1]
    assert f"{outside['runAsUser']}:{outside['runAsGroup']}" == image.settings["USER"]
    assert {"name": "grpc", "containerPort": int(image.settings["EXPOSE"])} in container(deployment(file))["ports"]


@pytest.mark.parametrize("file", DEPLOYMENTS, ids=lambda file: file.stem)
def test_secrets_come_from_a_secret_object(file):
    assert deployment(file)["spec"]["replicas"] == 2
    secret = {s["name"]: s["valueFrom"]["secretKeyRef"] for s in container(deployment(file))["env"] if "valueFrom" in s}
    taken = {name: (ref["name"], ref["key"]) for name, ref in secret.items()}
    assert taken == {
        "TOGGLED_DATABASE_URL": ("toggled", "database-url"),
        "TOGGLED_BOOTSTRAP_TOKEN": ("toggled", "bootstrap-token"),
    }
    (volume,) = [volume["secret"] for volume in pod(deployment(file))["volumes"] if volume["name"] == "checkpoint-key"]
    (mount,) = [mount for mount in container(deployment(file))["volumeMounts"] if mount["name"] == "checkpoint-key"]
    (item,) = volume["items"]
    assert environment(deployment(file))["TOGGLED_CHECKPOINT_KEY_FILE"] == f"{mount['mountPath']}/{item['path']}"
    taken["TOGGLED_CHECKPOINT_KEY_FILE"] = (volume["secretName"], item["key"])
    # The commands in the comment and in the document create the same secret.
    for text in [PLAIN.read_text(), (ROOT / "docs" / "deployment.md").read_text()]:
        made = re.search(r"kubectl create secret generic (\S+) .*?(?=kubectl apply|apiVersion)", text, re.DOTALL)
        keys = set(re.findall(r"--from-(?:literal|file)=([a-z-]+)=", made[0]))
        assert made[1] == "toggled" and keys == {key for _, key in taken.values()}


def test_selectors_match_the_pods():
    plain = objects(PLAIN)
    labels = plain["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert plain["Service"]["spec"]["selector"] == labels
    for kind in ["Deployment", "PodDisruptionBudget"]:
        assert plain[kind]["spec"]["selector"]["matchLabels"] == labels
    (port,) = plain["Service"]["spec"]["ports"]
    assert port["targetPort"] in {port["name"] for port in container(plain["Deployment"])["ports"]}
    budget, replicas = plain["PodDisruptionBudget"]["spec"]["minAvailable"], plain["Deployment"]["spec"]["replicas"]
    assert 0 < budget < replicas, "otherwise no node could be drained"
