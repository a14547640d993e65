"""The real grpcurl, which knows the service only through reflection."""

import json
import shutil
import subprocess

import pytest

from paths import GRPCURL

# With Go, tests/setup.sh has built it.
pytestmark = pytest.mark.skipif(not shutil.which("go"), reason="Go is not installed")


@pytest.fixture
def grpcurl(server):
    """Runs grpcurl, and returns the exit status and both outputs."""

    def run(*words, data=None):
        token = ["-H", f"authorization: Bearer {server.admin_token()}"]
        message = [] if data is None else ["-d", json.dumps(data)]
        command = [GRPCURL, "-plaintext", *token, *message, server.address, *words]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return ended.returncode, ended.stdout + ended.stderr

    return run


def test_method_is_described_with_its_policy(grpcurl):
    status, described = grpcurl("describe", "toggled.v1.ToggleService.ToggleFeatureFlag")
    assert status == 0 and 'permission: "toggle_feature_flags"' in described, described


def test_flag_is_flipped(grpcurl, flag):
    status, flipped = grpcurl("toggled.v1.ToggleService/ToggleFeatureFlag", data={"key": flag.key})
    assert status == 0 and json.loads(flipped)["featureFlag"]["status"] == "FEATURE_FLAG_STATUS_ENABLED", flipped


def test_error_is_shown_with_its_reason(grpcurl):
    status, error = grpcurl("toggled.v1.ToggleService/ToggleFeatureFlag", data={"key": "no-such-flag"})
    # grpcurl adds 64 to the code.
    assert status == 64 + 5 and '"reason": "FLAG_NOT_FOUND"' in error, error


def test_stream_of_entries_is_shown(grpcurl, flag):
    status, entries = grpcurl("toggled.v1.AuditService/StreamAuditLogs", data={"entity_id": flag.id})
    assert status == 0 and '"actionType": "flag_created"' in entries, entries
