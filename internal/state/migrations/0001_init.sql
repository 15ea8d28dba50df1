-- What verifications showed, the newest of each level.
CREATE TABLE verification (
    target  TEXT NOT NULL,
    archive TEXT NOT NULL,
    level   TEXT NOT NULL,
    sha256  TEXT NOT NULL, -- of the archive that was read; another archive under the same id is not verified
    time    INTEGER NOT NULL, -- Unix milliseconds
    outcome TEXT NOT NULL,
    PRIMARY KEY (target, archive, level)
) STRICT, WITHOUT ROWID;

-- Sidecars as they were read, signature included.
CREATE TABLE sidecar (
    target  TEXT NOT NULL,
    name    TEXT NOT NULL,
    size    INTEGER NOT NULL,
    etag    TEXT NOT NULL,
    time    INTEGER NOT NULL, -- of the object, Unix nanoseconds
    content BLOB NOT NULL,
    PRIMARY KEY (target, name)
) STRICT;

-- The latest plausible time at which a target was pruned.
CREATE TABLE clock (
    target TEXT NOT NULL PRIMARY KEY,
    seen   INTEGER NOT NULL -- Unix milliseconds
) STRICT, WITHOUT ROWID;
