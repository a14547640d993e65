-- Counting the entries that pass a filter without walking them.

-- How many entries of each kind a block of the log has: block 0 holds the revisions 1 to 16,384, block 1 the next as many,
-- and so on. Counted once, when the block is full: entries never change. Derived from the log and no part of it: when the
-- table is emptied, all of it is counted anew. Gone soon after the first entry of its block is trimmed, as an address must not
-- outlive the log.
CREATE TABLE audit_log_counts (
    block       BIGINT NOT NULL CHECK (block >= 0),
    user_id     UUID,
    user_email  TEXT   NOT NULL,
    action_type TEXT   NOT NULL,
    entity_type TEXT   NOT NULL,
    entries     BIGINT NOT NULL CHECK (entries > 0)
);

-- Nobody is the same nobody: servers that count a block at the same time write it once.
CREATE UNIQUE INDEX idx_audit_log_counts_block ON audit_log_counts
    (block, user_email, action_type, entity_type, (coalesce(user_id, '00000000-0000-0000-0000-000000000000')));

-- Among many users, what one of them did is a small part of each block.
CREATE INDEX idx_audit_log_counts_user_id ON audit_log_counts (user_id, block);
CREATE INDEX idx_audit_log_counts_user_email ON audit_log_counts (user_email, block);
