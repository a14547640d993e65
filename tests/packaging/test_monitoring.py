"""The dashboard and the alerts use metrics that a server exports, and each alert has a runbook."""

import json
import re
import shutil
import socket
import subprocess
import urllib.request

import grpc
import pytest
import yaml

from client import Client
from metrics import exported, unknown
from paths import ROOT, TOOLS
from server import Server
from toggled.v1.toggle_service_pb2 import (
    CreateFeatureFlagRequest,
    GetFeatureFlagRequest,
    ToggleFeatureFlagRequest,
    WatchFeatureFlagsRequest,
)

RULES = ROOT / "packaging" / "prometheus" / "alerts.yaml"
UNIT_TESTS = ROOT / "tests" / "packaging" / "alerts_test.yaml"
DASHBOARD = ROOT / "packaging" / "grafana" / "dashboard.json"
OPERATIONS = ROOT / "docs" / "operations.md"
PROMTOOL = shutil.which("promtool") or TOOLS / "prometheus" / "usr" / "bin" / "promtool"


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """The metrics of a server that has handled calls of several kinds."""
    with socket.socket() as probe:
        # Other tests ask for free ports on another loopback address.
        probe.bind(("127.0.0.3", 0))
        address = "127.0.0.3:%d" % probe.getsockname()[1]
    with Server(tmp_path_factory.mktemp("monitored"), "--listen", "127.0.0.1:0", "--metrics-listen", address) as server:
        with Client(server.address, server.admin_token()) as admin, Client(server.address, None) as anonymous:
            admin.toggle.CreateFeatureFlag(CreateFeatureFlagRequest(key="a", name="A"))
            admin.toggle.ToggleFeatureFlag(ToggleFeatureFlagRequest(key="a"))
            watching = admin.toggle.WatchFeatureFlags(WatchFeatureFlagsRequest())
            next(watching)
            for refused, key in [(admin, "none"), (anonymous, "a")]:
                with pytest.raises(grpc.RpcError):
                    refused.toggle.GetFeatureFlag(GetFeatureFlagRequest(key=key))
            with urllib.request.urlopen(f"http://{address}/metrics") as answer:
                text = answer.read().decode()
            watching.cancel()
    return exported(text)


def rules():
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return group["rules"]


def panels():
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def queries():
    """All queries, with the alert or panel that uses them."""
    found = [(rule["alert"], rule["expr"]) for rule in rules()]
    return found + [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]


def promtool(*arguments):
    ended = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_queries_use_exported_metrics(known):
    missing = {(where, expression): unknown(expression, known) for where, expression in queries()}
    assert {where: what for (where, _), what in missing.items() if what} == {}


def test_unknown_metric_or_label_is_detected():
    known = exported('# TYPE a counter\na{x="1"} 1\nb_bucket{le="1",m="Say \\"n=1\\""} 0\nb_sum 2\n')
    assert known == {"a": {"x"}, "b_bucket": {"le", "m"}, "b_sum": set()}
    for good in ["rate(a[5m])", 'sum by (x, job) (a{x=~"1|2",instance="i"})', "up == 0", "sum by (le) (b_bucket)"]:
        assert unknown(good, known) == []
    for bad in ["rate(aa[5m])", 'a{y="1"}', "sum by (y) (a)", "b", "b_count", "a / on (y) a", "absent(c)"]:
        assert unknown(bad, known) != [], bad


def test_rules_are_valid():
    promtool("check", "rules", RULES)


def test_alerts_fire_only_when_they_should():
    promtool("test", "rules", UNIT_TESTS)
    cases = [case for test in yaml.safe_load(UNIT_TESTS.read_text())["tests"] for case in test["alert_rule_test"]]
    everything = {rule["alert"] for rule in rules()}
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == everything
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == everything


def test_alerts_have_a_runbook():
    text = OPERATIONS.read_text()
    section = re.search(r"^## Alerts\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)[1]
    explained = dict(re.findall(r"^### (\w+)\n\n\*(\w+)\.\*", section, re.MULTILINE))
    assert explained == {rule["alert"]: rule["labels"]["severity"] for rule in rules()}
    for rule in rules():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"].keys() == {"summary", "runbook_url"}
        assert rule["annotations"]["runbook_url"].endswith(f"/docs/operations.md#{rule['alert'].lower()}")


def test_exported_metrics_are_documented(known):
    """The table of docs/operations.md lists exactly the program's own metrics."""
    section = re.search(r"^## Metrics\n(.*?)^## ", OPERATIONS.read_text(), re.MULTILINE | re.DOTALL)[1]
    explained = {}
    for name, labels in re.findall(r"^\| `(toggled_\w+)(?:\{([\w,]+)\})?`", section, re.MULTILINE):
        explained[name] = set(filter(None, labels.split(",")))
    exported_labels = {}
    for name, labels in known.items():
        if name.startswith("toggled_"):
            plain = re.sub("_(bucket|sum|count)$", "", name)
            exported_labels.setdefault(plain, set()).update(labels - {"le"})
    assert explained == exported_labels


def test_dashboard_is_valid_for_grafana():
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["title"] and dashboard["uid"] and dashboard["schemaVersion"] >= 36
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    for panel in panels():
        place = panel["gridPos"]
        assert 0 <= place["x"] and place["x"] + place["w"] <= 24
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            used = set(re.findall(r"\$\{?(\w+)", target["expr"])) - {"__rate_interval"}
            assert used == {"job", "instance"} <= variables, target["expr"]
    # Panels do not overlap.
    cells = [
        (x, y)
        for panel in dashboard["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
