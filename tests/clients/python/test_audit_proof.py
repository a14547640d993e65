"""That the specification of the log's hashes is enough to verify a log with."""

import grpc
import pytest

from audit_verify import FIELDS, NotIntact, verify, verify_server
from client import Client
from toggled.v1 import audit_service_pb2 as audit
from toggled.v1 import toggle_service_pb2 as toggle

ODD = "'; DROP TABLE audit_logs; --\r\n\t\u0085 e\u0301 \u00e9 \U0001f984 \u202e"


@pytest.fixture
def log(server, admin, flag, fresh_key, reader_token):
    """The log, with what is odd in it, as parts of a stream."""
    admin.toggle.UpdateFeatureFlag(
        toggle.UpdateFeatureFlagRequest(id=flag.id, name=ODD, update_mask={"paths": ["name"]}, reason=ODD)
    )
    request = toggle.ToggleFeatureFlagRequest(id=flag.id, reason=ODD, request_id=fresh_key("request"))
    admin.toggle.ToggleFeatureFlag(request)
    flipped = admin.toggle.ToggleFeatureFlag(toggle.ToggleFeatureFlagRequest(id=flag.id))
    admin.toggle.RevertFeatureFlag(toggle.RevertFeatureFlagRequest(audit_log_id=flipped.audit_log.id))
    with Client(server.address, reader_token) as reader, pytest.raises(grpc.RpcError):
        reader.toggle.ToggleFeatureFlag(request)
    parts = list(admin.audit.StreamAuditLogs(audit.StreamAuditLogsRequest()))
    entries = [entry for part in parts for entry in part.items]
    assert any(entry.action_type == "access_denied" for entry in entries)
    assert any(entry.HasField("reason") and entry.reason == ODD for entry in entries)
    assert any(entry.HasField("reverts") and entry.hash_version == 2 for entry in entries)
    return parts


def test_the_whole_log_verifies(admin, log):
    revision, known = verify(log)
    assert (revision, known) == (log[-1].through_revision, log[-1].through_hash)
    assert verify_server(admin.audit)[0] >= revision


@pytest.mark.parametrize("name", [*sorted(FIELDS.values()), "hash", "hash_version"])
def test_an_alteration_is_noticed(log, name):
    # A flip, which has everything but what it reverts.
    entry = next(entry for part in log for entry in part.items if entry.request_id and entry.reason == ODD)
    # Where there is nothing, it is as much of an alteration to put something.
    altered = {
        "revision": lambda: entry.revision + 1,
        "previous_entity_revision": lambda: 1,
        "hash": lambda: bytes(32),
        "hash_version": lambda: 2,
    }
    revision = entry.revision
    if name == "timestamp":
        entry.timestamp.FromMicroseconds(entry.timestamp.ToMicroseconds() + 1)
    elif name in altered:
        setattr(entry, name, altered[name]())
    elif name.endswith("id") and name != "request_id" or name == "reverts":
        setattr(entry, name, "01900000-0000-7000-8000-000000000001")
    else:
        setattr(entry, name, getattr(entry, name) + "x")
    with pytest.raises(NotIntact, match=f"^{revision}$"):
        verify(log)


def test_an_empty_text_is_not_taken_for_an_absent_one(log):
    entry = next(entry for part in log for entry in part.items if not entry.HasField("reason"))
    entry.reason = ""
    with pytest.raises(NotIntact, match=f"^{entry.revision}$"):
        verify(log)


def test_a_missing_entry_and_a_missing_end_are_noticed(log):
    del log[-1].items[-1]
    with pytest.raises(NotIntact, match=f"^{log[-1].through_revision}$"):
        verify(log)
    del log[0].items[0]
    with pytest.raises(NotIntact, match="^1$"):
        verify(log)
