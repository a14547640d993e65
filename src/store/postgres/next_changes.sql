-- The first change of each flag of $1 after revision $2, what was before its first edit, and what came before it.
SELECT asked.id AS flag_id, next.revision, next.action_type, next.old_value, next.previous_entity_revision,
    edit.old_value AS before_edit, previous.timestamp AS previous_timestamp, previous.user_email AS previous_user_email
FROM unnest($1::uuid[]) AS asked (id)
CROSS JOIN LATERAL (
    SELECT revision, action_type, old_value, previous_entity_revision FROM audit_logs
    WHERE entity_type = 'feature_flag' AND entity_id = asked.id AND revision > $2 AND action_type <> 'access_denied'
    ORDER BY revision LIMIT 1
) AS next
-- In the words of idx_audit_logs_edits.
LEFT JOIN LATERAL (
    SELECT old_value FROM audit_logs
    WHERE entity_id = asked.id AND revision > $2
        AND action_type IN ('flag_created', 'flag_updated', 'flag_archived', 'flag_unarchived')
    ORDER BY revision LIMIT 1
) AS edit ON true
LEFT JOIN audit_logs AS previous ON previous.revision = next.previous_entity_revision
    AND previous.revision > (SELECT floor FROM log_head)
