-- One flip as one statement, for pgbench. The revision comes from the head of the log. So revisions have no gaps, as in the
-- service, and every flip waits for the commit of the one before.
--
-- Values are as long as those of the service. Ids increase, as those of the service do: random ids would scatter over the
-- index.
\set n random(1, 1000)
WITH head AS (
    UPDATE log_head SET revision = revision + 1, timestamp = greatest(timestamp, clock_timestamp()),
        hash = sha256(hash || int8send(revision))
    RETURNING revision, timestamp, hash
), flag AS (
    UPDATE feature_flags AS f SET status = CASE f.status WHEN 'enabled' THEN 'disabled' ELSE 'enabled' END,
        revision = head.revision, updated_at = head.timestamp, updated_by = u.email
    FROM head, users AS u
    WHERE f.environment = 'default' AND f.key = 'flag-' || :n::text AND u.email = 'admin@localhost'
    RETURNING f.id, f.key, f.name, f.status, u.id AS user_id, u.email, head.revision, head.timestamp, head.hash
)
INSERT INTO audit_logs (id, revision, timestamp, user_id, user_email, token_id, action_type, entity_type, entity_id,
    entity_key, entity_name, old_value, new_value, reason, method, peer, user_agent, previous_entity_revision,
    hash_version, hash)
SELECT lpad(to_hex(revision), 32, '0')::uuid, revision, timestamp, user_id, email, user_id,
    CASE status WHEN 'enabled' THEN 'toggle_enabled' ELSE 'toggle_disabled' END, 'feature_flag', id,
    key, name, CASE status WHEN 'enabled' THEN 'disabled' ELSE 'enabled' END, status, 'quick benchmark',
    'toggled.v1.ToggleService/ToggleFeatureFlag', '127.0.0.1:12345', 'quick tonic/0.14.9', revision - 1,
    1, hash
FROM flag;
