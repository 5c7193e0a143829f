-- One of every kind of object, in the shapes that get lost. Lines marked `-- 15+` are for those majors (queries.for_server).
-- The roles inv_owner, inv_app and "inv Rôle/=""x""" are there already.
SET search_path = public;
CREATE EXTENSION pg_trgm;
CREATE EXTENSION citext;
GRANT EXECUTE ON FUNCTION similarity(text, text) TO inv_app;
REVOKE EXECUTE ON FUNCTION show_limit() FROM PUBLIC;
REVOKE SELECT ON pg_catalog.pg_settings FROM PUBLIC;
GRANT SELECT (rolname) ON pg_catalog.pg_authid TO inv_app;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO inv_app WITH GRANT OPTION;
CREATE SCHEMA inv AUTHORIZATION inv_owner;
GRANT USAGE, CREATE ON SCHEMA inv TO inv_app, "inv Rôle/=""x""";
CREATE SCHEMA "ünï ""cö\de";
COMMENT ON SCHEMA inv IS E'two\nlines of ''comment''';
SET search_path = inv, public;

CREATE TYPE mood AS ENUM ('sad', 'it''s ok', 'ünhappy');
ALTER TYPE mood ADD VALUE 'first' BEFORE 'sad';
REVOKE USAGE ON TYPE mood FROM PUBLIC;
CREATE TYPE pair AS (x int, "Y" text COLLATE "C", gone int, z numeric(4, 1));
ALTER TYPE pair DROP ATTRIBUTE gone;
COMMENT ON COLUMN pair."Y" IS 'an attribute';
CREATE DOMAIN percent AS int DEFAULT 5 CONSTRAINT low CHECK (VALUE >= 0) CONSTRAINT high CHECK (VALUE <= 100) NOT NULL;
COMMENT ON CONSTRAINT low ON DOMAIN percent IS 'not below';
CREATE TYPE span AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE TYPE word AS RANGE (subtype = text, collation = "C", multirange_type_name = words);  -- 14+
CREATE TYPE hollow;
CREATE TYPE num;
CREATE FUNCTION num_in(cstring) RETURNS num LANGUAGE internal IMMUTABLE STRICT AS 'int4in';
CREATE FUNCTION num_out(num) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'int4out';
CREATE TYPE num (INPUT = num_in, OUTPUT = num_out, INTERNALLENGTH = 4, PASSEDBYVALUE, ALIGNMENT = int4, DEFAULT = '7');
ALTER TYPE num OWNER TO inv_owner;
CREATE CAST (num AS int) WITHOUT FUNCTION AS ASSIGNMENT;
COMMENT ON CAST (num AS int) IS 'same bits';

CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN RETURN NEW; END $f$;
CREATE FUNCTION slug(t text, VARIADIC more mood[] DEFAULT '{sad}') RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = inv, public SET work_mem = '1MB' AS $f$ SELECT lower(t) $f$;
REVOKE EXECUTE ON FUNCTION slug(text, mood[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION slug(text, mood[]) TO inv_app;
COMMENT ON FUNCTION slug(text, mood[]) IS 'slugs';
CREATE FUNCTION slug(t text) RETURNS text LANGUAGE sql IMMUTABLE AS $f$ SELECT lower(t) $f$;
CREATE FUNCTION atomic(a int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT a + 1; END;  -- 14+
CREATE FUNCTION nth(anyelement) RETURNS anyelement LANGUAGE internal WINDOW IMMUTABLE AS 'window_first_value';
CREATE PROCEDURE "Proc;dure"(INOUT a int) LANGUAGE plpgsql SECURITY DEFINER AS $f$ BEGIN a := 1; END $f$;
ALTER PROCEDURE "Proc;dure"(int) OWNER TO inv_owner;
CREATE AGGREGATE total(int ORDER BY int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
CREATE AGGREGATE summed(int) (SFUNC = int4pl, STYPE = int, COMBINEFUNC = int4pl, MSFUNC = int4pl, MINVFUNC = int4mi,
    MSTYPE = int, PARALLEL = SAFE);
CREATE FUNCTION num_eq(num, num) RETURNS bool LANGUAGE internal IMMUTABLE STRICT AS 'int4eq';
CREATE FUNCTION num_lt(num, num) RETURNS bool LANGUAGE internal IMMUTABLE STRICT AS 'int4lt';
CREATE FUNCTION num_gt(num, num) RETURNS bool LANGUAGE internal IMMUTABLE STRICT AS 'int4gt';
CREATE FUNCTION num_cmp(num, num) RETURNS int LANGUAGE internal IMMUTABLE STRICT AS 'btint4cmp';
CREATE OPERATOR === (FUNCTION = num_eq, LEFTARG = num, RIGHTARG = num, COMMUTATOR = ===, RESTRICT = eqsel, HASHES, MERGES);
CREATE OPERATOR <<< (FUNCTION = num_lt, LEFTARG = num, RIGHTARG = num, COMMUTATOR = >>>);
CREATE OPERATOR >>> (FUNCTION = num_gt, LEFTARG = num, RIGHTARG = num, COMMUTATOR = <<<);
CREATE OPERATOR FAMILY num_family USING btree;
CREATE OPERATOR CLASS num_ops DEFAULT FOR TYPE num USING btree FAMILY num_family AS
    OPERATOR 1 <<<, OPERATOR 3 ===, OPERATOR 5 >>>, FUNCTION 1 num_cmp(num, num);
ALTER OPERATOR FAMILY num_family USING btree ADD OPERATOR 1 <(int, int), FUNCTION 1 (int, int) btint4cmp(int, int);
COMMENT ON OPERATOR CLASS num_ops USING btree IS 'ordered';
CREATE COLLATION "de sort" (LOCALE = 'C');
CREATE CONVERSION conv FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8;
CREATE TEXT SEARCH PARSER prs (START = prsd_start, GETTOKEN = prsd_nexttoken, END = prsd_end, LEXTYPES = prsd_lextype);
CREATE TEXT SEARCH TEMPLATE tmpl (INIT = dsimple_init, LEXIZE = dsimple_lexize);
CREATE TEXT SEARCH DICTIONARY dict (TEMPLATE = tmpl, accept = false);
CREATE TEXT SEARCH CONFIGURATION conf (PARSER = prs);
ALTER TEXT SEARCH CONFIGURATION conf ADD MAPPING FOR asciiword, word WITH dict, simple;
ALTER TEXT SEARCH CONFIGURATION conf OWNER TO inv_owner;
CREATE FUNCTION calls() RETURNS language_handler LANGUAGE c AS '$libdir/plpgsql', 'plpgsql_call_handler';
CREATE TRUSTED LANGUAGE "Ω lang" HANDLER calls;
GRANT USAGE ON LANGUAGE "Ω lang" TO inv_app WITH GRANT OPTION;
REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC;
CREATE TRANSFORM FOR int LANGUAGE sql (FROM SQL WITH FUNCTION prsd_lextype(internal), TO SQL WITH FUNCTION int4recv(internal));
CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler;

CREATE SEQUENCE counter AS smallint START 5 INCREMENT BY 3 MAXVALUE 300 CYCLE CACHE 2;
GRANT USAGE ON SEQUENCE counter TO inv_app;
CREATE TABLE people (
    id serial PRIMARY KEY, gone1 int, email text NOT NULL DEFAULT 'x''y', key uuid, always int GENERATED ALWAYS AS IDENTITY,
    maybe int GENERATED BY DEFAULT AS IDENTITY (START 100 INCREMENT 10), mood mood DEFAULT 'sad', share percent,
    slugged text GENERATED ALWAYS AS (lower(email)) STORED, tags text[] COLLATE "C", born timestamptz DEFAULT '2020-01-01 00:00Z',
    doubled int GENERATED ALWAYS AS (maybe * 2) VIRTUAL,  -- 18+
    "we ird
col" int CONSTRAINT "ch""eck" CHECK ("we ird
col" > 0), n num, price money DEFAULT 3.5, CONSTRAINT kept UNIQUE (email, id) DEFERRABLE INITIALLY DEFERRED
) WITH (fillfactor = 70, autovacuum_enabled = false, toast.autovacuum_enabled = false);
ALTER TABLE people DROP COLUMN gone1;
ALTER TABLE people ALTER email SET STORAGE EXTERNAL, ALTER email SET STATISTICS 77, ALTER email SET (n_distinct = 5);
ALTER TABLE people ALTER slugged SET COMPRESSION pglz;  -- 14+
ALTER TABLE people OWNER TO inv_owner;
ALTER TABLE people ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY, REPLICA IDENTITY USING INDEX people_pkey;
ALTER TABLE people CLUSTER ON people_pkey;
GRANT SELECT, INSERT ON people TO inv_app WITH GRANT OPTION;
GRANT UPDATE (email, "we ird
col"), SELECT (id) ON people TO "inv Rôle/=""x""";
SET ROLE inv_owner;
GRANT ALL ON people TO "inv Rôle/=""x""";
RESET ROLE;
COMMENT ON TABLE people IS 'people';
COMMENT ON COLUMN people.email IS 'where they read';
COMMENT ON CONSTRAINT kept ON people IS 'a constraint';
COMMENT ON INDEX kept IS 'an index';
CREATE POLICY "own; rows" ON people AS RESTRICTIVE FOR SELECT TO inv_app, "inv Rôle/=""x""" USING (email = current_user);
CREATE POLICY everybody ON people WITH CHECK (id > 0);
COMMENT ON POLICY everybody ON people IS 'all';
CREATE INDEX people_expr ON people (lower(email), id DESC NULLS LAST) INCLUDE (mood) WHERE id > 0;
ALTER INDEX people_expr ALTER COLUMN 1 SET STATISTICS 333;
CREATE INDEX people_trgm ON people USING gin (email gin_trgm_ops);
CREATE UNIQUE INDEX people_null ON people (key) NULLS NOT DISTINCT;  -- 15+
ALTER INDEX people_expr DEPENDS ON EXTENSION pg_trgm;
CREATE STATISTICS people_stat (ndistinct, mcv) ON mood, id FROM people;
ALTER STATISTICS people_stat SET STATISTICS 50;
CREATE STATISTICS people_expr_stat ON lower(email) FROM people;  -- 14+
CREATE TRIGGER stamp BEFORE UPDATE OF email ON people FOR EACH ROW WHEN (OLD.id > 0) EXECUTE FUNCTION touch('a''b');
ALTER TABLE people DISABLE TRIGGER stamp;
COMMENT ON TRIGGER stamp ON people IS 'stamps';
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON people DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION touch();
ALTER TABLE people ENABLE ALWAYS TRIGGER late;
CREATE RULE refuse AS ON DELETE TO people DO INSTEAD NOTHING;
COMMENT ON RULE refuse ON people IS 'stays';
CREATE TABLE circle_a (id int PRIMARY KEY, b int);
CREATE TABLE circle_b (id int PRIMARY KEY, a int REFERENCES circle_a ON DELETE CASCADE);
ALTER TABLE circle_a ADD CONSTRAINT to_b FOREIGN KEY (b) REFERENCES circle_b NOT VALID;
ALTER TABLE circle_a ADD CONSTRAINT hoped CHECK (id > 0) NOT ENFORCED;  -- 18+
ALTER TABLE circle_a ADD CONSTRAINT b_there NOT NULL b NOT VALID;  -- 18+
COMMENT ON CONSTRAINT b_there ON circle_a IS 'soon';  -- 18+
CREATE UNLOGGED TABLE "ünlogged" (id serial, x int);
CREATE TABLE second_am (id int) USING heap2;
CREATE TABLE typed OF pair (x PRIMARY KEY, "Y" WITH OPTIONS DEFAULT 'y');
CREATE TABLE late_null (a text NOT NULL, b int);
ALTER TABLE late_null RENAME TO renamed;
CREATE TABLE "Very long name of a table, quite near the limit of names" (a_rather_long_column int NOT NULL);
CREATE TABLE excluded (during int4range, EXCLUDE USING gist (during WITH &&));
CREATE TABLE parent_one (id int NOT NULL, note text CHECK (note <> ''));
CREATE TABLE parent_two (id int NOT NULL, other int);
CREATE TABLE child (own int DEFAULT 3, id int) INHERITS (parent_one, parent_two);
ALTER TABLE child ALTER other SET DEFAULT 9;
CREATE TABLE measures (id int GENERATED ALWAYS AS IDENTITY, at date NOT NULL, kind mood, v int CHECK (v > 0),  -- 17+
CREATE TABLE measures (id int, at date NOT NULL, kind mood, v int CHECK (v > 0),  -- -16
    PRIMARY KEY (id, at), FOREIGN KEY (id) REFERENCES circle_a) PARTITION BY RANGE (at);
CREATE TABLE measures_20 PARTITION OF measures FOR VALUES FROM ('2020-01-01') TO ('2021-01-01') PARTITION BY LIST (id);
CREATE TABLE measures_20_few PARTITION OF measures_20 FOR VALUES IN (1, 2);
CREATE TABLE measures_rest PARTITION OF measures DEFAULT;
CREATE TABLE measures_21 (v int, junk int, at date NOT NULL, kind mood, id int NOT NULL);
ALTER TABLE measures_21 DROP COLUMN junk;
ALTER TABLE measures_21 ADD CONSTRAINT measures_v_check CHECK (v > 0);
ALTER TABLE measures ATTACH PARTITION measures_21 FOR VALUES FROM ('2021-01-01') TO (MAXVALUE);
CREATE INDEX measures_kind ON measures (kind, (v + 1));
ALTER INDEX measures_rest_kind_expr_idx RENAME TO "index of rest";
CREATE INDEX measures_half ON ONLY measures (at);
CREATE TRIGGER on_all AFTER INSERT ON measures FOR EACH ROW EXECUTE FUNCTION touch();
ALTER TABLE measures_rest DISABLE TRIGGER on_all;
CREATE TABLE refers (m int, at date, FOREIGN KEY (m, at) REFERENCES measures);
CREATE TABLE hashed (k mood) PARTITION BY HASH (k);
CREATE TABLE hashed_0 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0) WITH (fillfactor = 50);
CREATE TABLE hashed_1 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1);
-- What a faithful restore renders otherwise: casts in the check, columns of the child in another order.
CREATE TABLE reworded (s varchar CHECK (s IN ('a', 'b')));
CREATE TABLE base (a int);
CREATE TABLE grown (own int) INHERITS (base);
ALTER TABLE base ADD later int;
CREATE VIEW seen WITH (security_barrier) AS SELECT id, email FROM people WHERE mood = 'sad' WITH LOCAL CHECK OPTION;
CREATE VIEW seen_again AS SELECT s.*, count(*) OVER () AS n FROM seen s;
ALTER VIEW seen ALTER email SET DEFAULT 'nobody';
COMMENT ON COLUMN seen.email IS 'a view''s column';
CREATE RULE changed AS ON UPDATE TO seen_again DO INSTEAD (NOTIFY a; NOTIFY b);
CREATE VIEW invoked WITH (security_invoker = true) AS SELECT 1 AS one;  -- 15+
CREATE MATERIALIZED VIEW filled AS SELECT id, mood FROM people;
CREATE UNIQUE INDEX filled_id ON filled (id);
CREATE MATERIALIZED VIEW hollow_view AS SELECT 1 AS a WITH NO DATA;
ALTER MATERIALIZED VIEW filled ALTER mood SET STATISTICS 10;
GRANT SELECT ON filled TO inv_app;
CREATE FOREIGN DATA WRAPPER wrapper OPTIONS (debug 'tr''ue');
CREATE SERVER "far away" TYPE 'x' VERSION '1' FOREIGN DATA WRAPPER wrapper OPTIONS (host 'h', dbname 'd');
GRANT USAGE ON FOREIGN SERVER "far away" TO inv_app;
CREATE USER MAPPING FOR inv_app SERVER "far away" OPTIONS (user 'u', password 'canary-mapping');
CREATE USER MAPPING FOR PUBLIC SERVER "far away";
CREATE FOREIGN TABLE remote (a int OPTIONS (column_name 'b') NOT NULL, c text) SERVER "far away" OPTIONS (table_name 't');
CREATE PUBLICATION every FOR ALL TABLES WITH (publish = 'insert');
CREATE PUBLICATION "some" FOR TABLE circle_a, ONLY parent_one WITH (publish_via_partition_root = true);
CREATE PUBLICATION picked FOR TABLE people (id, email) WHERE (id > 5);  -- 15+
CREATE PUBLICATION by_schema FOR TABLES IN SCHEMA public, inv;  -- 15+
CREATE SUBSCRIPTION sub CONNECTION 'host=localhost password=canary-subscription' PUBLICATION b, a WITH (connect = false, slot_name = NONE);
COMMENT ON SUBSCRIPTION sub IS 'at rest';
CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS $f$ BEGIN END $f$;
CREATE EVENT TRIGGER watching ON ddl_command_end WHEN TAG IN ('DROP TABLE', 'ALTER TABLE') EXECUTE FUNCTION watch();
ALTER EVENT TRIGGER watching DISABLE;
ALTER DEFAULT PRIVILEGES FOR ROLE inv_owner IN SCHEMA inv GRANT SELECT ON TABLES TO inv_app WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES FOR ROLE inv_owner GRANT ALL ON TABLES TO inv_app;
ALTER DEFAULT PRIVILEGES FOR ROLE inv_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE inv_owner GRANT USAGE ON SEQUENCES TO "inv Rôle/=""x""";
CREATE TABLE "ünï ""cö\de"."new
line; DROP" ("ta	b" int CONSTRAINT "con
straint" PRIMARY KEY);
COMMENT ON TABLE "ünï ""cö\de"."new
line; DROP" IS E'a\ttab,\na \\backslash and ''quotes'' in €';
SELECT lo_create(4711), lo_create(2200);
ALTER LARGE OBJECT 4711 OWNER TO inv_owner;
GRANT SELECT ON LARGE OBJECT 4711 TO inv_app;
COMMENT ON LARGE OBJECT 2200 IS 'low oid';
RESET search_path;
