-- Tables that are extracted one by one, and what each of them needs.

CREATE EXTENSION pg_trgm WITH SCHEMA public;
CREATE EXTENSION btree_gist WITH SCHEMA public;
CREATE SCHEMA "Odd Schema";
CREATE TYPE public.mood AS ENUM ('fine', '"bad"', 'it''s');
CREATE DOMAIN public.grade AS integer CHECK (VALUE BETWEEN 1 AND 6);
CREATE COLLATION public.bytes (PROVIDER = libc, LOCALE = 'C');
CREATE FUNCTION public.helper(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN lower(t); END';
CREATE FUNCTION public.folded(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE SET search_path = public
    AS $$ BEGIN RETURN helper(t); END $$;  -- a call without schema
CREATE FUNCTION public.for_index(t text) RETURNS text LANGUAGE sql IMMUTABLE RETURN public.helper(t);
CREATE FUNCTION public.strange() RETURNS text LANGUAGE sql IMMUTABLE RETURN 'nobody needs it';
CREATE SEQUENCE public.shared START 100;
CREATE SEQUENCE public.lonely;
SELECT nextval('public.shared'), nextval('public.lonely');
CREATE TABLE "Odd Schema"."Odd ""Na""me" (
    id serial PRIMARY KEY, mood public.mood, grade public.grade, "a.b" text COLLATE public.bytes,
    folded text GENERATED ALWAYS AS (public.folded("a.b")) STORED,
    number bigint DEFAULT nextval('public.shared'), i bigint GENERATED ALWAYS AS IDENTITY (START 7));
CREATE INDEX odd_index ON "Odd Schema"."Odd ""Na""me" (public.for_index("a.b"));
COMMENT ON COLUMN "Odd Schema"."Odd ""Na""me".mood IS 'how it went';
INSERT INTO "Odd Schema"."Odd ""Na""me" (mood, grade, "a.b")
    SELECT 'it''s', 1 + n % 6, E'Tab\tund\\Ü' || n FROM generate_series(1, 50) n;
CREATE TABLE public."users; Type: TABLE DATA; Schema: public; Owner: x" (a integer);
INSERT INTO public."users; Type: TABLE DATA; Schema: public; Owner: x" VALUES (1), (2);
CREATE TABLE public.empty (a integer CHECK (a > 0));
CREATE TABLE public.parent (id integer PRIMARY KEY, said text);
INSERT INTO public.parent VALUES (1, 'parent');
CREATE TABLE public.child (more integer) INHERITS (public.parent);
INSERT INTO public.child VALUES (2, 'child', 3);
CREATE TABLE public.book (id integer PRIMARY KEY, title text);
CREATE INDEX book_title ON public.book USING gin (title public.gin_trgm_ops);
CREATE TABLE public.page (book integer REFERENCES public.book, number integer, owner integer REFERENCES public.parent,
    EXCLUDE USING gist (book WITH =, number WITH =));
INSERT INTO public.book SELECT n, repeat(md5(n::text), 20) FROM generate_series(1, 5000) n;
INSERT INTO public.page SELECT n, n, 1 FROM generate_series(1, 300) n;
CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER note BEFORE INSERT ON public.page FOR EACH ROW EXECUTE FUNCTION public.note();
CREATE VIEW public.titles AS SELECT title FROM public.book;
CREATE TABLE public.by_year (id integer, year integer, PRIMARY KEY (id, year)) PARTITION BY RANGE (year);
CREATE TABLE public.older PARTITION OF public.by_year FOR VALUES FROM (1) TO (2000);
CREATE TABLE public.newer PARTITION OF public.by_year FOR VALUES FROM (2000) TO (3000) PARTITION BY LIST (id);
CREATE TABLE public.newer_all PARTITION OF public.newer DEFAULT;
INSERT INTO public.by_year SELECT n, 1950 + n FROM generate_series(1, 100) n;
CREATE TABLE public.by_mood (mood public.mood, n integer) PARTITION BY HASH (mood);
CREATE TABLE public.mood_0 PARTITION OF public.by_mood FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE public.mood_1 PARTITION OF public.by_mood FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO public.by_mood SELECT (enum_range(NULL::public.mood))[1 + n % 3], n FROM generate_series(1, 30) n;
CREATE TABLE "Odd Schema".book (id integer);
CREATE MATERIALIZED VIEW public.counted AS SELECT count(*) FROM public.book;
DO $$ DECLARE r record; BEGIN
    FOR r IN SELECT oid::regclass AS name FROM pg_class WHERE relkind IN ('r', 'p') AND oid >= 16384
             AND relnamespace IN ('public'::regnamespace, '"Odd Schema"'::regnamespace)
    LOOP EXECUTE format('ALTER TABLE %s OWNER TO extract_owner', r.name); END LOOP;
END $$;
GRANT SELECT ON public.parent TO PUBLIC;
CREATE TABLE public.computed (a integer GENERATED ALWAYS AS (1) STORED);
INSERT INTO public.computed DEFAULT VALUES;
CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler;
CREATE TABLE public.elsewhere (a integer) USING heap2;
