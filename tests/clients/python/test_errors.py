"""Errors as clients see them."""

import uuid

import grpc
import pytest
from google.rpc.error_details_pb2 import PreconditionFailure, ResourceInfo

from client import Client, refusal
from toggled.v1 import access_service_pb2 as access
from toggled.v1 import audit_service_pb2 as audit
from toggled.v1 import toggle_service_pb2 as toggle

INJECTION = "'; DROP TABLE audit_logs; --"


@pytest.fixture
def viewer(server, admin, fresh_key):
    """A client that may only read flags."""
    user = access.CreateUserRequest(email=f"{fresh_key('viewer')}@localhost", permissions=["view_feature_flags"])
    user_id = admin.access.CreateUser(user).user.id
    secret = admin.access.CreateToken(access.CreateTokenRequest(user_id=user_id, name="laptop")).secret
    with Client(server.address, secret) as client:
        yield client


def entries_about(client, flag_id):
    return list(client.audit.ListAuditLogs(audit.ListAuditLogsRequest(entity_id=flag_id)).items)


@pytest.mark.parametrize("name", [{"key": "no-such-flag"}, {"id": str(uuid.uuid4())}], ids=["key", "id"])
def test_unknown_flag_is_not_found(admin, name):
    refused = refusal(admin.toggle.ToggleFeatureFlag, toggle.ToggleFeatureFlagRequest(**name))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "FLAG_NOT_FOUND")
    resource = refused.detail(ResourceInfo)
    assert resource.resource_type
    assert resource.resource_name in name.values()


def test_unknown_entry_is_not_found(admin):
    refused = refusal(admin.audit.GetAuditLog, audit.GetAuditLogRequest(id=str(uuid.uuid4())))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "AUDIT_LOG_NOT_FOUND")


def test_all_invalid_fields_are_reported_together(admin):
    request = toggle.CreateFeatureFlagRequest(key="two words", name="", description="x" * 2001, reason="x" * 2001)
    refused = refusal(admin.toggle.CreateFeatureFlag, request)
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert refused.fields() == {"key", "name", "description", "reason"}


def test_all_invalid_filters_are_reported_together(admin):
    request = audit.ListAuditLogsRequest(page=0, limit=101, entity_id="42", action_type="exploded")
    refused = refusal(admin.audit.ListAuditLogs, request)
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert refused.fields() == {"page", "limit", "entity_id", "action_type"}


def test_key_of_an_archived_flag_stays_taken(admin, flag):
    admin.toggle.ArchiveFeatureFlag(toggle.ArchiveFeatureFlagRequest(id=flag.id))
    refused = refusal(admin.toggle.CreateFeatureFlag, toggle.CreateFeatureFlagRequest(key=flag.key, name="Again"))
    assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "KEY_TAKEN")
    assert refused.detail(ResourceInfo).resource_name == flag.key


def test_archived_flag_is_not_flipped(admin, flag):
    admin.toggle.ArchiveFeatureFlag(toggle.ArchiveFeatureFlagRequest(id=flag.id))
    refused = refusal(admin.toggle.ToggleFeatureFlag, toggle.ToggleFeatureFlagRequest(id=flag.id))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "FLAG_ARCHIVED")
    assert refused.detail(PreconditionFailure).violations


def test_stale_revision_error_names_the_current_one(admin, flag):
    current = admin.toggle.EnableFeatureFlag(toggle.EnableFeatureFlagRequest(id=flag.id)).feature_flag.revision
    request = toggle.ToggleFeatureFlagRequest(id=flag.id, expected_revision=flag.revision)
    refused = refusal(admin.toggle.ToggleFeatureFlag, request)
    assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "REVISION_MISMATCH")
    assert refused.metadata["current_revision"] == str(current)


def test_future_revision_is_out_of_range(admin, flag):
    head = admin.audit.ListAuditLogs(audit.ListAuditLogsRequest(limit=1)).as_of_revision
    refused = refusal(admin.audit.StreamAuditLogs, audit.StreamAuditLogsRequest(after_revision=head + 1000))
    assert (refused.code, refused.reason) == (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_IN_FUTURE")
    assert refused.metadata["head_revision"] == str(head)


def test_missing_permission_is_named(viewer, flag):
    assert viewer.toggle.GetFeatureFlag(toggle.GetFeatureFlagRequest(id=flag.id)).feature_flag == flag
    refused = refusal(viewer.toggle.ToggleFeatureFlag, toggle.ToggleFeatureFlagRequest(id=flag.id))
    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    assert refused.message == "Insufficient permissions: toggle_feature_flags required"
    assert refused.metadata["permission"] == "toggle_feature_flags"


def test_permission_is_checked_first(viewer):
    for request in (toggle.ToggleFeatureFlagRequest(), toggle.ToggleFeatureFlagRequest(key="no-such-flag")):
        assert refusal(viewer.toggle.ToggleFeatureFlag, request).reason == "PERMISSION_DENIED"
    assert refusal(viewer.audit.ListAuditLogs, audit.ListAuditLogsRequest()).metadata["permission"] == "view_audit_logs"
    assert refusal(viewer.access.CreateUser, access.CreateUserRequest()).metadata["permission"] == "manage_access"
    assert list(viewer.access.WhoAmI(access.WhoAmIRequest()).permissions) == ["view_feature_flags"]


@pytest.mark.parametrize("token", [None, "", "wrong", "toggled_" + "0" * 49])
def test_all_invalid_tokens_get_the_same_answer(server, anonymous, token):
    expected = refusal(anonymous.access.WhoAmI, access.WhoAmIRequest())
    assert (expected.code, expected.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    with Client(server.address, token) as client:
        for method, request in (
            (client.access.WhoAmI, access.WhoAmIRequest()),
            (client.toggle.GetFeatureFlag, toggle.GetFeatureFlagRequest(key="checkout")),
            (client.audit.StreamAuditLogs, audit.StreamAuditLogsRequest()),
        ):
            refused = refusal(method, request)
            assert (refused.code, refused.reason) == (expected.code, expected.reason)
            assert refused.message == expected.message


def test_unknown_method_is_unimplemented(admin):
    method = admin.channel.unary_unary("/toggled.v1.ToggleService/NoSuchMethod")
    refused = refusal(method, b"")
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNIMPLEMENTED, "UNKNOWN_METHOD")


@pytest.mark.parametrize("field", ["id", "key"])
def test_sql_injection_is_refused_as_a_name(admin, field):
    for method, request in (
        (admin.toggle.ToggleFeatureFlag, toggle.ToggleFeatureFlagRequest(**{field: INJECTION})),
        (admin.toggle.GetFeatureFlag, toggle.GetFeatureFlagRequest(**{field: INJECTION})),
    ):
        refused = refusal(method, request)
        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        assert refused.fields() == {field}


def test_sql_injection_is_stored_as_a_reason(admin, flag):
    before = admin.audit.ListAuditLogs(audit.ListAuditLogsRequest()).total
    admin.toggle.ToggleFeatureFlag(toggle.ToggleFeatureFlagRequest(id=flag.id, reason=INJECTION))
    assert entries_about(admin, flag.id)[0].reason == INJECTION
    assert admin.audit.ListAuditLogs(audit.ListAuditLogsRequest()).total == before + 1
