-- Databases of which pg_dump loses something, piece by piece, for test_not_included.py: a piece is its name, with the majors that
-- it is for if not all, its statements (one a line: CREATE INDEX CONCURRENTLY wants to be alone), and the sentences for it; one
-- without sentences is kept.

-- what they need
CREATE TABLE public.key (id int PRIMARY KEY, a int);
COMMENT ON TABLE public.key IS 'x'; COMMENT ON COLUMN public.key.id IS 'x'; COMMENT ON CONSTRAINT key_pkey ON public.key IS 'x';
COMMENT ON EXTENSION plpgsql IS 'PL/pgSQL procedural language';
CREATE TYPE public.pair AS (a int); COMMENT ON TYPE public.pair IS 'x'; GRANT USAGE ON TYPE public.pair TO lost_role;
CREATE INDEX spare ON public.key (a); CREATE TEMPORARY TABLE gone (a int); CREATE UNLOGGED TABLE public.fleeting (a int);
GRANT EXECUTE ON FUNCTION pg_catalog.pg_sleep(float8) TO lost_role; GRANT SELECT ON pg_catalog.pg_authid TO lost_role;
REVOKE EXECUTE ON FUNCTION pg_catalog.pg_backend_pid() FROM PUBLIC;
CREATE FUNCTION public.noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TABLE public.root (id int, k int REFERENCES public.key, CONSTRAINT positive CHECK (k > 0)) PARTITION BY LIST (id);
CREATE TABLE public.leaf PARTITION OF public.root FOR VALUES IN (1);
CREATE TRIGGER noted AFTER INSERT ON public.root FOR EACH ROW EXECUTE FUNCTION public.noted();
CREATE VIEW public.borrowed AS SELECT 1 AS a; CREATE TABLE public.member (id int, word text); CREATE EXTENSION hstore SCHEMA public; ALTER EXTENSION hstore ADD VIEW public.borrowed; ALTER EXTENSION hstore ADD TABLE public.member;

-- rows
CREATE TABLE information_schema.kept (a int);
INSERT INTO information_schema.kept VALUES (1), (2);
--> the table information_schema.kept with its rows, since pg_dump leaves that schema out

-- no rows
CREATE TABLE information_schema.empty (a int);
--> the table information_schema.empty, since pg_dump leaves that schema out

-- view
CREATE VIEW information_schema.seen AS SELECT 1 AS a;
--> the view information_schema.seen, since pg_dump leaves that schema out

-- sequence
CREATE SEQUENCE information_schema.counted;
--> the sequence information_schema.counted, since pg_dump leaves that schema out

-- function
CREATE FUNCTION pg_catalog.added(int) RETURNS int LANGUAGE sql AS 'SELECT $1';
--> the function pg_catalog.added(integer), since pg_dump leaves that schema out

-- type
CREATE TYPE pg_catalog.mood AS ENUM ('well');
--> the type pg_catalog.mood, since pg_dump leaves that schema out

-- operator
CREATE OPERATOR pg_catalog.### (LEFTARG = int, RIGHTARG = int, FUNCTION = int4pl);
--> the operator pg_catalog.###(integer,integer), since pg_dump leaves that schema out

-- search
CREATE TEXT SEARCH CONFIGURATION pg_catalog.mine (COPY = pg_catalog.english);
--> the text search configuration pg_catalog.mine, since pg_dump leaves that schema out

-- collation
CREATE COLLATION pg_catalog.mine FROM "C";
--> the collation pg_catalog.mine, since pg_dump leaves that schema out

-- schema
SET allow_system_table_mods = on;
CREATE SCHEMA pg_mine;
RESET allow_system_table_mods;
CREATE TABLE pg_mine.t (a int);
--> the schema pg_mine, since pg_dump leaves those out that begin with pg_
--> the table pg_mine.t, since pg_dump leaves that schema out

-- row type
COMMENT ON TYPE public.key IS 'x';
GRANT USAGE ON TYPE public.key TO lost_role;
--> the comment on the type public.key
--> the privileges on the row type of public.key

-- schema public (13-14)
COMMENT ON SCHEMA public IS 'x';
ALTER SCHEMA public OWNER TO lost_role;
--> the comment on the schema public
--> the owner of the schema public

-- array
CREATE TYPE public.hue AS ENUM ('red');
COMMENT ON TYPE public._hue IS 'x';
--> the comment on the type public.hue[]

-- range
CREATE TYPE public.span AS RANGE (subtype = int4);
COMMENT ON FUNCTION public.span(int, int) IS 'x';
ALTER FUNCTION public.span(int, int, text) COST 7;
--> the comment on the function public.span(integer,integer)
--> what was changed on the function public.span(integer,integer,pg_catalog.text), which comes with its range type

-- multirange (14+)
CREATE TYPE public.wide AS RANGE (subtype = int4);
COMMENT ON TYPE public.wide_multirange IS 'x';
--> the comment on the type public.wide_multirange

-- multirange's own owner and privileges (14-16)
CREATE TYPE public.vast AS RANGE (subtype = int4);
ALTER TYPE public.vast_multirange OWNER TO lost_role;
GRANT USAGE ON TYPE public.vast_multirange TO lost_role;
--> the owner of the type public.vast_multirange
--> the privileges of the type public.vast_multirange

-- trigger of a partition
COMMENT ON TRIGGER noted ON public.leaf IS 'x';
--> the comment on the trigger noted on public.leaf

-- key of a partition
COMMENT ON CONSTRAINT root_k_fkey ON public.leaf IS 'x';
--> the comment on the table constraint root_k_fkey on public.leaf

-- name of a partition's key
CREATE TABLE public.named (id int, k int CONSTRAINT mine REFERENCES public.key, CONSTRAINT positive CHECK (k > 0));
ALTER TABLE public.root ATTACH PARTITION public.named FOR VALUES IN (2);
CREATE TABLE public.chosen (id int, k int REFERENCES public.key, CONSTRAINT positive CHECK (k > 0));
ALTER TABLE public.root ATTACH PARTITION public.chosen FOR VALUES IN (3);
CREATE TABLE public.taken (id int, k int, CONSTRAINT positive CHECK (k > 0), CONSTRAINT root_k_fkey CHECK (k < 9));
ALTER TABLE public.root ATTACH PARTITION public.taken FOR VALUES IN (4);
--> the name of the constraint mine on public.named

-- renamed key of a partition of a partition
CREATE TABLE public.branch PARTITION OF public.root FOR VALUES IN (5) PARTITION BY LIST (k);
CREATE TABLE public.twig PARTITION OF public.branch FOR VALUES IN (1);
ALTER TABLE public.twig RENAME CONSTRAINT root_k_fkey TO renamed;
--> the name of the constraint renamed on public.twig

-- validated key of a partition (18+)
ALTER TABLE public.root ADD CONSTRAINT awaited FOREIGN KEY (id) REFERENCES public.key NOT VALID;
ALTER TABLE public.leaf VALIDATE CONSTRAINT awaited;
--> that the constraint awaited on public.leaf is validated

-- validated check of a child
CREATE TABLE public.loose (a int);
CREATE TABLE public.strict () INHERITS (public.loose);
CREATE TABLE public.own (CONSTRAINT doubted CHECK (a > 0)) INHERITS (public.loose);
ALTER TABLE public.loose ADD CONSTRAINT doubted CHECK (a > 0) NOT VALID;
ALTER TABLE public.strict VALIDATE CONSTRAINT doubted;
ALTER TABLE public.root ADD CONSTRAINT doubted CHECK (id < 99) NOT VALID;
ALTER TABLE public.leaf VALIDATE CONSTRAINT doubted;
--> that the constraint doubted on public.strict is validated

-- renamed trigger of a partition (13-14)
CREATE TABLE public.other PARTITION OF public.root FOR VALUES IN (6);
ALTER TRIGGER noted ON public.other RENAME TO renamed;
--> the name of the trigger renamed on public.other

-- check of a partition
COMMENT ON CONSTRAINT positive ON public.leaf IS 'x';
--> the comment on the table constraint positive on public.leaf

-- inherited check
CREATE TABLE public.parent (a int CONSTRAINT lowest CHECK (a > 0));
CREATE TABLE public.child () INHERITS (public.parent);
COMMENT ON CONSTRAINT lowest ON public.child IS 'x';
--> the comment on the table constraint lowest on public.child

-- constraint trigger
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON public.key FOR EACH ROW EXECUTE FUNCTION public.noted();
COMMENT ON CONSTRAINT late ON public.key IS 'x';
--> the comment on the table constraint late on public.key

-- not null of a domain (17+)
CREATE DOMAIN public.always AS int CONSTRAINT there NOT NULL;
COMMENT ON CONSTRAINT there ON DOMAIN public.always IS 'x';

-- query of a view
CREATE VIEW public.seen AS SELECT 1 AS a;
COMMENT ON RULE "_RETURN" ON public.seen IS 'x';
--> the comment on the rule "_RETURN" on public.seen

-- foreign key off
CREATE TABLE public.off (id int CONSTRAINT held REFERENCES public.key);
ALTER TABLE public.off DISABLE TRIGGER ALL;
--> that triggers of the constraint held on public.off are switched off on public.off

-- key off
CREATE TABLE public.late (id int CONSTRAINT one UNIQUE DEFERRABLE);
ALTER TABLE public.late DISABLE TRIGGER ALL;
--> that triggers of the constraint one on public.late are switched off on public.late

-- invalid index
CREATE TABLE public.twice AS SELECT 1 AS a UNION ALL SELECT 1;
CREATE UNIQUE INDEX CONCURRENTLY broken ON public.twice (a);
--> the index public.broken, which is not valid

-- added to an extension
CREATE TABLE public.important (id int PRIMARY KEY DEFAULT 7);
INSERT INTO public.important VALUES (1);
CREATE FUNCTION public.price(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2';
CREATE SEQUENCE public.counter;
ALTER EXTENSION hstore ADD TABLE public.important;
ALTER EXTENSION hstore ADD FUNCTION public.price(int);
ALTER EXTENSION hstore ADD SEQUENCE public.counter;
ALTER TABLE public.important SET (fillfactor = 50);
ALTER FUNCTION public.price(int) COST 7;
--> the table public.important, which was added to the extension hstore
--> the rows of public.important, which belongs to an extension
--> the function public.price(integer), which was added to the extension hstore
--> the sequence public.counter, which was added to the extension hstore

-- rows of a member
INSERT INTO public.member VALUES (1, 'x');
--> the rows of public.member, which belongs to an extension

-- view of an extension
CREATE EXTENSION pg_stat_statements SCHEMA public;
ALTER VIEW public.pg_stat_statements SET (security_barrier);
--> what was changed on the view public.pg_stat_statements, which belongs to the extension pg_stat_statements

-- operator of an extension
ALTER OPERATOR public.? (public.hstore, text) SET (RESTRICT = NONE);
CREATE OPERATOR public.@@@@ (LEFTARG = public.hstore, RIGHTARG = public.hstore, FUNCTION = public.hs_contained, NEGATOR = OPERATOR(public.?&));
--> what was changed on the operator public.?(public.hstore,pg_catalog.text), which belongs to the extension hstore

-- operator class of an extension
ALTER OPERATOR CLASS public.gin_hstore_ops USING gin OWNER TO lost_role;
ALTER OPERATOR FAMILY public.gist_hstore_ops USING gist OWNER TO lost_role;
--> what was changed on the operator class public.gin_hstore_ops USING gin, which belongs to the extension hstore
--> what was changed on the operator family public.gist_hstore_ops USING gist, which belongs to the extension hstore

-- event trigger of an extension
CREATE FUNCTION public.woken() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER waking ON sql_drop EXECUTE FUNCTION public.woken(); CREATE EXTENSION lo SCHEMA public; ALTER EXTENSION lo ADD EVENT TRIGGER waking;
ALTER EVENT TRIGGER waking DISABLE;
--> what was changed on the event trigger waking, which belongs to the extension lo

-- foreign data of an extension
CREATE EXTENSION file_fdw SCHEMA public; CREATE SERVER near FOREIGN DATA WRAPPER file_fdw; ALTER EXTENSION file_fdw ADD SERVER near;
ALTER FOREIGN DATA WRAPPER file_fdw NO VALIDATOR;
ALTER SERVER near OPTIONS (ADD x '1');
--> what was changed on the foreign-data wrapper file_fdw, which belongs to the extension file_fdw
--> what was changed on the server near, which belongs to the extension file_fdw

-- trigger on a member
CREATE TRIGGER hung AFTER INSERT ON public.member FOR EACH ROW EXECUTE FUNCTION public.noted();
--> the trigger hung on public.member, on what belongs to the extension hstore

-- index on a member
CREATE INDEX hung_index ON public.member (id);
--> the index public.hung_index, on what belongs to the extension hstore

-- rule on a member
CREATE RULE hung_rule AS ON DELETE TO public.member DO INSTEAD NOTHING;
--> the rule hung_rule on public.member, on what belongs to the extension hstore

-- policy on a member
CREATE POLICY hung_policy ON public.member USING (true);
--> the policy hung_policy on public.member, on what belongs to the extension hstore

-- check on a member
ALTER TABLE public.member ADD CONSTRAINT hung_check CHECK (id > 0);
--> the table constraint hung_check on public.member, on what belongs to the extension hstore

-- column of a member
ALTER TABLE public.member ADD COLUMN more int DEFAULT 7;
--> the default value for public.member.more, on what belongs to the extension hstore
--> what was changed on the table column public.member.more, which belongs to the extension hstore

-- statistics on a member
CREATE STATISTICS public.hung_statistics ON id, word FROM public.member;
--> the statistics object public.hung_statistics, on what belongs to the extension hstore

-- comment on a member
COMMENT ON TABLE public.member IS 'x';
COMMENT ON FUNCTION public.akeys(public.hstore) IS 'x';
--> the comment on the table public.member, which belongs to the extension hstore
--> the comment on the function public.akeys(public.hstore), which belongs to the extension hstore

-- function of an extension
ALTER FUNCTION public.avals(public.hstore) COST 99;
--> what was changed on the function public.avals(public.hstore), which belongs to the extension hstore

-- owner of a member
ALTER VIEW public.borrowed OWNER TO lost_role;
--> that lost_role owns public.borrowed, which belongs to the extension hstore
--> what was changed on the view public.borrowed, which belongs to the extension hstore

-- sequence of a member
CREATE SEQUENCE public.lent OWNED BY public.member.id;
--> that the sequence public.lent belongs to a column of public.member, which belongs to an extension

-- publication of a member (13-17)
CREATE PUBLICATION told FOR TABLE public.member;
--> the table public.member in the publication told, since the table belongs to an extension

-- server of an extension
CREATE EXTENSION postgres_fdw SCHEMA public; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw; ALTER EXTENSION postgres_fdw ADD SERVER far;
CREATE USER MAPPING FOR PUBLIC SERVER far OPTIONS (password 'canary');
--> the user mapping for public on server far, which belongs to an extension

-- member of a family
CREATE FUNCTION public.like_it(int, text) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR public.=== (LEFTARG = int, RIGHTARG = text, FUNCTION = public.like_it);
ALTER OPERATOR FAMILY pg_catalog.integer_ops USING btree ADD OPERATOR 3 public.=== (int, text);
--> the member operator 3 (integer, pg_catalog.text) of pg_catalog.integer_ops USING btree, on what belongs to the system

-- function of the system
ALTER FUNCTION pg_catalog.lower(text) COST 7;
COMMENT ON FUNCTION pg_catalog.upper(text) IS 'x';
--> what was changed on the function pg_catalog.lower(pg_catalog.text), which belongs to the system
--> the comment on the function pg_catalog.upper(pg_catalog.text), which belongs to the system

-- operator of the system
ALTER OPERATOR pg_catalog.&& (anyarray, anyarray) SET (RESTRICT = NONE);
CREATE OPERATOR public.#!# (LEFTARG = text, RIGHTARG = text, FUNCTION = texteq, NEGATOR = OPERATOR(pg_catalog.^@));
--> what was changed on the operator pg_catalog.&&(pg_catalog.anyarray,pg_catalog.anyarray), which belongs to the system

-- search of the system
ALTER TEXT SEARCH CONFIGURATION pg_catalog.german ALTER MAPPING FOR word WITH simple;
ALTER TEXT SEARCH DICTIONARY pg_catalog.german_stem (stopwords = '');
--> what was changed on the text search configuration pg_catalog.german, which belongs to the system
--> what was changed on the text search dictionary pg_catalog.german_stem, which belongs to the system

-- trigger on a view of the system
CREATE TRIGGER hung INSTEAD OF INSERT ON information_schema.tables FOR EACH ROW EXECUTE FUNCTION public.noted();
--> what was changed on the view information_schema.tables, which belongs to the system
--> the trigger hung on information_schema.tables, on what belongs to the system

-- privileges in information_schema
REVOKE SELECT ON information_schema.views FROM PUBLIC;
REVOKE USAGE ON SCHEMA information_schema FROM PUBLIC;
--> what was changed on the view information_schema.views, which belongs to the system
--> what was changed on the schema information_schema, which belongs to the system

-- language
REVOKE USAGE ON LANGUAGE sql FROM PUBLIC;
--> what was changed on the language sql, which belongs to the system
