-- Drops everything that the migration made, in the reverse order; triggers and indexes go with their tables.

DROP TABLE server_keys;
DROP TABLE checkpoint_keys;
DROP TABLE checkpoints;
DROP TABLE log_head;
DROP TABLE requests;
DROP TABLE audit_log_counts;
DROP TABLE audit_logs;
DROP TABLE api_tokens;
DROP TABLE users;
DROP TABLE feature_flags;
DROP TABLE environments;

DROP FUNCTION log_head_check_update();
DROP FUNCTION audit_logs_check_delete();
DROP FUNCTION feature_flags_check_update();
DROP FUNCTION feature_flags_check_insert();
DROP FUNCTION refuse_statement();
