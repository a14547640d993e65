-- The first change of each flag of $1 after revision $2, what was before its first edit, and what came before it.
--
-- The order of each subquery fits exactly one index. If it fitted the index on the revision too, the planner might scan the whole
-- log for a flag that is seldom changed, when most entries are of other flags. PostgreSQL ignores a column of the order that is known
-- to be constant; LIKE and the bounds hide that it is.
SELECT next.revision, asked.id AS flag_id, next.action_type, next.old_value, next.previous_entity_revision,
    edit.old_value AS before_edit, previous.id, previous.action_type AS previous_action_type, previous.timestamp, previous.user_email,
    previous.new_value, previous.reason
FROM unnest($1::uuid[]) AS asked (id)
-- idx_audit_logs_entity_type_entity_id, backwards.
CROSS JOIN LATERAL (
    SELECT revision, action_type, old_value, previous_entity_revision FROM audit_logs
    WHERE entity_type LIKE 'feature\_flag' AND entity_id = asked.id AND revision > $2 AND action_type <> 'access_denied'
    ORDER BY entity_type DESC, entity_id DESC, revision LIMIT 1
) AS next
-- idx_audit_logs_edits, in its own words.
LEFT JOIN LATERAL (
    SELECT old_value FROM audit_logs
    WHERE (entity_id, revision) > (asked.id, $2) AND entity_id <= asked.id
        AND action_type IN ('flag_created', 'flag_updated', 'flag_archived', 'flag_unarchived')
    ORDER BY entity_id, revision LIMIT 1
) AS edit ON true
LEFT JOIN audit_logs AS previous ON previous.revision = next.previous_entity_revision
    AND previous.revision > (SELECT floor FROM log_head)
