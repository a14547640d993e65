-- What the log proves itself with: signed checkpoints, the hash that it begins after, and what an entry reverts.

-- The entry whose change this one takes back. Covered by the hash from version 2 on, and hashed only where it is there:
-- an entry of version 1 has none, or its hash would not fit.
ALTER TABLE audit_logs ADD COLUMN reverts BLOB
    CHECK (reverts IS NULL OR (length(reverts) = 16 AND hash_version >= 2));

-- The hash of the entry at `floor`, which may be gone: the first that is kept follows it.
ALTER TABLE log_head ADD COLUMN floor_hash BLOB NOT NULL
    DEFAULT x'0000000000000000000000000000000000000000000000000000000000000000'
    CHECK (length(floor_hash) = 32);

-- A signed statement of what the log was, one every so many revisions, as the text that was signed.
CREATE TABLE checkpoints (
    revision INTEGER NOT NULL PRIMARY KEY CHECK (revision > 0),
    note     TEXT    NOT NULL
) STRICT;

-- Every key that has signed, with its name: old signatures stay verifiable when the key is replaced.
CREATE TABLE checkpoint_keys (
    key      TEXT    NOT NULL PRIMARY KEY,
    added_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER checkpoints_refuse_update BEFORE UPDATE ON checkpoints
BEGIN
    SELECT RAISE(ABORT, 'checkpoints: UPDATE is refused: a checkpoint is never changed');
END;

CREATE TRIGGER checkpoints_refuse_delete BEFORE DELETE ON checkpoints
BEGIN
    SELECT RAISE(ABORT, 'checkpoints: DELETE is refused: a checkpoint is never changed');
END;

CREATE TRIGGER checkpoints_guard_insert BEFORE INSERT ON checkpoints
WHEN coalesce(NEW.revision, 0) < 1 OR EXISTS (SELECT 1 FROM checkpoints WHERE revision = NEW.revision)
BEGIN
    SELECT RAISE(ABORT, 'checkpoints: insert is refused: there is one at this revision');
END;

CREATE TRIGGER checkpoint_keys_refuse_update BEFORE UPDATE ON checkpoint_keys
BEGIN
    SELECT RAISE(ABORT, 'checkpoint_keys: UPDATE is refused: a key that has signed stays known');
END;

CREATE TRIGGER checkpoint_keys_refuse_delete BEFORE DELETE ON checkpoint_keys
BEGIN
    SELECT RAISE(ABORT, 'checkpoint_keys: DELETE is refused: a key that has signed stays known');
END;

-- As before, and the hash at the floor moves with it.
DROP TRIGGER log_head_check_update;

CREATE TRIGGER log_head_check_update AFTER UPDATE ON log_head
WHEN NEW.log_id <> OLD.log_id
  OR NEW.revision <= OLD.revision
  OR NEW.timestamp < OLD.timestamp
  OR NEW.floor <> OLD.floor
  OR NEW.floor_hash <> OLD.floor_hash
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
        WHEN NEW.floor = OLD.floor AND NEW.floor_hash <> OLD.floor_hash
            THEN RAISE(ABORT, 'log_head: UPDATE is refused: floor_hash changes only with the floor')
        WHEN NEW.floor > OLD.floor AND NOT EXISTS (
                SELECT 1 FROM audit_logs
                WHERE revision > OLD.revision AND revision <= NEW.revision AND +action_type = 'log_trimmed')
            THEN RAISE(ABORT, 'log_head: UPDATE is refused: the floor moves only with a log_trimmed entry')
        END;
END;
