"""Verifies the audit log by docs/audit-proof.md, with only the standard library and the generated stubs."""

import hashlib
import uuid

from toggled.v1 import audit_service_pb2 as audit

# The tags of the table, by encoding. Fields that may be absent are `optional` in the message.
UUIDS = {1: "id", 4: "user_id", 6: "token_id", 9: "entity_id", 23: "reverts"}
NUMBERS = {2: "revision", 19: "previous_entity_revision"}
TEXTS = {5: "user_email", 7: "action_type", 8: "entity_type", 10: "entity_key", 11: "entity_name", 12: "old_value"}
TEXTS |= {13: "new_value", 14: "reason", 15: "request_id", 16: "method", 17: "peer", 18: "user_agent", 24: "environment"}
FIELDS = UUIDS | NUMBERS | TEXTS | {3: "timestamp"}


class NotIntact(Exception):
    """The first revision that does not verify."""


def value(entry, tag: int) -> bytes:
    name = FIELDS[tag]
    field = entry.DESCRIPTOR.fields_by_name[name]
    if field.has_presence and not entry.HasField(name):
        return b""
    if tag in TEXTS and field.has_presence and not getattr(entry, name):
        raise NotIntact(entry.revision)
    if tag in UUIDS:
        return uuid.UUID(getattr(entry, name)).bytes
    if tag in TEXTS:
        return getattr(entry, name).encode()
    number = entry.timestamp.ToMicroseconds() if tag == 3 else getattr(entry, name)
    return number.to_bytes(8, "big", signed=True)


def next_hash(previous: bytes, log_id: str, entry) -> bytes:
    text = previous + uuid.UUID(log_id).bytes + bytes([entry.hash_version])
    for tag in sorted(FIELDS):
        encoded = value(entry, tag)
        if encoded or tag != 23:
            text += bytes([tag]) + len(encoded).to_bytes(4, "big") + encoded
    return hashlib.sha256(text).digest()


def verify(parts) -> tuple[int, bytes]:
    """Verifies a whole log, as StreamAuditLogs returns it. Returns the last revision and its hash, to be kept."""
    revision, known, head = 0, bytes(32), 0
    for part in parts:
        for entry in part.items:
            revision += 1
            if entry.revision != revision or next_hash(known, part.log_id, entry) != entry.hash:
                raise NotIntact(revision)
            known = entry.hash
        head = part.through_revision
    if revision != head:
        raise NotIntact(revision + 1)
    return revision, known


def verify_server(stub) -> tuple[int, bytes]:
    return verify(stub.StreamAuditLogs(audit.StreamAuditLogsRequest()))
