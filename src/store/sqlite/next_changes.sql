-- The first change of each flag of $1 after revision $2, what was before its first edit, and what came before it. The
-- indexes are named: SQLite, which has no statistics, might as well walk the log. The index by object is searched block by block.
SELECT next.revision, asked.id AS flag_id, next.action_type, next.old_value, next.previous_entity_revision,
    (SELECT old_value FROM audit_logs INDEXED BY idx_audit_logs_edits
        WHERE entity_id = asked.id AND revision > $2
            AND action_type IN ('flag_created', 'flag_updated', 'flag_archived', 'flag_unarchived')
        ORDER BY revision LIMIT 1) AS before_edit,
    previous.id, previous.action_type AS previous_action_type, previous.timestamp, previous.user_email,
    previous.new_value, previous.reason
FROM (SELECT unhex(value) AS id FROM json_each($1)) AS asked
CROSS JOIN audit_logs AS next ON next.revision =
    (SELECT revision FROM audit_logs INDEXED BY idx_audit_logs_entity_key
        WHERE (revision - 1) / 16384 IN (
            WITH RECURSIVE blocks (block) AS (
                SELECT max($2, floor) / 16384 FROM log_head
                UNION ALL SELECT block + 1 FROM blocks WHERE block < (SELECT (revision - 1) / 16384 FROM log_head)
            )
            SELECT block FROM blocks)
            AND entity_key = (SELECT key FROM feature_flags WHERE id = asked.id)
            AND entity_type = 'feature_flag' AND entity_id = asked.id AND revision > $2 AND action_type <> 'access_denied'
        ORDER BY (revision - 1) / 16384, revision LIMIT 1)
LEFT JOIN audit_logs AS previous ON previous.revision = next.previous_entity_revision
    AND previous.revision > (SELECT floor FROM log_head)
