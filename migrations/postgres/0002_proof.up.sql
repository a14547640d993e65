-- What the log proves itself with: signed checkpoints, the hash that it begins after, and what an entry reverts.

-- In the order in which an append takes them, or the two would wait for each other. Whatever reads the log for long, as a
-- dump does, is in the way; rather than hold everybody up behind it, this fails, and is tried again.
SET LOCAL lock_timeout = '3s';
LOCK TABLE log_head IN ACCESS EXCLUSIVE MODE;

-- The entry whose change this one takes back. Covered by the hash from version 2 on, and hashed only where it is there:
-- an entry of version 1 has none, or its hash would not fit. Not checked row by row now: there is nothing in it yet.
ALTER TABLE audit_logs ADD COLUMN reverts UUID;
ALTER TABLE audit_logs ADD CONSTRAINT audit_logs_reverts_check
    CHECK (reverts IS NULL OR hash_version >= 2) NOT VALID;

-- The hash of the entry at `floor`, which may be gone: the first that is kept follows it.
ALTER TABLE log_head ADD COLUMN floor_hash BYTEA NOT NULL DEFAULT '\x0000000000000000000000000000000000000000000000000000000000000000'
    CHECK (octet_length(floor_hash) = 32);

-- A signed statement of what the log was, one every so many revisions, as the text that was signed.
CREATE TABLE checkpoints (
    revision BIGINT NOT NULL PRIMARY KEY CHECK (revision > 0),
    note     TEXT   NOT NULL
);

-- Every key that has signed, with its name: old signatures stay verifiable when the key is replaced.
CREATE TABLE checkpoint_keys (
    key      TEXT        NOT NULL PRIMARY KEY,
    added_at TIMESTAMPTZ NOT NULL
);

CREATE TRIGGER checkpoints_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_statement('a checkpoint is never changed');

CREATE TRIGGER checkpoint_keys_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON checkpoint_keys
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_statement('a key that has signed stays known');

-- As before, and the hash at the floor moves with it.
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
        WHEN NEW.floor = OLD.floor AND NEW.floor_hash <> OLD.floor_hash THEN 'floor_hash changes only with the floor'
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

DROP TRIGGER log_head_check_update ON log_head;
CREATE TRIGGER log_head_check_update AFTER UPDATE ON log_head
    FOR EACH ROW
    WHEN (NEW.log_id <> OLD.log_id
          OR NEW.revision <= OLD.revision
          OR NEW.timestamp < OLD.timestamp
          OR NEW.floor <> OLD.floor
          OR NEW.floor_hash <> OLD.floor_hash)
    EXECUTE FUNCTION log_head_check_update();

-- It was made anew, and is told again where to look.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION log_head_check_update() SET search_path = %I, pg_temp', current_schema());
END
$$;
