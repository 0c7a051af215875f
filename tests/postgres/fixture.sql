-- Everything that a dump can hold and that these servers have without further packages. `@DB@` and `@R@` are replaced by the database's name
-- and the start of the names of its roles.
CREATE ROLE @R@owner; CREATE ROLE @R@reader; CREATE ROLE "@R@Odd role";
ALTER DATABASE @DB@ OWNER TO @R@owner;
ALTER DATABASE @DB@ SET work_mem TO '7MB';
ALTER DATABASE @DB@ SET timezone TO 'Asia/Tokyo';
ALTER DATABASE @DB@ SET search_path TO app, "odd schema", public;
ALTER DATABASE @DB@ SET my.setting TO 'it''s DATABASE @DB@; \ x';
ALTER DATABASE @DB@ SET default_transaction_read_only TO on;
ALTER ROLE @R@reader IN DATABASE @DB@ SET statement_timeout TO '5s';
ALTER DATABASE @DB@ CONNECTION LIMIT 17;
COMMENT ON DATABASE @DB@ IS 'all of it; DATABASE @DB@';
GRANT CONNECT ON DATABASE @DB@ TO @R@reader WITH GRANT OPTION;
GRANT CREATE ON DATABASE @DB@ TO "@R@Odd role";
REVOKE TEMPORARY ON DATABASE @DB@ FROM PUBLIC;
SET default_transaction_read_only = off;

CREATE SCHEMA app AUTHORIZATION @R@owner;
CREATE SCHEMA "odd schema";
GRANT USAGE ON SCHEMA app TO @R@reader;
SET search_path = app;
COMMENT ON SCHEMA app IS 'the application''s';
ALTER DEFAULT PRIVILEGES FOR ROLE @R@owner IN SCHEMA app GRANT SELECT ON TABLES TO @R@reader;
ALTER DEFAULT PRIVILEGES FOR ROLE @R@owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE place AS (street text, number int);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE span AS RANGE (subtype = float8);
CREATE COLLATION plain (provider = libc, locale = 'C');
CREATE TABLE people (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    feels mood DEFAULT 'ok',
    lives place,
    age positive,
    born timestamptz DEFAULT '2001-02-03 04:05:06+07',
    length int GENERATED ALWAYS AS (length(name)) STORED,
    data jsonb,
    raw bytea,
    ratio float8,
    code text CHECK (code IN ('a', 'b')),
    range span,
    money numeric(12, 3)
);
INSERT INTO people (name, feels, lives, age, data, raw, ratio, code, range, money)
    SELECT 'n' || n, CASE WHEN n % 2 = 0 THEN 'happy'::mood END, ROW('street ' || n, n)::place, n,
        jsonb_build_object('n', n, 'text', E'a\tb\\c'), decode(md5(n::text), 'hex'), n / 3.0, 'a', span(n, n + 1), n / 7.0
    FROM generate_series(1, 2000) n;
INSERT INTO people (name) VALUES (E'line\nbreak\ttab \\. \\N'), ('');
ALTER TABLE people OWNER TO @R@owner;
GRANT SELECT (id, name) ON people TO @R@reader;
COMMENT ON COLUMN people.name IS 'a name';
CREATE TABLE serials (id serial PRIMARY KEY, who bigint REFERENCES people (id) ON DELETE CASCADE DEFERRABLE, note text COLLATE plain);
INSERT INTO serials (who, note) SELECT id, 'note ' || id FROM people WHERE id <= 100;
CREATE SEQUENCE counter INCREMENT 7 START 5 CYCLE MAXVALUE 1000;
SELECT nextval('counter'), nextval('counter');
CREATE UNLOGGED TABLE scratch (n int); INSERT INTO scratch VALUES (1), (2);
CREATE TABLE parted (at date NOT NULL, n int) PARTITION BY RANGE (at);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO ('2026-07-01');
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM ('2026-07-01') TO ('2027-01-01') PARTITION BY HASH (n);
CREATE TABLE parted_2a PARTITION OF parted_2 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE parted_2b PARTITION OF parted_2 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO parted SELECT date '2026-01-01' + n, n FROM generate_series(0, 364) n;
CREATE INDEX ON parted (n);
CREATE TABLE parent (n int); CREATE TABLE child (m int) INHERITS (parent);
INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2, 3);
CREATE TABLE "odd schema"."odd "" table" ("a,b" text, "select" int); INSERT INTO "odd schema"."odd "" table" VALUES ('x', 1);
CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES;
CREATE INDEX people_lower ON people (lower(name)) WHERE age > 10;
CREATE STATISTICS people_stats (dependencies) ON age, name FROM people;
ALTER TABLE people CLUSTER ON people_pkey; ALTER TABLE serials REPLICA IDENTITY FULL; ALTER TABLE people ALTER name SET STATISTICS 77;

ALTER TABLE people ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON people FOR SELECT TO @R@reader, "@R@Odd role" USING (name <> 'TO someone');
CREATE POLICY other ON people AS RESTRICTIVE USING (true) WITH CHECK (age > 0);

CREATE FUNCTION add(a int, b int DEFAULT 1) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT a + b';
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $f$BEGIN NEW.note := coalesce(NEW.note, 'DATABASE "x"; $$'); RETURN NEW; END$f$;
ALTER FUNCTION note() OWNER TO @R@owner;
CREATE PROCEDURE nothing() LANGUAGE plpgsql AS 'BEGIN END';
CREATE AGGREGATE total (int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
CREATE OPERATOR ||+ (LEFTARG = int, RIGHTARG = int, FUNCTION = add);
CREATE FUNCTION mood_number(mood) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE CAST (mood AS int) WITH FUNCTION mood_number(mood) AS ASSIGNMENT;
CREATE TRIGGER noting BEFORE INSERT ON serials FOR EACH ROW EXECUTE FUNCTION note();
ALTER TABLE serials DISABLE TRIGGER noting;
CREATE VIEW happy WITH (security_barrier) AS SELECT id, name FROM people WHERE feels = 'happy';
CREATE RULE no_insert AS ON INSERT TO happy DO INSTEAD NOTHING;
CREATE MATERIALIZED VIEW counts AS SELECT feels, count(*) AS n, max(current_setting('my.setting', true)) AS set FROM people GROUP BY feels;
CREATE UNIQUE INDEX ON counts (feels);
CREATE MATERIALIZED VIEW counts_of_counts AS SELECT sum(n) AS n FROM counts;
CREATE MATERIALIZED VIEW hours AS SELECT to_char(timestamptz '2026-01-01 00:00Z', 'HH24') AS hour;
CREATE MATERIALIZED VIEW not_yet AS SELECT 1 AS one WITH NO DATA;
CREATE TEXT SEARCH CONFIGURATION words (COPY = simple);
CREATE FOREIGN DATA WRAPPER wrapper; CREATE SERVER far FOREIGN DATA WRAPPER wrapper OPTIONS (host 'x');
CREATE USER MAPPING FOR @R@reader SERVER far OPTIONS (user 'u');
CREATE FOREIGN TABLE far_table (n int) SERVER far;
CREATE FUNCTION event() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER never ON ddl_command_start WHEN TAG IN ('CREATE TABLE AS') EXECUTE FUNCTION event();
CREATE PUBLICATION chosen FOR TABLE people, serials WITH (publish = 'insert'); CREATE PUBLICATION everything FOR ALL TABLES;
SELECT lo_from_bytea(70001, 'large object'), lo_from_bytea(70002, decode(repeat('ab', 300000), 'hex'));
ALTER LARGE OBJECT 70002 OWNER TO @R@owner; GRANT SELECT ON LARGE OBJECT 70001 TO @R@reader; COMMENT ON LARGE OBJECT 70001 IS 'large';
