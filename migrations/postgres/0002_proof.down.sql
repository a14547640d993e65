-- Takes back what the second migration made, in the reverse order.

LOCK TABLE log_head IN ACCESS EXCLUSIVE MODE;

DROP TRIGGER log_head_check_update ON log_head;

CREATE OR REPLACE FUNCTION log_head_check_update() RETURNS trigger
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
AS $$
DECLARE
    problem TEXT;
BEGIN
    problem := CASE
        WHEN NEW.log_id <> OLD.log_id THEN 'log_id never changes'
        WHEN NEW.revision < OLD.revision THEN 'the revision never decreases'
        WHEN NEW.timestamp < OLD.timestamp THEN 'time never runs backwards'
        WHEN NEW.revision = OLD.revision AND (NEW.hash <> OLD.hash OR NEW.timestamp <> OLD.timestamp)
            THEN 'hash and timestamp change only with the revision'
        WHEN NEW.floor < OLD.floor THEN 'the floor never decreases'
        WHEN NEW.floor > OLD.floor AND NOT EXISTS (
                SELECT FROM audit_logs a
                WHERE a.revision > OLD.revision AND a.revision <= NEW.revision AND a.action_type = 'log_trimmed')
            THEN 'the floor moves only with a log_trimmed entry'
        END;

    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'log_head: UPDATE to revision % is refused: %', NEW.revision, problem
            USING ERRCODE = 'integrity_constraint_violation', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER log_head_check_update AFTER UPDATE ON log_head
    FOR EACH ROW
    WHEN (NEW.log_id <> OLD.log_id
          OR NEW.revision <= OLD.revision
          OR NEW.timestamp < OLD.timestamp
          OR NEW.floor <> OLD.floor)
    EXECUTE FUNCTION log_head_check_update();

DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION log_head_check_update() SET search_path = %I, pg_temp', current_schema());
END
$$;

DROP TABLE checkpoint_keys;
DROP TABLE checkpoints;
ALTER TABLE log_head DROP COLUMN floor_hash;
ALTER TABLE audit_logs DROP COLUMN reverts;
