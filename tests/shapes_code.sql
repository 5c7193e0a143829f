-- Code and names: where a reader of SQL loses its way.

-- shape: code that hides semicolons
CREATE TABLE t (id int);
CREATE FUNCTION f(x int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT CASE WHEN x > 0 THEN 1 ELSE 2 END; END;  -- 14+
CREATE FUNCTION f2() RETURNS SETOF t LANGUAGE sql BEGIN ATOMIC INSERT INTO t VALUES (1); SELECT id AS "begin" FROM t; SELECT CASE 1 WHEN 2 THEN (SELECT CASE WHEN true THEN 3 END) END; END;  -- 14+
CREATE FUNCTION "begin"() RETURNS int LANGUAGE sql RETURN 1;  -- 14+
CREATE PROCEDURE p() LANGUAGE sql BEGIN ATOMIC INSERT INTO t VALUES (1); INSERT INTO t VALUES (2); END;  -- 14+
CREATE PROCEDURE nothing() LANGUAGE sql BEGIN ATOMIC END;  -- 14+
CREATE FUNCTION g() RETURNS text LANGUAGE plpgsql AS $a$ BEGIN RETURN $b$ ; $$ ' $b$; /* /* ; */ */ END $a$;
CREATE FUNCTION inner_tags() RETURNS text LANGUAGE sql AS $x$ SELECT $_$ a $__$ b $$ c $$ $__$ $_$ $x$;
CREATE FUNCTION tags2() RETURNS text LANGUAGE sql AS $x$ SELECT $_$ $$ $_X$ $_XX$ $_XXX$ ' \ $_$::text; -- '
$x$;
CREATE FUNCTION copies() RETURNS text LANGUAGE sql AS $x$ SELECT '
COPY public.t (id) FROM stdin;
1
\.
--
-- PostgreSQL database dump complete
--
' $x$;
CREATE FUNCTION comments(a text DEFAULT E'/* \\'' ; --', b text DEFAULT '$a$') RETURNS text LANGUAGE sql AS E'SELECT 1 -- ;\n /* a /* b; */ '' */ ';
CREATE RULE r AS ON INSERT TO t DO ALSO (SELECT 1; SELECT 2);
CREATE RULE r2 AS ON UPDATE TO t WHERE OLD.id > 5 DO INSTEAD (DELETE FROM t WHERE id = OLD.id; INSERT INTO t VALUES (NEW.id)); CREATE RULE r3 AS ON DELETE TO t DO ALSO (NOTIFY "a;b"; SELECT E'\\;');
CREATE VIEW v AS SELECT E'a\\''; b' AS "c;d", $$;$$ AS e, U&'\0061\\' AS f, E'\n' || 'x' AS g, '/*' AS h, '--' AS i;
CREATE VIEW w WITH (security_barrier) AS WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 5) SELECT x, 'a' || x "it's" FROM n WINDOW q AS (ORDER BY x);
INSERT INTO t VALUES (1);

-- shape: materialized views with data, without, and on each other
CREATE TABLE t (id int); INSERT INTO t VALUES (3), (1), (2);
CREATE MATERIALIZED VIEW full_one AS SELECT id FROM t ORDER BY id; CREATE UNIQUE INDEX full_one_id ON full_one (id);
CREATE MATERIALIZED VIEW aaa_first AS SELECT count(*) AS n FROM full_one;
CREATE MATERIALIZED VIEW empty_one AS SELECT * FROM full_one WITH NO DATA;
CREATE MATERIALIZED VIEW stale AS SELECT * FROM t; INSERT INTO t VALUES (4);
CREATE VIEW over_it AS SELECT * FROM stale; CREATE MATERIALIZED VIEW over_view AS SELECT * FROM over_it;
CREATE FUNCTION sees() RETURNS bigint LANGUAGE sql AS 'SELECT 5::bigint'; CREATE MATERIALIZED VIEW by_function AS SELECT sees();

-- shape: event triggers and triggers
CREATE TABLE log (at text);
CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$ BEGIN INSERT INTO log VALUES (tg_tag); END $$;
CREATE EVENT TRIGGER notes ON ddl_command_end WHEN TAG IN ('CREATE AGGREGATE', 'CREATE SERVER') EXECUTE FUNCTION note();
CREATE EVENT TRIGGER never ON sql_drop EXECUTE FUNCTION note(); ALTER EVENT TRIGGER never DISABLE;
CREATE EVENT TRIGGER always ON table_rewrite EXECUTE FUNCTION note(); ALTER EVENT TRIGGER always ENABLE ALWAYS;
CREATE AGGREGATE noted(int) (SFUNC = int4pl, STYPE = int);
CREATE TABLE t (id int);
CREATE FUNCTION twice() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.id := NEW.id * 2; RETURN NEW; END $$;
CREATE TRIGGER "tr;" BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION twice('a;', 'b''c', E'\\');
ALTER TABLE t ENABLE ALWAYS TRIGGER "tr;"; INSERT INTO t VALUES (1);
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION twice();
CREATE TRIGGER whole AFTER UPDATE ON t REFERENCING OLD TABLE AS o NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION twice();

-- shape: names that need care
CREATE SCHEMA "a.b";
CREATE TABLE "a.b"."t ""q"" (x, y); --" ("c,1" int, "c""2" int, "select" int, "ü" text);
INSERT INTO "a.b"."t ""q"" (x, y); --" VALUES (1, 2, 3, 'ß');
CREATE SEQUENCE "a.b"."it's a sequence" START 5;
SELECT nextval('"a.b"."it''s a sequence"');
CREATE TABLE "a.b"."line
break" (id int); INSERT INTO "a.b"."line
break" VALUES (1);
CREATE SCHEMA "ünï ""cö\de";
CREATE TABLE "ünï ""cö\de"."\! touch owned
; DROP" ("ta	b" int CONSTRAINT "con
\straint" PRIMARY KEY, " ;--/*" serial, "$$" text DEFAULT '$$');
INSERT INTO "ünï ""cö\de"."\! touch owned
; DROP" ("ta	b") VALUES (7);
CREATE TABLE "an-umlaut-ü-and-sixty-three-bytes-are-the-longest-name-there-is" ("ö23456789012345678901234567890123456789012345678901234567890ab" int PRIMARY KEY);
INSERT INTO "an-umlaut-ü-and-sixty-three-bytes-are-the-longest-name-there-is" VALUES (1);
CREATE TYPE "t y\p""e" AS ENUM ('\', '''', '"', E'\n'); CREATE TABLE "enum\" ("e" "t y\p""e") PARTITION BY HASH ("e");
CREATE TABLE "part\
\! touch owned" PARTITION OF "enum\" FOR VALUES WITH (MODULUS 1, REMAINDER 0); INSERT INTO "enum\" VALUES ('\'), (E'\n');
CREATE FUNCTION "f\;"("in" int, OUT "o;" text) LANGUAGE sql AS 'SELECT ''x''::text';
CREATE SEQUENCE "seq\'""";  SELECT nextval('"seq\''"""');
