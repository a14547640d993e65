"""buf curl, which knows the service only through reflection."""

import base64
import json
import subprocess

import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from paths import BUF


@pytest.fixture(
    params=[("grpc", "grpc-v1"), ("grpc", "grpc-v1alpha"), ("connect", "grpc-v1"), ("grpcweb", "grpc-v1")],
    ids=lambda param: "-".join(param),
)
def curl(request, server, tmp_path):
    """Calls a method, and returns the exit status and the answer or the error. Reflection uses the same protocol."""
    protocol, reflection = request.param

    def call(method, message):
        ended = subprocess.run(
            [
                BUF,
                "curl",
                f"--protocol={protocol}",
                "--http2-prior-knowledge",
                f"--reflect-protocol={reflection}",
                f"--header=authorization: Bearer {server.admin_token()}",
                f"--data={json.dumps(message)}",
                f"http://{server.address}/{method}",
            ],
            # An empty folder, without .proto files.
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return ended.returncode, json.loads(ended.stdout or ended.stderr)

    return call


def test_flag_is_created_flipped_and_logged(curl, fresh_key):
    key = fresh_key("curl")
    status, created = curl("toggled.v1.ToggleService/CreateFeatureFlag", {"key": key, "name": "By curl"})
    assert (status, created["featureFlag"]["status"]) == (0, "FEATURE_FLAG_STATUS_DISABLED")

    status, flipped = curl("toggled.v1.ToggleService/ToggleFeatureFlag", {"key": key, "reason": "by curl"})
    assert (status, flipped["featureFlag"]["status"]) == (0, "FEATURE_FLAG_STATUS_ENABLED")

    status, listed = curl("toggled.v1.AuditService/ListAuditLogs", {"entityId": created["featureFlag"]["id"]})
    assert (status, listed["total"]) == (0, "2")
    entry = listed["items"][0]
    assert (entry["actionType"], entry["reason"]) == ("toggle_enabled", "by curl")
    assert (entry["userEmail"], entry["entityKey"]) == ("admin@localhost", key)


def test_error_is_shown_with_its_reason(curl):
    status, error = curl("toggled.v1.ToggleService/ToggleFeatureFlag", {"key": "no-such-flag"})
    # NOT_FOUND is 5; buf shifts the code by three bits.
    assert (status, error["code"]) == (5 << 3, "not_found")
    details = {detail["type"]: detail["value"] for detail in error["details"]}
    # buf leaves out base64's padding.
    info = ErrorInfo.FromString(base64.b64decode(details["google.rpc.ErrorInfo"] + "=="))
    assert (info.domain, info.reason) == ("toggled", "FLAG_NOT_FOUND")
    assert "google.rpc.ResourceInfo" in details
