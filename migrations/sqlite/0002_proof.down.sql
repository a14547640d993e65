-- Takes back what the second migration made, in the reverse order.

DROP TRIGGER log_head_check_update;
DROP TABLE checkpoint_keys;
DROP TABLE checkpoints;
ALTER TABLE log_head DROP COLUMN floor_hash;
ALTER TABLE audit_logs DROP COLUMN reverts;

CREATE TRIGGER log_head_check_update AFTER UPDATE ON log_head
WHEN NEW.log_id <> OLD.log_id
  OR NEW.revision <= OLD.revision
  OR NEW.timestamp < OLD.timestamp
  OR NEW.floor <> OLD.floor
BEGIN
    SELECT CASE
        WHEN NEW.log_id <> OLD.log_id
            THEN RAISE(ABORT, 'log_head: UPDATE is refused: log_id never changes')
        WHEN NEW.revision < OLD.revision
            THEN RAISE(ABORT, 'log_head: UPDATE is refused: the revision never decreases')
        WHEN NEW.timestamp < OLD.timestamp
            THEN RAISE(ABORT, 'log_head: UPDATE is refused: time never runs backwards')
        WHEN NEW.revision = OLD.revision AND (NEW.hash <> OLD.hash OR NEW.timestamp <> OLD.timestamp)
            THEN RAISE(ABORT, 'log_head: UPDATE is refused: hash and timestamp change only with the revision')
        WHEN NEW.floor < OLD.floor
            THEN RAISE(ABORT, 'log_head: UPDATE is refused: the floor never decreases')
        WHEN NEW.floor > OLD.floor AND NOT EXISTS (
                SELECT 1 FROM audit_logs
                WHERE revision > OLD.revision AND revision <= NEW.revision AND +action_type = 'log_trimmed')
            THEN RAISE(ABORT, 'log_head: UPDATE is refused: the floor moves only with a log_trimmed entry')
        END;
END;
