-- Finding what a flag was.

-- Nobody can append while it is made, about a second for a million entries; everybody can read. Not CONCURRENTLY: servers
-- that start together wait for each other's migrations, and that would wait for them.
-- A flag's changes apart from its flips, which are nearly all: what it was called at some time is found without
-- walking those.
CREATE INDEX idx_audit_logs_edits ON audit_logs (entity_id, revision)
    WHERE action_type IN ('flag_created', 'flag_updated', 'flag_archived', 'flag_unarchived');
