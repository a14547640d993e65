-- The schema: flags, environments, users, tokens, the audit log and its counts, stored requests, the head of the log, and the
-- checkpoints that sign it.
--
-- The same tables, columns and invariants as on PostgreSQL, in SQLite's types: an id is a BLOB of 16 bytes, a time an
-- INTEGER of microseconds since 1970-01-01 UTC, a list of permissions a JSON array.
--
-- An append is one transaction: entries first, then the rows they are about, then `log_head`. Triggers run row by
-- row as each is written, so what they look for must already stand.
--
-- INSERT OR REPLACE deletes the row in its way without firing a DELETE trigger. Guards before each insert therefore
-- refuse a row whose place is taken. A row's hidden rowid is such a place too, so the guarded tables have none
-- (WITHOUT ROWID) or show it as a column.

-- Tables ------------------------------------------------------------------------------------------------------------

CREATE TABLE environments (
    id             BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    -- The last condition refuses U+0000, at which the others stop reading.
    key            TEXT    NOT NULL UNIQUE
                           CHECK (length(key) <= 64 AND key GLOB '[a-z0-9]*' AND key NOT GLOB '*[^a-z0-9-]*'
                                  AND length(key) = length(CAST(key AS BLOB))),
    name           TEXT    NOT NULL CHECK (length(name) BETWEEN 1 AND 255),
    description    TEXT    NOT NULL DEFAULT '' CHECK (length(description) <= 2000),
    -- Each flip of a flag must have a reason.
    require_reason INTEGER NOT NULL CHECK (require_reason IN (0, 1)),
    revision       INTEGER NOT NULL CHECK (revision > 0),
    created_at     INTEGER NOT NULL,
    updated_at     INTEGER NOT NULL,
    updated_by     TEXT    NOT NULL,
    archived_at    INTEGER
) STRICT, WITHOUT ROWID;

-- The foreign keys are checked at the commit, so that the parts of an append may be written in any order.
CREATE TABLE feature_flags (
    id          BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    -- The key of an environment, which never changes.
    environment TEXT    NOT NULL REFERENCES environments (key) DEFERRABLE INITIALLY DEFERRED,
    -- The last condition refuses U+0000, at which the others stop reading.
    key         TEXT    NOT NULL
                        CONSTRAINT feature_flags_key_check
                        CHECK (length(key) <= 128 AND key GLOB '[A-Za-z0-9]*' AND key NOT GLOB '*[^A-Za-z0-9._-]*'
                               AND length(key) = length(CAST(key AS BLOB))),
    name        TEXT    NOT NULL CHECK (length(name) BETWEEN 1 AND 255),
    description TEXT    NOT NULL DEFAULT '' CHECK (length(description) <= 2000),
    status      TEXT    NOT NULL CHECK (status IN ('enabled', 'disabled')),
    revision    INTEGER NOT NULL CHECK (revision > 0),
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    updated_by  TEXT    NOT NULL,
    archived_at INTEGER,
    -- The last flip, copied from its entry, which may be trimmed. All are NULL for a flag that was never flipped.
    last_flip_audit_log_id BLOB    CHECK (length(last_flip_audit_log_id) = 16),
    last_flip_by           TEXT,
    last_flip_revision     INTEGER,
    last_flip_time         INTEGER,
    last_flip_reason       TEXT    CHECK (last_flip_reason <> ''),
    UNIQUE (environment, key),
    CHECK ((last_flip_by IS NULL) = (last_flip_audit_log_id IS NULL)
           AND (last_flip_revision IS NULL) = (last_flip_audit_log_id IS NULL)
           AND (last_flip_time IS NULL) = (last_flip_audit_log_id IS NULL)
           AND (last_flip_reason IS NULL OR last_flip_audit_log_id IS NOT NULL))
) STRICT, WITHOUT ROWID;

CREATE TABLE users (
    id             BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    email          TEXT    NOT NULL UNIQUE,
    -- The user's single sign-on account. Never derived from the e-mail address.
    issuer         TEXT,
    subject        TEXT,
    permissions    TEXT    NOT NULL CHECK (json_valid(permissions) AND json_type(permissions) = 'array'),
    revision       INTEGER NOT NULL CHECK (revision > 0),
    created_at     INTEGER NOT NULL,
    updated_at     INTEGER NOT NULL,
    deactivated_at INTEGER,
    UNIQUE (issuer, subject),
    CHECK ((issuer IS NULL) = (subject IS NULL))
) STRICT, WITHOUT ROWID;

CREATE TABLE api_tokens (
    id           BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    user_id      BLOB    NOT NULL REFERENCES users (id) DEFERRABLE INITIALLY DEFERRED,
    name         TEXT    NOT NULL,
    -- SHA-256 of the secret; the secret itself is shown once and kept nowhere.
    secret_hash  BLOB    NOT NULL UNIQUE CHECK (length(secret_hash) = 32),
    -- NULL: the token may do all that its user may.
    permissions  TEXT    CHECK (permissions IS NULL OR (json_valid(permissions) AND json_type(permissions) = 'array')),
    -- What its calls are about where they name no environment. NULL: none.
    environment  TEXT    REFERENCES environments (key) DEFERRABLE INITIALLY DEFERRED,
    revision     INTEGER NOT NULL CHECK (revision > 0),
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    revoked_at   INTEGER,
    -- Updated from time to time, in batches. Not part of the log.
    last_used_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX idx_api_tokens_user_id ON api_tokens (user_id);

-- The revision is the row's own number (rowid), so that entries lie in the file in their order: reading, trimming and
-- appending are sequential, and `revision` needs no index of its own.
--
-- An optional text is either absent or has content, never ''. The hash encodes absent and empty alike, so if both
-- were allowed, one could be turned into the other without breaking the chain.
CREATE TABLE audit_logs (
    id                       BLOB    NOT NULL UNIQUE CHECK (length(id) = 16),
    revision                 INTEGER NOT NULL PRIMARY KEY CHECK (revision > 0),
    timestamp                INTEGER NOT NULL,
    user_id                  BLOB    REFERENCES users (id) DEFERRABLE INITIALLY DEFERRED
                                     CHECK (length(user_id) = 16),
    user_email               TEXT    NOT NULL,
    -- No foreign key: the entry names the token that was used, whether or not its row exists.
    token_id                 BLOB    CHECK (length(token_id) = 16),
    action_type              TEXT    NOT NULL CHECK (action_type IN (
                                 'toggle_enabled', 'toggle_disabled',
                                 'flag_created', 'flag_updated', 'flag_archived', 'flag_unarchived',
                                 'user_created', 'user_updated', 'user_deactivated',
                                 'token_created', 'token_revoked',
                                 'environment_created', 'environment_updated',
                                 'environment_archived', 'environment_unarchived',
                                 'access_denied', 'log_trimmed')),
    entity_type              TEXT    NOT NULL CHECK (entity_type IN (
                                 'feature_flag', 'user', 'api_token', 'environment', 'log')),
    entity_id                BLOB    CHECK (length(entity_id) = 16),
    entity_key               TEXT    NOT NULL,
    entity_name              TEXT    NOT NULL,
    old_value                TEXT    CHECK (old_value <> ''),
    new_value                TEXT    CHECK (new_value <> ''),
    reason                   TEXT    CHECK (reason <> ''),
    request_id               TEXT    CHECK (request_id <> ''),
    method                   TEXT    NOT NULL,
    peer                     TEXT    CHECK (peer <> ''),
    user_agent               TEXT    CHECK (user_agent <> ''),
    previous_entity_revision INTEGER,
    -- The entry whose change this one reverts. Covered by the hash from version 2 on, and not by version 1.
    reverts                  BLOB    CHECK (reverts IS NULL OR (length(reverts) = 16 AND hash_version >= 2)),
    -- The key of the environment that the entry is about: that of the flag, or the environment itself. NULL for users, tokens and the log.
    environment              TEXT    CHECK (environment <> ''),
    hash_version             INTEGER NOT NULL CHECK (hash_version > 0),
    hash                     BLOB    NOT NULL CHECK (length(hash) = 32),
    -- When it was decided, by the clock of the machine, which may be set back. Earlier than it was written, and earlier
    -- than its timestamp while the log is ahead of that clock. Not covered by the hash. The default, from SQLite's clock,
    -- has a precision of milliseconds.
    created_at               INTEGER NOT NULL DEFAULT (CAST(strftime('%s', 'now') AS INTEGER) * 1000000
                                                       + CAST(substr(strftime('%f', 'now'), 4) AS INTEGER) * 1000),
    -- A status entry says its new status twice, and must not contradict itself.
    CONSTRAINT audit_logs_status_check
    CHECK (CASE action_type
               WHEN 'toggle_enabled'  THEN coalesce(new_value, '') = 'enabled'
               WHEN 'toggle_disabled' THEN coalesce(new_value, '') = 'disabled'
               ELSE TRUE
           END)
) STRICT;

-- One index for each filter. Each ends in the revision without naming it, since every index ends in the rowid, so
-- that every filtered list pages in order from its index, in either direction.
CREATE INDEX idx_audit_logs_timestamp ON audit_logs (timestamp);
CREATE INDEX idx_audit_logs_user_id ON audit_logs (user_id);
CREATE INDEX idx_audit_logs_user_email ON audit_logs (user_email);
CREATE INDEX idx_audit_logs_action_type ON audit_logs (action_type);
-- Serves a key, all keys with a prefix, and an object, whose key never changes. Each further index would cost every flip about a fifth of
-- what SQLite takes for it. Objects may be as many as entries. So the index has a part for each block of the log, as in
-- `audit_log_counts`, and new entries go to the newest part. With one part for all, each flip of another flag would write a page of its
-- own. A query names the blocks, and the planner uses the index only if the block is written as here.
CREATE INDEX idx_audit_logs_entity_key ON audit_logs ((revision - 1) / 16384, entity_key, entity_id);
-- Nearly all entries are about flags, so a list of those walks the table itself; this index is for the others.
-- The planner uses it only for a query that repeats the condition.
CREATE INDEX idx_audit_logs_entity_type ON audit_logs (entity_type) WHERE entity_type <> 'feature_flag';
-- The same for `default`, where nearly all entries are in most logs: a log without other environments pays nothing for this index.
CREATE INDEX idx_audit_logs_environment ON audit_logs (environment) WHERE environment <> 'default';
-- A flag's edits without its flips, which are nearly all of its entries: finds an earlier name or description. The planner uses
-- it only for a query that repeats the condition.
CREATE INDEX idx_audit_logs_edits ON audit_logs (entity_id)
    WHERE action_type IN ('flag_created', 'flag_updated', 'flag_archived', 'flag_unarchived');
-- Where all flips have a reason, this index costs nothing.
CREATE INDEX idx_audit_logs_without_reason ON audit_logs (revision)
    WHERE reason IS NULL AND action_type IN ('toggle_enabled', 'toggle_disabled');

-- How many entries of each kind a block of the log has: block 0 holds the revisions 1 to 16,384, block 1 the next as many,
-- and so on. The rows of all users together have the empty address, which no user has; those of all entries, whether about an environment
-- or none, have the empty key. A block is counted once, when it is full, because entries never change. The table is derived from the log: if
-- it is emptied, the log is counted again. Counts are deleted soon after the first entry of their block is trimmed, because
-- an address must not outlive the log.
CREATE TABLE audit_log_counts (
    block       INTEGER NOT NULL CHECK (block >= 0),
    user_id     BLOB,
    user_email  TEXT    NOT NULL,
    action_type TEXT    NOT NULL,
    entity_type TEXT    NOT NULL,
    environment TEXT    NOT NULL,
    entries     INTEGER NOT NULL CHECK (entries > 0),
    -- How many of these are flips without a reason.
    without_reason INTEGER NOT NULL CHECK (without_reason BETWEEN 0 AND entries)
) STRICT;

-- All nulls count as one user, so that servers which count a block at the same time write it once.
CREATE UNIQUE INDEX idx_audit_log_counts_block ON audit_log_counts
    (block, user_email, environment, action_type, entity_type, coalesce(user_id, x''));

-- Among many users and environments, the entries of one of them are a small part of each block.
CREATE INDEX idx_audit_log_counts_user_id ON audit_log_counts (user_id, environment, block);
CREATE INDEX idx_audit_log_counts_user_email ON audit_log_counts (user_email, environment, block);

CREATE TABLE requests (
    user_id    BLOB    NOT NULL CHECK (length(user_id) = 16),
    request_id TEXT    NOT NULL,
    digest     BLOB    NOT NULL CHECK (length(digest) = 32),
    response   BLOB    NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (user_id, request_id)
) STRICT;

CREATE INDEX idx_requests_expires_at ON requests (expires_at);

-- One row, updated by every append.
CREATE TABLE log_head (
    singleton  INTEGER NOT NULL PRIMARY KEY DEFAULT 1 CHECK (singleton = 1),
    -- Names this log; it is hashed into every entry, so that entries of another log do not fit.
    log_id     BLOB    NOT NULL CHECK (length(log_id) = 16),
    revision   INTEGER NOT NULL CHECK (revision >= 0),
    hash       BLOB    NOT NULL CHECK (length(hash) = 32),
    timestamp  INTEGER NOT NULL,
    -- Entries up to and including this revision may be removed.
    floor      INTEGER NOT NULL,
    -- The hash of the entry at `floor`, which the first entry that is kept follows.
    floor_hash BLOB    NOT NULL DEFAULT x'0000000000000000000000000000000000000000000000000000000000000000'
                       CHECK (length(floor_hash) = 32),
    -- No entry will be dated at or before this time, so that an answer about it never changes. It says nothing about the
    -- entries that exist: no hash covers it, and a log is the same log whatever it is. The default is the year 1.
    closed_at  INTEGER NOT NULL DEFAULT -62135596800000000,
    CHECK (floor BETWEEN 0 AND revision)
) STRICT;

-- A random (version 4) UUID has 6 fixed bits. Sixteen random bytes are drawn until those bits happen to be right,
-- one time in 64, as SQLite cannot set bits in a BLOB.
WITH RECURSIVE draw (id) AS (
    SELECT randomblob(16)
    UNION ALL
    SELECT randomblob(16) FROM draw WHERE hex(id) NOT GLOB '????????????4???[89AB]*'
)
INSERT INTO log_head (singleton, log_id, revision, hash, timestamp, floor)
SELECT 1, id, 0, zeroblob(32), 0, 0 FROM draw WHERE hex(id) GLOB '????????????4???[89AB]*';

-- A signed statement of the log at a revision, made every so many revisions, as the text that was signed.
CREATE TABLE checkpoints (
    revision INTEGER NOT NULL PRIMARY KEY CHECK (revision > 0),
    note     TEXT    NOT NULL
) STRICT;

-- Every key that has signed, with its name: old signatures stay verifiable when the key is replaced.
CREATE TABLE checkpoint_keys (
    key      TEXT    NOT NULL PRIMARY KEY,
    added_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Secrets that all servers on this database share, by what each is for. The first server that needs one makes it.
CREATE TABLE server_keys (
    name   TEXT NOT NULL PRIMARY KEY,
    secret BLOB NOT NULL CHECK (length(secret) = 32)
) STRICT, WITHOUT ROWID;

-- Refused statements ------------------------------------------------------------------------------------------------

CREATE TRIGGER feature_flags_refuse_delete BEFORE DELETE ON feature_flags
BEGIN
    SELECT RAISE(ABORT, 'feature_flags: DELETE is refused: a flag is archived, never deleted');
END;

CREATE TRIGGER environments_refuse_delete BEFORE DELETE ON environments
BEGIN
    SELECT RAISE(ABORT, 'environments: DELETE is refused: an environment is archived, never deleted');
END;

CREATE TRIGGER users_refuse_delete BEFORE DELETE ON users
BEGIN
    SELECT RAISE(ABORT, 'users: DELETE is refused: a user is deactivated, never deleted');
END;

CREATE TRIGGER api_tokens_refuse_delete BEFORE DELETE ON api_tokens
BEGIN
    SELECT RAISE(ABORT, 'api_tokens: DELETE is refused: a token is revoked, never deleted');
END;

CREATE TRIGGER audit_logs_refuse_update BEFORE UPDATE ON audit_logs
BEGIN
    SELECT RAISE(ABORT, 'audit_logs: UPDATE is refused: an entry is never changed');
END;

CREATE TRIGGER log_head_refuse_delete BEFORE DELETE ON log_head
BEGIN
    SELECT RAISE(ABORT, 'log_head: DELETE is refused: a log has exactly one head');
END;

CREATE TRIGGER checkpoints_refuse_update BEFORE UPDATE ON checkpoints
BEGIN
    SELECT RAISE(ABORT, 'checkpoints: UPDATE is refused: a checkpoint is never changed');
END;

CREATE TRIGGER checkpoints_refuse_delete BEFORE DELETE ON checkpoints
BEGIN
    SELECT RAISE(ABORT, 'checkpoints: DELETE is refused: a checkpoint is never deleted');
END;

CREATE TRIGGER checkpoint_keys_refuse_update BEFORE UPDATE ON checkpoint_keys
BEGIN
    SELECT RAISE(ABORT, 'checkpoint_keys: UPDATE is refused: a key that has signed stays known');
END;

CREATE TRIGGER checkpoint_keys_refuse_delete BEFORE DELETE ON checkpoint_keys
BEGIN
    SELECT RAISE(ABORT, 'checkpoint_keys: DELETE is refused: a key that has signed stays known');
END;

-- Guards against REPLACE --------------------------------------------------------------------------------------------

CREATE TRIGGER feature_flags_guard_insert BEFORE INSERT ON feature_flags
WHEN EXISTS (SELECT 1 FROM feature_flags WHERE id = NEW.id)
  OR EXISTS (SELECT 1 FROM feature_flags WHERE environment = NEW.environment AND key = NEW.key)
BEGIN
    SELECT RAISE(ABORT, 'feature_flags: insert is refused: a flag with this id, or this key in the environment, exists');
END;

-- Environments, users and tokens may be replaced by a row with the same id, which is an update by another name. Nothing may push out
-- a row with another id.
CREATE TRIGGER environments_guard_insert BEFORE INSERT ON environments
WHEN EXISTS (SELECT 1 FROM environments WHERE key = NEW.key AND id <> NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'environments: insert is refused: another environment has this key');
END;

CREATE TRIGGER environments_guard_update BEFORE UPDATE OF id, key ON environments
WHEN NEW.id <> OLD.id OR NEW.key <> OLD.key
BEGIN
    SELECT RAISE(ABORT, 'environments: update is refused: id and key never change');
END;

CREATE TRIGGER users_guard_insert BEFORE INSERT ON users
WHEN EXISTS (SELECT 1 FROM users WHERE email = NEW.email AND id <> NEW.id)
  OR EXISTS (SELECT 1 FROM users WHERE issuer = NEW.issuer AND subject = NEW.subject AND id <> NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'users: insert is refused: another user has this email or identity');
END;

CREATE TRIGGER users_guard_update BEFORE UPDATE OF id, email, issuer, subject ON users
WHEN NEW.id <> OLD.id
  OR EXISTS (SELECT 1 FROM users WHERE email = NEW.email AND id <> OLD.id)
  OR EXISTS (SELECT 1 FROM users WHERE issuer = NEW.issuer AND subject = NEW.subject AND id <> OLD.id)
BEGIN
    SELECT RAISE(ABORT, 'users: update is refused: another user has this email or identity, or the id would change');
END;

CREATE TRIGGER api_tokens_guard_insert BEFORE INSERT ON api_tokens
WHEN EXISTS (SELECT 1 FROM api_tokens WHERE secret_hash = NEW.secret_hash AND id <> NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'api_tokens: insert is refused: another token has this secret');
END;

CREATE TRIGGER api_tokens_guard_update BEFORE UPDATE OF id, secret_hash ON api_tokens
WHEN NEW.id <> OLD.id OR NEW.secret_hash <> OLD.secret_hash
BEGIN
    SELECT RAISE(ABORT, 'api_tokens: update is refused: id and secret_hash never change');
END;

-- A revision that is left out, which SQLite would number by itself, appears here as -1 or NULL.
CREATE TRIGGER audit_logs_guard_insert BEFORE INSERT ON audit_logs
WHEN coalesce(NEW.revision, 0) < 1
  OR EXISTS (SELECT 1 FROM audit_logs WHERE revision = NEW.revision)
  OR EXISTS (SELECT 1 FROM audit_logs WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'audit_logs: insert is refused: an entry needs a revision and an id that are not taken');
END;

-- The check of a flag's status finds the entries of the flag by its key.
CREATE TRIGGER audit_logs_guard_key BEFORE INSERT ON audit_logs
WHEN NEW.entity_type = 'feature_flag'
  AND NEW.entity_key <> (SELECT key FROM feature_flags WHERE id = NEW.entity_id)
BEGIN
    SELECT RAISE(ABORT, 'audit_logs: insert is refused: an entry names its flag by its key');
END;

CREATE TRIGGER log_head_guard_insert BEFORE INSERT ON log_head
WHEN EXISTS (SELECT 1 FROM log_head)
BEGIN
    SELECT RAISE(ABORT, 'log_head: insert is refused: a log has exactly one head');
END;

CREATE TRIGGER checkpoints_guard_insert BEFORE INSERT ON checkpoints
WHEN coalesce(NEW.revision, 0) < 1 OR EXISTS (SELECT 1 FROM checkpoints WHERE revision = NEW.revision)
BEGIN
    SELECT RAISE(ABORT, 'checkpoints: insert is refused: a checkpoint needs a positive revision that has none yet');
END;

-- Flags -------------------------------------------------------------------------------------------------------------

-- A batch may hold several entries for one flag, while the row is written once with the outcome. So the status is
-- compared with the newest status entry since the old revision, which need not be the entry at the new one: a flip
-- and then a rename is legal, and so is a rename that leaves the status alone.

CREATE TRIGGER feature_flags_check_insert AFTER INSERT ON feature_flags
BEGIN
    SELECT CASE
        WHEN NOT EXISTS (
                SELECT 1 FROM audit_logs
                WHERE revision = NEW.revision
                  AND entity_type = 'feature_flag' AND entity_id = NEW.id
                  AND action_type <> 'access_denied')
            THEN RAISE(ABORT, 'feature_flags: insert is refused: there is no entry of this flag at its revision')
        WHEN NOT EXISTS (
                SELECT 1 FROM audit_logs
                WHERE entity_type = 'feature_flag' AND entity_id = NEW.id
                  AND revision <= NEW.revision
                  AND action_type IN ('flag_created', 'flag_updated', 'flag_archived', 'flag_unarchived')
                  AND +action_type = 'flag_created')
            THEN RAISE(ABORT, 'feature_flags: insert is refused: it has no flag_created entry')
        WHEN NEW.status IS NOT (
                SELECT CASE action_type
                           WHEN 'flag_created' THEN json_extract(new_value, '$.status')
                           ELSE new_value
                       END
                FROM audit_logs
                WHERE entity_type = 'feature_flag' AND entity_id = NEW.id
                  AND revision <= NEW.revision
                  -- A status before the creation is not the newest.
                  AND revision >= (
                      SELECT max(revision) FROM audit_logs
                      WHERE entity_id = NEW.id AND revision <= NEW.revision
                        AND action_type IN ('flag_created', 'flag_updated', 'flag_archived', 'flag_unarchived')
                        AND +action_type = 'flag_created')
                  AND +action_type IN ('flag_created', 'toggle_enabled', 'toggle_disabled')
                ORDER BY revision DESC
                LIMIT 1)
            THEN RAISE(ABORT, 'feature_flags: insert is refused: its status is not what its newest entry says')
        END;
END;

CREATE TRIGGER feature_flags_check_update AFTER UPDATE ON feature_flags
BEGIN
    SELECT CASE
        WHEN NEW.id <> OLD.id OR NEW.environment <> OLD.environment OR NEW.key <> OLD.key
          OR NEW.created_at <> OLD.created_at
            THEN RAISE(ABORT, 'feature_flags: update is refused: id, environment, key and created_at never change')
        WHEN NEW.revision <= OLD.revision
            THEN CASE
                WHEN (NEW.name, NEW.description, NEW.status, NEW.revision,
                      NEW.updated_at, NEW.updated_by, NEW.archived_at,
                      NEW.last_flip_audit_log_id, NEW.last_flip_by, NEW.last_flip_revision,
                      NEW.last_flip_time, NEW.last_flip_reason)
                     IS NOT
                     (OLD.name, OLD.description, OLD.status, OLD.revision,
                      OLD.updated_at, OLD.updated_by, OLD.archived_at,
                      OLD.last_flip_audit_log_id, OLD.last_flip_by, OLD.last_flip_revision,
                      OLD.last_flip_time, OLD.last_flip_reason)
                    THEN RAISE(ABORT, 'feature_flags: update is refused: a change needs a higher revision')
                END
        WHEN NOT EXISTS (
                SELECT 1 FROM audit_logs
                WHERE revision = NEW.revision
                  AND entity_type = 'feature_flag' AND entity_id = NEW.id
                  AND action_type <> 'access_denied')
            THEN RAISE(ABORT, 'feature_flags: update is refused: there is no entry of this flag at its revision')
        -- The first look-up serves the common case, a flip whose entry has the new revision.
        WHEN NEW.status IS NOT coalesce(
                (SELECT new_value FROM audit_logs
                 WHERE revision = NEW.revision AND action_type IN ('toggle_enabled', 'toggle_disabled')),
                (SELECT new_value FROM audit_logs INDEXED BY idx_audit_logs_entity_key
                 WHERE (revision - 1) / 16384 IN (
                     WITH RECURSIVE blocks (block) AS (
                         SELECT OLD.revision / 16384
                         UNION ALL SELECT block + 1 FROM blocks WHERE block < (NEW.revision - 1) / 16384
                     )
                     SELECT block FROM blocks)
                   AND entity_key = NEW.key AND entity_type = 'feature_flag' AND entity_id = NEW.id
                   AND revision > OLD.revision AND revision < NEW.revision
                   AND action_type IN ('toggle_enabled', 'toggle_disabled')
                 ORDER BY (revision - 1) / 16384 DESC, revision DESC
                 LIMIT 1),
                OLD.status)
            THEN RAISE(ABORT, 'feature_flags: update is refused: its status is not what its newest status entry says')
        END;
END;

-- The log -----------------------------------------------------------------------------------------------------------

-- Only entries up to the floor can be deleted, and the floor moves only together with a log_trimmed entry (below).
CREATE TRIGGER audit_logs_check_delete BEFORE DELETE ON audit_logs
WHEN OLD.revision > coalesce((SELECT floor FROM log_head), 0)
BEGIN
    SELECT RAISE(ABORT, 'audit_logs: DELETE is refused: the entry is above the floor of the log');
END;

CREATE TRIGGER log_head_check_update AFTER UPDATE ON log_head
WHEN NEW.log_id <> OLD.log_id
  OR NEW.revision <= OLD.revision
  OR NEW.timestamp < OLD.timestamp
  OR NEW.timestamp <= OLD.closed_at
  OR NEW.closed_at < OLD.closed_at
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
        WHEN NEW.closed_at < OLD.closed_at
            THEN RAISE(ABORT, 'log_head: UPDATE is refused: closed_at never decreases')
        WHEN NEW.revision > OLD.revision AND NEW.timestamp <= OLD.closed_at
            THEN RAISE(ABORT, 'log_head: UPDATE is refused: an entry is dated after closed_at')
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
