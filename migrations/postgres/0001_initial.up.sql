-- The schema: flags, environments, users, tokens, the audit log and its counts, stored requests, the head of the log, and the
-- checkpoints that sign it.
--
-- The service decides every change in memory and appends it with one statement that moves `log_head`, writes the
-- audit entries and writes the rows they are about. The triggers below do not repeat that decision. They hold the
-- invariants that must survive a bug in the service, a second program or a person with psql:
--   * no flag changes without its entry, and its status is what its newest status entry says;
--   * an entry, once written, is never changed, and deleted only after a trim, which is itself an entry;
--   * the head never runs backwards.
--
-- All names are unqualified: everything is created in the first schema of the search_path.

-- Tables ------------------------------------------------------------------------------------------------------------

CREATE TABLE environments (
    id             UUID        NOT NULL PRIMARY KEY,
    -- "C" sorts by bytes, as the mirror and SQLite do, whatever the locale of the database.
    key            TEXT        COLLATE "C" NOT NULL UNIQUE
                               CHECK (char_length(key) <= 64 AND key ~ '^[a-z0-9][a-z0-9-]*$'),
    name           TEXT        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 255),
    description    TEXT        NOT NULL DEFAULT '' CHECK (char_length(description) <= 2000),
    -- Each flip of a flag must have a reason.
    require_reason BOOLEAN     NOT NULL,
    revision       BIGINT      NOT NULL CHECK (revision > 0),
    created_at     TIMESTAMPTZ NOT NULL,
    updated_at     TIMESTAMPTZ NOT NULL,
    updated_by     TEXT        NOT NULL,
    archived_at    TIMESTAMPTZ
);

-- Do not index status, revision, updated_at, updated_by or the last flip: a flip changes them, and an update is heap-only (HOT) only if it
-- changes no indexed column and its page has room. Hence also the fill factor of 70 %.
-- A vacuum never shortens the file, because it would take an exclusive lock that every writer waits for.
CREATE TABLE feature_flags (
    id          UUID        NOT NULL PRIMARY KEY,
    -- The key of an environment, which never changes.
    environment TEXT        COLLATE "C" NOT NULL REFERENCES environments (key),
    key         TEXT        COLLATE "C" NOT NULL
                            CHECK (char_length(key) <= 128 AND key ~ '^[A-Za-z0-9][A-Za-z0-9._-]*$'),
    name        TEXT        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 255),
    description TEXT        NOT NULL DEFAULT '' CHECK (char_length(description) <= 2000),
    status      TEXT        NOT NULL CHECK (status IN ('enabled', 'disabled')),
    revision    BIGINT      NOT NULL CHECK (revision > 0),
    created_at  TIMESTAMPTZ NOT NULL,
    updated_at  TIMESTAMPTZ NOT NULL,
    updated_by  TEXT        NOT NULL,
    archived_at TIMESTAMPTZ,
    -- The last flip, copied from its entry, which may be trimmed. All are NULL for a flag that was never flipped.
    last_flip_audit_log_id UUID,
    last_flip_by           TEXT,
    last_flip_revision     BIGINT,
    last_flip_time         TIMESTAMPTZ,
    last_flip_reason       TEXT CHECK (last_flip_reason <> ''),
    UNIQUE (environment, key),
    CHECK (num_nulls(last_flip_audit_log_id, last_flip_by, last_flip_revision, last_flip_time) IN (0, 4)
           AND (last_flip_reason IS NULL OR last_flip_revision IS NOT NULL))
) WITH (fillfactor = 70, vacuum_truncate = false);

CREATE TABLE users (
    id             UUID        NOT NULL PRIMARY KEY,
    email          TEXT        COLLATE "C" NOT NULL UNIQUE,
    -- The user's single sign-on account. Never derived from the e-mail address.
    issuer         TEXT,
    subject        TEXT,
    permissions    TEXT[]      NOT NULL CHECK (array_position(permissions, NULL) IS NULL),
    revision       BIGINT      NOT NULL CHECK (revision > 0),
    created_at     TIMESTAMPTZ NOT NULL,
    updated_at     TIMESTAMPTZ NOT NULL,
    deactivated_at TIMESTAMPTZ,
    UNIQUE (issuer, subject),
    CHECK ((issuer IS NULL) = (subject IS NULL))
);

CREATE TABLE api_tokens (
    id           UUID        NOT NULL PRIMARY KEY,
    user_id      UUID        NOT NULL REFERENCES users (id),
    name         TEXT        NOT NULL,
    -- SHA-256 of the secret; the secret itself is shown once and kept nowhere.
    secret_hash  BYTEA       NOT NULL UNIQUE CHECK (octet_length(secret_hash) = 32),
    -- NULL: the token may do all that its user may.
    permissions  TEXT[]      CHECK (array_position(permissions, NULL) IS NULL),
    -- What its calls are about where they name no environment. NULL: none.
    environment  TEXT        COLLATE "C" REFERENCES environments (key),
    revision     BIGINT      NOT NULL CHECK (revision > 0),
    created_at   TIMESTAMPTZ NOT NULL,
    expires_at   TIMESTAMPTZ,
    revoked_at   TIMESTAMPTZ,
    -- Updated from time to time, in batches. Not part of the log.
    last_used_at TIMESTAMPTZ
);

CREATE INDEX idx_api_tokens_user_id ON api_tokens (user_id);

-- An optional text is either absent or has content, never ''. The hash encodes absent and empty alike, so if both
-- were allowed, one could be turned into the other without breaking the chain.
CREATE TABLE audit_logs (
    id                       UUID        NOT NULL PRIMARY KEY,
    revision                 BIGINT      NOT NULL UNIQUE CHECK (revision > 0),
    timestamp                TIMESTAMPTZ NOT NULL,
    user_id                  UUID        REFERENCES users (id),
    user_email               TEXT        NOT NULL,
    -- No foreign key: the entry names the token that was used, whether or not its row exists.
    token_id                 UUID,
    action_type              TEXT        NOT NULL CHECK (action_type IN (
                                 'toggle_enabled', 'toggle_disabled',
                                 'flag_created', 'flag_updated', 'flag_archived', 'flag_unarchived',
                                 'user_created', 'user_updated', 'user_deactivated',
                                 'token_created', 'token_revoked',
                                 'environment_created', 'environment_updated',
                                 'environment_archived', 'environment_unarchived',
                                 'access_denied', 'log_trimmed')),
    entity_type              TEXT        NOT NULL CHECK (entity_type IN (
                                 'feature_flag', 'user', 'api_token', 'environment', 'log')),
    entity_id                UUID,
    entity_key               TEXT        COLLATE "C" NOT NULL,
    entity_name              TEXT        NOT NULL,
    old_value                TEXT        CHECK (old_value <> ''),
    new_value                TEXT        CHECK (new_value <> ''),
    reason                   TEXT        CHECK (reason <> ''),
    request_id               TEXT        CHECK (request_id <> ''),
    method                   TEXT        NOT NULL,
    peer                     TEXT        CHECK (peer <> ''),
    user_agent               TEXT        CHECK (user_agent <> ''),
    previous_entity_revision BIGINT,
    -- The entry whose change this one reverts. Covered by the hash from version 2 on.
    reverts                  UUID,
    -- The key of the environment that the entry is about: that of the flag, or the environment itself. NULL for users, tokens and the log.
    environment              TEXT        CHECK (environment <> ''),
    hash_version             SMALLINT    NOT NULL CHECK (hash_version > 0),
    hash                     BYTEA       NOT NULL CHECK (octet_length(hash) = 32),
    -- When it was decided, by the clock of the database, which may be set back. Earlier than it was written, and earlier
    -- than its timestamp while the log is ahead of that clock. Not covered by the hash.
    created_at               TIMESTAMPTZ NOT NULL DEFAULT now(),
    -- Version 1 of the hash does not cover it.
    CONSTRAINT audit_logs_reverts_check CHECK (reverts IS NULL OR hash_version >= 2),
    -- A status entry says its new status twice, and must not contradict itself.
    CONSTRAINT audit_logs_status_check
    CHECK (CASE action_type
               WHEN 'toggle_enabled'  THEN coalesce(new_value, '') = 'enabled'
               WHEN 'toggle_disabled' THEN coalesce(new_value, '') = 'disabled'
               ELSE TRUE
           END)
);

-- One index for each filter, ending in the revision, so that every filtered list pages in order from its index.
-- Time is a range, not one value, so there both columns must run the same way: entries of one batch share their
-- timestamp, and (timestamp, revision DESC) would give them in an order that no list has.
CREATE INDEX idx_audit_logs_timestamp ON audit_logs (timestamp, revision);
CREATE INDEX idx_audit_logs_user_id ON audit_logs (user_id, revision DESC);
CREATE INDEX idx_audit_logs_user_email ON audit_logs (user_email, revision DESC);
CREATE INDEX idx_audit_logs_entity_type_entity_id ON audit_logs (entity_type, entity_id, revision DESC);
CREATE INDEX idx_audit_logs_action_type ON audit_logs (action_type, revision DESC);
-- Nearly all entries are about flags, so a list of those walks the index of `revision`; this one is for the others.
-- The planner uses it only for a query that contains the condition.
CREATE INDEX idx_audit_logs_entity_type ON audit_logs (entity_type, revision DESC) WHERE entity_type <> 'feature_flag';
-- The same for `default`, where nearly all entries are in most logs: a log without other environments pays nothing for this index.
CREATE INDEX idx_audit_logs_environment ON audit_logs (environment, revision DESC) WHERE environment <> 'default';
-- A flag's edits without its flips, which are nearly all of its entries: finds an earlier name or description.
CREATE INDEX idx_audit_logs_edits ON audit_logs (entity_id, revision)
    WHERE action_type IN ('flag_created', 'flag_updated', 'flag_archived', 'flag_unarchived');
-- Serves a key and all keys with a prefix, of any kind of object. The keys of a prefix are not in the order of their revisions. So the index
-- has a part for each block of the log, as in `audit_log_counts`: a list is sorted block by block.
CREATE INDEX idx_audit_logs_entity_key ON audit_logs (((revision - 1) / 16384), entity_key, revision);
-- Where all flips have a reason, this index costs nothing.
CREATE INDEX idx_audit_logs_without_reason ON audit_logs (revision DESC)
    WHERE reason IS NULL AND action_type IN ('toggle_enabled', 'toggle_disabled');

-- How many entries of each kind a block of the log has: block 0 holds the revisions 1 to 16,384, block 1 the next as many,
-- and so on. The rows of all users together have the empty address, which no user has; those of all entries, whether about an environment
-- or none, have the empty key. A block is counted once, when it is full, because entries never change. The table is derived from the log: if
-- it is emptied, the log is counted again. Counts are deleted soon after the first entry of their block is trimmed, because
-- an address must not outlive the log.
CREATE TABLE audit_log_counts (
    block       BIGINT NOT NULL CHECK (block >= 0),
    user_id     UUID,
    user_email  TEXT   NOT NULL,
    action_type TEXT   NOT NULL,
    entity_type TEXT   NOT NULL,
    environment TEXT   NOT NULL,
    entries     BIGINT NOT NULL CHECK (entries > 0),
    -- How many of these are flips without a reason.
    without_reason BIGINT NOT NULL CHECK (without_reason BETWEEN 0 AND entries)
);

-- All nulls count as one user, so that servers which count a block at the same time write it once.
CREATE UNIQUE INDEX idx_audit_log_counts_block ON audit_log_counts
    (block, user_email, environment, action_type, entity_type, (coalesce(user_id, '00000000-0000-0000-0000-000000000000')));

-- Among many users and environments, the entries of one of them are a small part of each block.
CREATE INDEX idx_audit_log_counts_user_id ON audit_log_counts (user_id, environment, block);
CREATE INDEX idx_audit_log_counts_user_email ON audit_log_counts (user_email, environment, block);

CREATE TABLE requests (
    user_id    UUID        NOT NULL,
    request_id TEXT        COLLATE "C" NOT NULL,
    digest     BYTEA       NOT NULL CHECK (octet_length(digest) = 32),
    response   BYTEA       NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (user_id, request_id)
);

CREATE INDEX idx_requests_expires_at ON requests (expires_at);

-- One row, updated by every append, hundreds of times a second. The page is left almost empty, so that many versions
-- of the row fit in before it is pruned and each update stays heap-only. Autovacuum runs after a number
-- of updates, since a share of a single row would be meaningless, and never takes the exclusive lock that shortening the file needs.
CREATE TABLE log_head (
    singleton  BOOLEAN     NOT NULL PRIMARY KEY DEFAULT TRUE CHECK (singleton),
    -- Names this log; it is hashed into every entry, so that entries of another log do not fit.
    log_id     UUID        NOT NULL,
    revision   BIGINT      NOT NULL CHECK (revision >= 0),
    hash       BYTEA       NOT NULL CHECK (octet_length(hash) = 32),
    timestamp  TIMESTAMPTZ NOT NULL,
    -- Entries up to and including this revision may be removed.
    floor      BIGINT      NOT NULL,
    -- The hash of the entry at `floor`, which the first entry that is kept follows.
    floor_hash BYTEA       NOT NULL DEFAULT '\x0000000000000000000000000000000000000000000000000000000000000000'
                           CHECK (octet_length(floor_hash) = 32),
    -- No entry will be dated at or before this time, so that an answer about it never changes. It says nothing about the
    -- entries that exist: no hash covers it, and a log is the same log whatever it is.
    closed_at  TIMESTAMPTZ NOT NULL DEFAULT TIMESTAMPTZ '0001-01-01 00:00:00+00',
    CHECK (floor BETWEEN 0 AND revision)
) WITH (
    fillfactor = 10,
    vacuum_truncate = false,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000
);

INSERT INTO log_head (log_id, revision, hash, timestamp, floor)
VALUES (gen_random_uuid(), 0, decode(repeat('00', 32), 'hex'), TIMESTAMPTZ '1970-01-01 00:00:00+00', 0);

-- A signed statement of the log at a revision, made every so many revisions, as the text that was signed.
CREATE TABLE checkpoints (
    revision BIGINT NOT NULL PRIMARY KEY CHECK (revision > 0),
    note     TEXT   NOT NULL
);

-- Every key that has signed, with its name: old signatures stay verifiable when the key is replaced.
CREATE TABLE checkpoint_keys (
    key      TEXT        NOT NULL PRIMARY KEY,
    added_at TIMESTAMPTZ NOT NULL
);

-- Secrets that all servers on this database share, by what each is for. The first server that needs one makes it.
CREATE TABLE server_keys (
    name   TEXT  NOT NULL PRIMARY KEY,
    secret BYTEA NOT NULL CHECK (octet_length(secret) = 32)
);

-- Refused statements ------------------------------------------------------------------------------------------------

-- Takes the reason as the argument of its trigger.
CREATE FUNCTION refuse_statement() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%: % is refused: %', TG_TABLE_NAME, TG_OP, TG_ARGV[0]
        USING ERRCODE = 'integrity_constraint_violation', TABLE = TG_TABLE_NAME;
END
$$;

CREATE TRIGGER feature_flags_refuse BEFORE DELETE OR TRUNCATE ON feature_flags
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_statement('a flag is archived, never deleted');

CREATE TRIGGER environments_refuse BEFORE DELETE OR TRUNCATE ON environments
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_statement('an environment is archived, never deleted');

CREATE TRIGGER users_refuse BEFORE DELETE OR TRUNCATE ON users
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_statement('a user is deactivated, never deleted');

CREATE TRIGGER api_tokens_refuse BEFORE DELETE OR TRUNCATE ON api_tokens
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_statement('a token is revoked, never deleted');

CREATE TRIGGER audit_logs_refuse BEFORE UPDATE OR TRUNCATE ON audit_logs
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_statement('an entry is never changed');

CREATE TRIGGER log_head_refuse BEFORE DELETE OR TRUNCATE ON log_head
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_statement('a log has exactly one head');

CREATE TRIGGER checkpoints_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_statement('a checkpoint is never changed or deleted');

CREATE TRIGGER checkpoint_keys_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON checkpoint_keys
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_statement('a key that has signed stays known');

-- Flags -------------------------------------------------------------------------------------------------------------

-- Both checks run once, after the whole statement, over all rows it touched: then every part of an append has been
-- written, whatever the order of its parts, and a batch pays for one call instead of one a row.
--
-- A batch may hold several entries for one flag, while the row is written once with the outcome. So the status is
-- compared with the newest status entry since the old revision, which need not be the entry at the new one: a flip
-- and then a rename is legal, and so is a rename that leaves the status alone.
--
-- The planner settings keep the plans to look-ups in an index and one hash or merge join of old with new rows. These
-- plans are made once a connection, perhaps for one row over an empty log, and are then kept for batches of a
-- thousand over a million entries.

CREATE FUNCTION feature_flags_check_insert() RETURNS trigger
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
AS $$
DECLARE
    bad RECORD;
BEGIN
    SELECT c.* INTO bad FROM (
        SELECT n.key, n.revision, CASE
            WHEN NOT EXISTS (
                    SELECT FROM audit_logs a
                    WHERE a.revision = n.revision
                      AND a.entity_type = 'feature_flag' AND a.entity_id = n.id
                      AND a.action_type <> 'access_denied')
                THEN 'there is no entry of this flag at its revision'
            WHEN NOT EXISTS (
                    SELECT FROM audit_logs a
                    WHERE a.entity_type = 'feature_flag' AND a.entity_id = n.id
                      AND a.revision <= n.revision
                      AND a.action_type = 'flag_created')
                THEN 'it has no flag_created entry'
            WHEN n.status IS DISTINCT FROM (
                    SELECT CASE a.action_type
                               WHEN 'flag_created' THEN a.new_value::jsonb ->> 'status'
                               ELSE a.new_value
                           END
                    FROM audit_logs a
                    WHERE a.entity_type = 'feature_flag' AND a.entity_id = n.id
                      AND a.revision <= n.revision
                      AND a.action_type IN ('flag_created', 'toggle_enabled', 'toggle_disabled')
                    ORDER BY a.revision DESC
                    LIMIT 1)
                THEN 'its status is not what its newest entry says'
            END AS problem
        FROM new_rows n) c
    WHERE c.problem IS NOT NULL
    LIMIT 1;

    IF FOUND THEN
        RAISE EXCEPTION 'feature_flags: insert of "%" at revision % is refused: %', bad.key, bad.revision, bad.problem
            USING ERRCODE = 'integrity_constraint_violation', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER feature_flags_check_insert AFTER INSERT ON feature_flags
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION feature_flags_check_insert();

CREATE FUNCTION feature_flags_check_update() RETURNS trigger
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_nestloop = off SET jit = off
AS $$
DECLARE
    bad RECORD;
BEGIN
    SELECT c.* INTO bad FROM (
        SELECT n.key, n.revision, CASE
            -- A row that finds no old row under its id has changed its id.
            WHEN o.id IS NULL OR n.environment <> o.environment OR n.key <> o.key OR n.created_at <> o.created_at
                THEN 'id, environment, key and created_at never change'
            WHEN n.revision <= o.revision
                THEN CASE WHEN n.* IS DISTINCT FROM o.* THEN 'a change needs a higher revision' END
            -- One look-up serves the common case, a flip whose entry has the new revision.
            ELSE coalesce((
                SELECT CASE
                    WHEN a.entity_type <> 'feature_flag' OR a.entity_id IS DISTINCT FROM n.id
                         OR a.action_type = 'access_denied'
                        THEN 'the entry at its revision is not about a change of this flag'
                    WHEN n.status = CASE
                            WHEN a.action_type IN ('toggle_enabled', 'toggle_disabled') THEN a.new_value
                            ELSE coalesce((
                                SELECT b.new_value
                                FROM audit_logs b
                                WHERE b.entity_type = 'feature_flag' AND b.entity_id = n.id
                                  AND b.revision > o.revision AND b.revision < n.revision
                                  AND b.action_type IN ('toggle_enabled', 'toggle_disabled')
                                ORDER BY b.revision DESC
                                LIMIT 1), o.status)
                        END
                        THEN ''
                    ELSE 'its status is not what its newest status entry says'
                    END
                FROM audit_logs a
                WHERE a.revision = n.revision), 'there is no entry at its revision')
            END AS problem
        FROM new_rows n
        LEFT JOIN old_rows o ON o.id = n.id) c
    WHERE c.problem <> ''
    LIMIT 1;

    IF FOUND THEN
        RAISE EXCEPTION 'feature_flags: update of "%" to revision % is refused: %', bad.key, bad.revision, bad.problem
            USING ERRCODE = 'integrity_constraint_violation', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER feature_flags_check_update AFTER UPDATE ON feature_flags
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION feature_flags_check_update();

-- The log -----------------------------------------------------------------------------------------------------------

-- Only entries up to the floor can be deleted, and the floor moves only together with a log_trimmed entry (below).
CREATE FUNCTION audit_logs_check_delete() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    kept BIGINT;
BEGIN
    SELECT max(o.revision) INTO kept
    FROM old_rows o
    WHERE o.revision > coalesce((SELECT h.floor FROM log_head h), 0);

    IF kept IS NOT NULL THEN
        RAISE EXCEPTION 'audit_logs: DELETE of revision % is refused: it is above the floor of the log', kept
            USING ERRCODE = 'integrity_constraint_violation', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER audit_logs_check_delete AFTER DELETE ON audit_logs
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION audit_logs_check_delete();

CREATE FUNCTION log_head_check_update() RETURNS trigger
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
        WHEN NEW.closed_at < OLD.closed_at THEN 'closed_at never decreases'
        WHEN NEW.revision > OLD.revision AND NEW.timestamp <= OLD.closed_at THEN 'an entry is dated after closed_at'
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

-- The condition lets an ordinary append pass without calling the function. AFTER, although for each row, because
-- only then have the entries of the same statement been written.
CREATE TRIGGER log_head_check_update AFTER UPDATE ON log_head
    FOR EACH ROW
    WHEN (NEW.log_id <> OLD.log_id
          OR NEW.revision <= OLD.revision
          OR NEW.timestamp < OLD.timestamp
          OR NEW.timestamp <= OLD.closed_at
          OR NEW.closed_at < OLD.closed_at
          OR NEW.floor <> OLD.floor
          OR NEW.floor_hash <> OLD.floor_hash)
    EXECUTE FUNCTION log_head_check_update();

-- The checks look only into the schema they were made in, temporary tables last. Otherwise a temporary `audit_logs`
-- would come before the real one, and a forged entry in it would pass for the real thing.
DO $$
DECLARE
    f TEXT;
BEGIN
    FOREACH f IN ARRAY ARRAY['feature_flags_check_insert', 'feature_flags_check_update',
                             'audit_logs_check_delete', 'log_head_check_update'] LOOP
        EXECUTE format('ALTER FUNCTION %I() SET search_path = %I, pg_temp', f, current_schema());
    END LOOP;
END
$$;
