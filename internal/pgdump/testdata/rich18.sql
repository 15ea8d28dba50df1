-- What PostgreSQL 18 adds. Run after rich.sql, with its search_path.
SET search_path = "Rich schema", helper;
CREATE TABLE eighteen (
	id integer CONSTRAINT "named not null" NOT NULL,
	a integer NOT NULL NO INHERIT,
	b integer,
	c integer,
	v integer GENERATED ALWAYS AS (id * 2) VIRTUAL,
	d text GENERATED ALWAYS AS ('x' || id::text) STORED,
	CONSTRAINT not_enforced CHECK (id > 100) NOT ENFORCED
);
COMMENT ON CONSTRAINT "named not null" ON eighteen IS 'not null';
INSERT INTO eighteen (id, a) VALUES (1, 2), (2, 3);
ALTER TABLE eighteen ADD CONSTRAINT late_not_null NOT NULL b NOT VALID;
CREATE EXTENSION btree_gist WITH SCHEMA helper;
CREATE TABLE temporal (id integer, during daterange, CONSTRAINT temporal_key PRIMARY KEY (id, during WITHOUT OVERLAPS));
CREATE TABLE temporal_child (id integer, owner integer, during daterange,
	CONSTRAINT temporal_child_of FOREIGN KEY (owner, PERIOD during) REFERENCES temporal (id, PERIOD during));
CREATE TABLE fk_not_enforced (owner integer, CONSTRAINT fk_not_enforced_of FOREIGN KEY (owner) REFERENCES "user" (id) NOT ENFORCED);
CREATE DOMAIN named_not_null AS integer CONSTRAINT domain_not_null NOT NULL;
