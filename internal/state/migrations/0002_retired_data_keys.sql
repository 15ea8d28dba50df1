-- Data keys of n8n that nothing used when they were marked.
CREATE TABLE retired_data_key (
    instance TEXT NOT NULL,
    id       TEXT NOT NULL,
    time     INTEGER NOT NULL, -- Unix milliseconds
    PRIMARY KEY (instance, id)
) STRICT, WITHOUT ROWID;
