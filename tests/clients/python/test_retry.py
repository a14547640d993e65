"""Retries with a request_id."""

import uuid

import grpc
import pytest

from client import refusal
from toggled.v1 import access_service_pb2 as access
from toggled.v1 import audit_service_pb2 as audit
from toggled.v1 import toggle_service_pb2 as toggle


@pytest.fixture
def flip_bytes(admin):
    """Calls ToggleFeatureFlag, and returns the raw answer and its replay marker."""
    method = admin.channel.unary_unary(
        "/toggled.v1.ToggleService/ToggleFeatureFlag", toggle.ToggleFeatureFlagRequest.SerializeToString
    )

    def call(request):
        answer, call = method.with_call(request)
        return answer, dict(call.initial_metadata()).get("x-request-replayed")

    return call


def test_retry_flips_once_and_gets_the_same_bytes(admin, flag, flip_bytes):
    request = toggle.ToggleFeatureFlagRequest(id=flag.id, reason="once", request_id=str(uuid.uuid4()))
    first, replayed = flip_bytes(request)
    assert replayed is None
    # The replay returns the flag as of the first attempt, despite this later flip.
    admin.toggle.ToggleFeatureFlag(toggle.ToggleFeatureFlagRequest(id=flag.id))

    for _ in range(3):
        assert flip_bytes(request) == (first, "true")
    reasons = [entry.reason for entry in admin.audit.ListAuditLogs(audit.ListAuditLogsRequest(entity_id=flag.id)).items]
    assert reasons.count("once") == 1


def test_request_id_cannot_be_reused(admin, flag):
    request = toggle.ToggleFeatureFlagRequest(id=flag.id, request_id=str(uuid.uuid4()))
    admin.toggle.ToggleFeatureFlag(request)
    request.reason = "another"
    refused = refusal(admin.toggle.ToggleFeatureFlag, request)
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REQUEST_ID_REUSED")


def test_replayed_token_has_no_secret(admin):
    user_id = admin.access.WhoAmI(access.WhoAmIRequest()).user.id
    request = access.CreateTokenRequest(user_id=user_id, name="spare", request_id=str(uuid.uuid4()))
    first = admin.access.CreateToken(request)
    again = admin.access.CreateToken(request)
    assert first.secret.startswith("toggled_") and not again.secret
    first.ClearField("secret")
    assert again == first
