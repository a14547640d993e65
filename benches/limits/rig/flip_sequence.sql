-- One flip as one statement, for pgbench. The revision comes from a sequence and the head of the log is not updated. So flips
-- commit in groups and wait only for flips of the same flag. This gives up what the service guarantees: revisions without
-- gaps in commit order, and chained hashes. No design with one statement per flip can be faster.
--
-- nextval() is in SET, so PostgreSQL evaluates it again after waiting for another flip of the flag. The triggers require that
-- the revision of a flag increases.
\set n random(1, 1000)
WITH flag AS (
    UPDATE feature_flags AS f SET status = CASE f.status WHEN 'enabled' THEN 'disabled' ELSE 'enabled' END,
        revision = nextval('bench_revision'), updated_at = clock_timestamp(), updated_by = u.email
    FROM users AS u
    WHERE f.environment = 'default' AND f.key = 'flag-' || :n::text AND u.email = 'admin@localhost'
    RETURNING f.id, f.key, f.name, f.status, f.revision, f.updated_at AS timestamp, u.id AS user_id, u.email
)
INSERT INTO audit_logs (id, revision, timestamp, user_id, user_email, token_id, action_type, entity_type, entity_id,
    entity_key, entity_name, old_value, new_value, reason, method, peer, user_agent, previous_entity_revision,
    hash_version, hash)
SELECT lpad(to_hex(revision), 32, '0')::uuid, revision, timestamp, user_id, email, user_id,
    CASE status WHEN 'enabled' THEN 'toggle_enabled' ELSE 'toggle_disabled' END, 'feature_flag', id,
    key, name, CASE status WHEN 'enabled' THEN 'disabled' ELSE 'enabled' END, status, 'quick benchmark',
    'toggled.v1.ToggleService/ToggleFeatureFlag', '127.0.0.1:12345', 'quick tonic/0.14.9', revision - 1,
    1, sha256(int8send(revision))
FROM flag;
