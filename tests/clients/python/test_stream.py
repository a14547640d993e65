"""Streams of the log."""

import grpc
import pytest

from toggled.v1 import audit_service_pb2 as audit
from toggled.v1 import toggle_service_pb2 as toggle


@pytest.fixture
def flip(admin, flag):
    """Flips the flag, and returns the entry."""
    return lambda: admin.toggle.ToggleFeatureFlag(toggle.ToggleFeatureFlagRequest(id=flag.id)).audit_log


def head(client):
    return client.audit.ListAuditLogs(audit.ListAuditLogsRequest(limit=1)).as_of_revision


def test_log_read_in_parts_is_complete_and_ordered(admin, flip):
    for _ in range(30):
        flip()
    end = head(admin)
    revisions = []
    cursor = audit.StreamAuditLogsRequest(after_revision=0, limit=7)
    while cursor.after_revision < end:
        for part in admin.audit.StreamAuditLogs(cursor):
            revisions += [entry.revision for entry in part.items]
            cursor.after_revision, cursor.log_id, cursor.after_hash = part.through_revision, part.log_id, part.through_hash
            assert part.head_revision >= part.through_revision
    assert revisions == list(range(1, end + 1))


def test_cancelled_stream_resumes_at_its_cursor(admin, flip):
    start = head(admin)
    cursor = audit.StreamAuditLogsRequest(after_revision=start, follow=True)
    revisions = []
    for _ in range(10):
        flip()
        flip()
        reader = admin.audit.StreamAuditLogs(cursor)
        while True:
            part = next(reader)
            revisions += [entry.revision for entry in part.items]
            cursor.after_revision = part.through_revision
            if part.items:
                break
        reader.cancel()
    rest = admin.audit.StreamAuditLogs(audit.StreamAuditLogsRequest(after_revision=cursor.after_revision))
    revisions += [entry.revision for part in rest for entry in part.items]
    assert revisions == list(range(start + 1, start + 21))


def test_follower_sees_flips_at_once(admin, flag, flip):
    reader = admin.audit.StreamAuditLogs(
        audit.StreamAuditLogsRequest(after_revision=head(admin), entity_id=flag.id, follow=True, limit=2)
    )
    first = flip()
    seen = []
    for part in reader:
        if part.items and not seen:
            # Only now, so that the stream is already waiting.
            second = flip()
        seen += [entry.id for entry in part.items]
    assert seen == [first.id, second.id]
    assert reader.code() == grpc.StatusCode.OK


def test_filtered_stream_advances_past_other_entries(admin, flag, flip):
    flip()
    request = audit.StreamAuditLogsRequest(entity_id=flag.id, action_type="flag_created")
    parts = list(admin.audit.StreamAuditLogs(request))
    assert [entry.action_type for part in parts for entry in part.items] == ["flag_created"]
    assert parts[-1].through_revision == head(admin)
    assert parts[-1].caught_up
