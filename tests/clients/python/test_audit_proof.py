"""docs/audit-proof.md is sufficient to verify a log."""

import base64
import hashlib
import re
from pathlib import Path

import grpc
import pytest

from audit_verify import FIELDS, NotIntact, verify, verify_server
from client import Client
from toggled.v1 import audit_service_pb2 as audit
from toggled.v1 import toggle_service_pb2 as toggle

ODD = "'; DROP TABLE audit_logs; --\r\n\t\u0085 e\u0301 \u00e9 \U0001f984 \u202e"


DOCUMENT = (Path(__file__).parents[3] / "docs/audit-proof.md").read_text()


def vectors() -> audit.StreamAuditLogsResponse:
    """The entries of the document's test vectors, with the documented hashes."""
    text = DOCUMENT.split("## Test vectors")[1].split("## ")[0]
    table = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    hashes = re.findall(r"^hash of entry \d: ([0-9a-f]{64})$", text, re.MULTILINE)
    log_id = re.search(r"belong to the log `(.*)`", text)[1]
    log = audit.StreamAuditLogsResponse(log_id=log_id, through_revision=len(hashes))
    for column, digest in enumerate(hashes, 1):
        entry = log.items.add(hash=bytes.fromhex(digest))
        for row in table[1:]:
            name, value = row[0].strip(), row[column].strip()
            if name == "timestamp":
                entry.timestamp.FromMicroseconds(int(value.removesuffix(" us")))
            elif value != "absent":
                setattr(entry, name, type(getattr(entry, name))(value))
    assert {row[0].strip() for row in table[1:]} == {*FIELDS.values(), "hash_version"}
    return log


def test_documented_vectors_verify():
    log = vectors()
    assert verify([log]) == (3, log.items[-1].hash)
    for at, entry in enumerate(log.items):
        altered = vectors()
        altered.items[at].user_email += "x"
        with pytest.raises(NotIntact, match=f"^{entry.revision}$"):
            verify([altered])


def test_documented_checkpoint_matches_last_vector():
    log = vectors()
    name, key_id, key = re.search(r"^(toggled/.*)\+([0-9a-f]{8})\+(.*)$", DOCUMENT, re.MULTILINE).groups()
    key = base64.b64decode(key, validate=True)
    assert (name, key[0], len(key)) == (f"toggled/{log.log_id}", 1, 33)
    assert hashlib.sha256(f"{name}\n".encode() + key).hexdigest()[:8] == key_id
    text, signature = re.search(r"^(toggled/.*\n3\n.*\ntime .*\n)\n\u2014 (.*)$", DOCUMENT, re.MULTILINE).groups()
    assert text.splitlines()[:3] == [name, "3", base64.b64encode(log.items[-1].hash).decode()]
    signer, signed = signature.split(" ")
    signed = base64.b64decode(signed, validate=True)
    assert (signer, signed[:4].hex(), len(signed)) == (name, key_id, 68)


@pytest.fixture
def log(server, admin, flag, fresh_key, reader_token):
    """A log with unusual entries, as the messages of a stream."""
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


def test_whole_log_verifies(admin, log):
    revision, known = verify(log)
    assert (revision, known) == (log[-1].through_revision, log[-1].through_hash)
    assert verify_server(admin.audit)[0] >= revision


@pytest.mark.parametrize("name", [*sorted(FIELDS.values()), "hash", "hash_version"])
def test_altered_field_is_detected(log, name):
    # A flip, which has every field except `reverts`.
    entry = next(entry for part in log for entry in part.items if entry.request_id and entry.reason == ODD)
    # Setting an absent field is an alteration, too.
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


def test_empty_text_differs_from_absent_text(log):
    entry = next(entry for part in log for entry in part.items if not entry.HasField("reason"))
    entry.reason = ""
    with pytest.raises(NotIntact, match=f"^{entry.revision}$"):
        verify(log)


def test_missing_entries_are_detected(log):
    del log[-1].items[-1]
    with pytest.raises(NotIntact, match=f"^{log[-1].through_revision}$"):
        verify(log)
    del log[0].items[0]
    with pytest.raises(NotIntact, match="^1$"):
        verify(log)
