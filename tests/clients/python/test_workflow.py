"""The lifecycle of a flag, and its entries in the log."""

from toggled.v1 import audit_service_pb2 as audit
from toggled.v1 import toggle_service_pb2 as toggle
from toggled.v1.feature_flag_pb2 import FEATURE_FLAG_STATUS_DISABLED, FEATURE_FLAG_STATUS_ENABLED


def history(client, flag_id):
    """A flag's entries, newest first."""
    return client.audit.ListAuditLogs(audit.ListAuditLogsRequest(entity_id=flag_id))


def same_entry(one, other):
    """Compares two entries except for `created_at`, which is known only after the entry was stored."""
    copies = [type(entry).FromString(entry.SerializeToString()) for entry in (one, other)]
    for copy in copies:
        copy.ClearField("created_at")
    return copies[0] == copies[1]


def test_flip_is_logged_with_its_reason(admin, fresh_key):
    key = fresh_key()
    created = admin.toggle.CreateFeatureFlag(toggle.CreateFeatureFlagRequest(key=key, name="Checkout"))
    assert created.feature_flag.status == FEATURE_FLAG_STATUS_DISABLED

    flipped = admin.toggle.ToggleFeatureFlag(toggle.ToggleFeatureFlagRequest(key=key, reason="launch day"))

    assert flipped.feature_flag.status == FEATURE_FLAG_STATUS_ENABLED
    assert flipped.feature_flag.updated_by == "admin@localhost"
    assert flipped.revision == flipped.feature_flag.revision == flipped.audit_log.revision > created.revision
    found = history(admin, created.feature_flag.id)
    assert found.total == 2
    flip, creation = found.items
    assert creation.action_type == "flag_created"
    assert flip.action_type == "toggle_enabled"
    assert flip.method == "toggled.v1.ToggleService/ToggleFeatureFlag"
    assert flip.reason == "launch day"
    assert (flip.old_value, flip.new_value) == ("disabled", "enabled")
    assert flip.user_email == "admin@localhost"
    assert flip.user_id and flip.token_id
    assert flip.peer.startswith("127.0.0.1:")
    assert "grpc-python" in flip.user_agent
    assert (flip.entity_type, flip.entity_id) == ("feature_flag", created.feature_flag.id)
    assert (flip.entity_key, flip.entity_name) == (key, "Checkout")
    assert flip.previous_entity_revision == created.feature_flag.revision
    assert not creation.HasField("previous_entity_revision")
    assert len(flip.hash) == 32
    assert flip.HasField("created_at")
    assert same_entry(flip, flipped.audit_log)
    assert admin.audit.GetAuditLog(audit.GetAuditLogRequest(id=flip.id)).audit_log == flip


def test_setting_the_current_status_writes_nothing(admin, flag):
    answer = admin.toggle.DisableFeatureFlag(toggle.DisableFeatureFlagRequest(id=flag.id, reason="to be sure"))
    assert answer.feature_flag == flag
    assert not answer.HasField("audit_log")
    assert history(admin, flag.id).total == 1


def test_validate_only_writes_nothing(admin, flag):
    request = toggle.ToggleFeatureFlagRequest(id=flag.id, validate_only=True)
    answer = admin.toggle.ToggleFeatureFlag(request)
    assert answer.feature_flag.status == FEATURE_FLAG_STATUS_ENABLED
    assert not answer.HasField("audit_log")
    assert admin.toggle.GetFeatureFlag(toggle.GetFeatureFlagRequest(id=flag.id)).feature_flag == flag


def test_every_change_of_a_flag_leaves_its_entry(admin, flag):
    admin.toggle.EnableFeatureFlag(toggle.EnableFeatureFlagRequest(id=flag.id))
    admin.toggle.UpdateFeatureFlag(toggle.UpdateFeatureFlagRequest(id=flag.id, name="Better named"))
    archived = admin.toggle.ArchiveFeatureFlag(toggle.ArchiveFeatureFlagRequest(id=flag.id)).feature_flag
    admin.toggle.UnarchiveFeatureFlag(toggle.UnarchiveFeatureFlagRequest(id=flag.id))
    disabled = admin.toggle.DisableFeatureFlag(toggle.DisableFeatureFlagRequest(id=flag.id)).feature_flag

    assert archived.HasField("archived_at")
    assert not disabled.HasField("archived_at")
    assert (disabled.name, disabled.status) == ("Better named", FEATURE_FLAG_STATUS_DISABLED)
    assert [entry.action_type for entry in history(admin, flag.id).items] == [
        "toggle_disabled",
        "flag_unarchived",
        "flag_archived",
        "flag_updated",
        "toggle_enabled",
        "flag_created",
    ]


def test_batch_changes_only_differing_flags(admin, fresh_key):
    keys = [fresh_key() for _ in range(3)]
    for key in keys:
        admin.toggle.CreateFeatureFlag(toggle.CreateFeatureFlagRequest(key=key, name=key))
    admin.toggle.EnableFeatureFlag(toggle.EnableFeatureFlagRequest(key=keys[1]))

    items = [toggle.BatchSetItem(key=key, status=FEATURE_FLAG_STATUS_ENABLED) for key in keys]
    answer = admin.toggle.BatchSetFeatureFlags(toggle.BatchSetFeatureFlagsRequest(items=items, reason="all on"))

    assert [result.key for result in answer.results] == keys
    assert [result.changed for result in answer.results] == [True, False, True]
    assert {result.status for result in answer.results} == {FEATURE_FLAG_STATUS_ENABLED}
    entry = admin.audit.GetAuditLog(audit.GetAuditLogRequest(id=answer.results[0].audit_log_id)).audit_log
    assert (entry.entity_key, entry.reason) == (keys[0], "all on")
    assert entry.method == "toggled.v1.ToggleService/BatchSetFeatureFlags"
