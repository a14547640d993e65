-- Finding what a flag was.

-- A flag's changes apart from its flips, which are nearly all: what it was called at some time is found without
-- walking those. A query must repeat the condition word for word to be given it.
CREATE INDEX idx_audit_logs_edits ON audit_logs (entity_id)
    WHERE action_type IN ('flag_created', 'flag_updated', 'flag_archived', 'flag_unarchived');
