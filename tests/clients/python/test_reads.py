"""Reads of flags and of the log, page by page."""

import pytest

from toggled.v1 import audit_service_pb2 as audit
from toggled.v1 import toggle_service_pb2 as toggle
from toggled.v1.feature_flag_pb2 import FEATURE_FLAG_STATUS_ENABLED


@pytest.fixture
def five(admin, fresh_key):
    """Five flags with a common prefix, in key order. The third is enabled, the fifth archived."""
    prefix = fresh_key("page")
    for number in range(5):
        admin.toggle.CreateFeatureFlag(toggle.CreateFeatureFlagRequest(key=f"{prefix}.{number}", name="One of five"))
    admin.toggle.EnableFeatureFlag(toggle.EnableFeatureFlagRequest(key=f"{prefix}.2"))
    admin.toggle.ArchiveFeatureFlag(toggle.ArchiveFeatureFlagRequest(key=f"{prefix}.4"))
    return prefix


def pages(method, request, items):
    """Follows next_page_token to the end, and returns the items of each page."""
    found = []
    while True:
        answer = method(request)
        found.append(list(getattr(answer, items)))
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token


def numbers(flags):
    return [flag.key.rpartition(".")[2] for flag in flags]


def test_flag_is_read_by_id_and_by_key(admin, flag):
    by_id = admin.toggle.GetFeatureFlag(toggle.GetFeatureFlagRequest(id=flag.id))
    by_key = admin.toggle.GetFeatureFlag(toggle.GetFeatureFlagRequest(key=flag.key))
    assert by_id.feature_flag == by_key.feature_flag == flag
    assert by_id.revision >= flag.revision


def test_flag_list_is_paged_in_key_order(admin, five):
    request = toggle.ListFeatureFlagsRequest(key_prefix=five, page_size=2, include_archived=True)
    found = pages(admin.toggle.ListFeatureFlags, request, "feature_flags")
    assert [numbers(page) for page in found if page] == [["0", "1"], ["2", "3"], ["4"]]


def test_archived_flags_are_listed_only_on_request(admin, five):
    listed = admin.toggle.ListFeatureFlags(toggle.ListFeatureFlagsRequest(key_prefix=five))
    assert numbers(listed.feature_flags) == ["0", "1", "2", "3"]


def test_flags_are_filtered_by_status(admin, five):
    request = toggle.ListFeatureFlagsRequest(key_prefix=five, status=FEATURE_FLAG_STATUS_ENABLED)
    assert numbers(admin.toggle.ListFeatureFlags(request).feature_flags) == ["2"]


def test_read_at_a_min_revision_sees_the_change(admin, flag):
    flipped = admin.toggle.ToggleFeatureFlag(toggle.ToggleFeatureFlagRequest(id=flag.id))
    request = toggle.GetFeatureFlagRequest(id=flag.id, min_revision=flipped.revision)
    assert admin.toggle.GetFeatureFlag(request).feature_flag == flipped.feature_flag


def test_log_pages_are_stable_while_it_grows(admin, flag):
    def flip():
        admin.toggle.ToggleFeatureFlag(toggle.ToggleFeatureFlagRequest(id=flag.id))

    for _ in range(4):
        flip()
    request = audit.ListAuditLogsRequest(entity_id=flag.id, limit=2)
    first = admin.audit.ListAuditLogs(request)
    flip()
    request.page_token = first.next_page_token
    rest = [entry for page in pages(admin.audit.ListAuditLogs, request, "items") for entry in page]

    assert (first.total, first.page, first.limit) == (5, 1, 2)
    revisions = [entry.revision for entry in [*first.items, *rest]]
    assert revisions == sorted(set(revisions), reverse=True)
    assert len(revisions) == 5
    assert revisions[0] <= first.as_of_revision


def test_log_pages_are_read_by_number(admin, flag):
    for _ in range(4):
        admin.toggle.ToggleFeatureFlag(toggle.ToggleFeatureFlagRequest(id=flag.id))
    answers = [
        admin.audit.ListAuditLogs(audit.ListAuditLogsRequest(entity_id=flag.id, limit=2, page=page)) for page in (1, 2, 3, 4)
    ]
    assert [len(answer.items) for answer in answers] == [2, 2, 1, 0]
    assert {answer.total for answer in answers} == {5}


@pytest.mark.parametrize(
    "conditions, actions",
    [
        ({"action_type": "toggle_disabled"}, ["toggle_disabled"]),
        ({"user_email": "ADMIN@localhost"}, ["toggle_disabled", "toggle_enabled", "flag_created"]),
        ({"entity_type": "user"}, []),
    ],
)
def test_log_filters_select_entries(admin, flag, conditions, actions):
    for _ in range(2):
        admin.toggle.ToggleFeatureFlag(toggle.ToggleFeatureFlagRequest(id=flag.id))
    found = admin.audit.ListAuditLogs(audit.ListAuditLogsRequest(entity_id=flag.id, **conditions))
    assert [entry.action_type for entry in found.items] == actions
    assert found.total == len(actions)


def test_date_filters_are_inclusive(admin, flag):
    flips = [admin.toggle.ToggleFeatureFlag(toggle.ToggleFeatureFlagRequest(id=flag.id)).audit_log for _ in range(2)]
    request = audit.ListAuditLogsRequest(
        entity_id=flag.id, action_type="toggle_enabled", from_date=flips[0].timestamp, to_date=flips[0].timestamp
    )
    assert [entry.id for entry in admin.audit.ListAuditLogs(request).items] == [flips[0].id]
