-- What an ordinary role may do in its own database to have code run by whoever backs it up, drills it or restores it. @OWNER@ is the role; the code
-- takes what rights it can get, and a superuser's leave the file @TOLD@.
SET search_path = pg_catalog;
CREATE FUNCTION public.take() RETURNS void LANGUAGE plpgsql AS $f$BEGIN
    BEGIN EXECUTE 'RESET SESSION AUTHORIZATION'; EXCEPTION WHEN OTHERS THEN END;
    BEGIN EXECUTE 'RESET ROLE'; EXCEPTION WHEN OTHERS THEN END;
    BEGIN EXECUTE 'COPY (SELECT 1) TO PROGRAM ''touch @TOLD@'''; EXCEPTION WHEN OTHERS THEN END;
    BEGIN EXECUTE 'ALTER ROLE @OWNER@ SUPERUSER'; EXCEPTION WHEN OTHERS THEN END;
END$f$;
CREATE FUNCTION public.taking(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $f$BEGIN PERFORM public.take(); RETURN n; END$f$;
-- Functions and operators that are found before those of pg_catalog, or fit better.
DO $do$
DECLARE
    f record;
    l text;
    r text;
    types text[] := ARRAY['text', 'name', 'oid', 'int4', 'bool', '"char"'];
BEGIN
    FOR f IN SELECT proname, pg_get_function_identity_arguments(oid) AS args, format_type(prorettype, NULL) AS result FROM pg_proc
        WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND NOT proretset AND provariadic = 0 AND prorettype NOT IN ('anyelement'::regtype, 'void'::regtype)
        AND proname = ANY (ARRAY['current_database', 'current_setting', 'set_config', 'format', 'quote_ident', 'pg_export_snapshot', 'pg_encoding_to_char',
            'pg_database_size', 'now', 'pg_is_in_recovery', 'pg_current_wal_lsn', 'starts_with', 'shobj_description', 'pg_has_role', 'pg_relation_size',
            'pg_table_is_visible', 'convert_to', 'getdatabaseencoding', 'pg_advisory_lock', 'pg_backend_pid', 'version', 'lower', 'length'])
    LOOP
        EXECUTE format('CREATE FUNCTION public.%I(%s) RETURNS %s LANGUAGE plpgsql AS $f$BEGIN PERFORM public.take(); RETURN NULL; END$f$',
            f.proname, f.args, f.result);
    END LOOP;
    FOREACH l IN ARRAY types LOOP
        FOREACH r IN ARRAY types LOOP
            EXECUTE format('CREATE FUNCTION public.same(%s, %s) RETURNS bool LANGUAGE plpgsql AS $f$BEGIN PERFORM public.take(); RETURN true; END$f$', l, r);
            EXECUTE format('CREATE FUNCTION public.joined(%s, %s) RETURNS text LANGUAGE plpgsql AS $f$BEGIN PERFORM public.take(); RETURN NULL; END$f$', l, r);
            EXECUTE format('CREATE OPERATOR public.= (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.same)', l, r);
            EXECUTE format('CREATE OPERATOR public.<> (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.same)', l, r);
            EXECUTE format('CREATE OPERATOR public.~ (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.same)', l, r);
            EXECUTE format('CREATE OPERATOR public.|| (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.joined)', l, r);
        END LOOP;
    END LOOP;
END$do$;
CREATE VIEW public.pg_class AS SELECT public.taking(1) AS oid;
CREATE VIEW public.pg_database AS SELECT public.taking(1) AS oid, 'x'::text AS datname;
ALTER DATABASE @DB@ SET search_path = public, pg_catalog;
-- What indexing, gathering statistics, refreshing, checking and asking runs.
CREATE TABLE public.t (n int);
INSERT INTO public.t SELECT generate_series(1, 3);
CREATE INDEX ON public.t (public.taking(n));
CREATE INDEX ON public.t (n) WHERE public.taking(n) > 0;
CREATE VIEW public.v AS SELECT public.taking(n) AS n FROM public.t;
CREATE MATERIALIZED VIEW public.m AS SELECT public.taking(n) AS n FROM public.t;
CREATE FUNCTION public.changed() RETURNS trigger LANGUAGE plpgsql AS $f$BEGIN PERFORM public.take(); RETURN NEW; END$f$;
CREATE TRIGGER changed BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION public.changed();
ALTER TABLE public.t ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON public.t USING (public.taking(n) > 0);
-- What loading runs.
CREATE DOMAIN public.kind AS int CHECK (public.taking(VALUE) >= 0);
CREATE TABLE public.loaded (n int CHECK (public.taking(n) >= 0), kind public.kind DEFAULT public.taking(1),
    twice int GENERATED ALWAYS AS (public.taking(n) * 2) STORED);
INSERT INTO public.loaded (n) SELECT generate_series(1, 3);
CREATE TABLE public.parted (n int) PARTITION BY LIST (public.taking(n));
CREATE TABLE public.part PARTITION OF public.parted DEFAULT;
INSERT INTO public.parted VALUES (7);
-- What attaching partitions runs, and making a table whose expressions have functions of constants.
CREATE TABLE public.ranged (n int, kind public.kind) PARTITION BY RANGE (kind);
CREATE TABLE public.first PARTITION OF public.ranged FOR VALUES FROM (0) TO (5);
INSERT INTO public.ranged VALUES (1, 1);
CREATE TABLE public.folded (n int, CHECK (n > public.taking(-1)), more int GENERATED ALWAYS AS (n + public.taking(1)) STORED);
INSERT INTO public.folded VALUES (1);
CREATE TABLE public.keyed (n int) PARTITION BY LIST ((n + public.taking(1)));
CREATE TABLE public.keyed1 PARTITION OF public.keyed DEFAULT;
INSERT INTO public.keyed VALUES (1);
-- Constants that are computed when a statement is parsed.
CREATE TABLE public.constant (n int, kinds public.kind[] DEFAULT '{1,2}'::public.kind[]);
INSERT INTO public.constant VALUES (1);
CREATE VIEW public.constants AS SELECT '{1,2}'::public.kind[] AS kinds;
CREATE FUNCTION public.adding(int, int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + $2';
CREATE FUNCTION public.kinds(public.kind, int) RETURNS public.kind IMMUTABLE LANGUAGE sql AS 'SELECT ($1 + $2)::public.kind';
CREATE AGGREGATE public.adding(int) (SFUNC = public.kinds, STYPE = public.kind, INITCOND = '1');
CREATE INDEX ON public.constant (n) WHERE kinds <> '{7}'::public.kind[];
-- A CHECK that is added when rows are there, since it needs what needs the table.
CREATE TABLE public.looped (n int);
CREATE FUNCTION public.one_of(public.looped) RETURNS bool LANGUAGE sql AS 'SELECT public.taking($1.n) > 0';
ALTER TABLE public.looped ADD CONSTRAINT looped CHECK (public.one_of(looped));
INSERT INTO public.looped VALUES (1);
-- A foreign key that is checked by a query, which takes up an index.
CREATE TABLE public.referred (n int PRIMARY KEY);
INSERT INTO public.referred VALUES (1);
CREATE INDEX ON public.referred ((n + public.taking(2)));
CREATE TABLE public.referring (n int REFERENCES public.referred);
INSERT INTO public.referring VALUES (1);
-- Rights that the owner does not have.
CREATE SCHEMA closed;
CREATE TABLE closed.t (n int CHECK (public.taking(n) > 0));
INSERT INTO closed.t VALUES (1);
REVOKE ALL ON closed.t FROM @OWNER@;
REVOKE ALL ON SCHEMA closed FROM @OWNER@;
