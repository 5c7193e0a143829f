-- What a server words anew each time, so that a faithful restore reads otherwise; each must come back as equal.

-- shape: checks, defaults and domains that are worded anew
CREATE DOMAIN letter AS varchar(3) DEFAULT 'ab' CHECK (VALUE IN ('ab', 'cd')) CHECK (VALUE <> 'x'::char);
CREATE DOMAIN "odd one" AS letter CHECK (VALUE ~~ 'a%') NOT NULL;
CREATE DOMAIN waiting AS int; ALTER DOMAIN waiting ADD CONSTRAINT late CHECK (VALUE BETWEEN 1 AND 9) NOT VALID;
CREATE TABLE w (a varchar CHECK (a IN ('a', 'b')), b char(5) CHECK (b = ANY ('{x,y}')), l letter CHECK (l IN ('ab')), o "odd one",
    d date DEFAULT '2026-01-01' CHECK (d > '2020-01-01' AND d < CURRENT_DATE + 9), e varchar DEFAULT 'x' || 'y', f float4 DEFAULT 1.5,
    g interval DEFAULT '1 day', i int[] DEFAULT '{1,2}', n numeric(5,2) DEFAULT 1, t timestamptz DEFAULT '2026-01-01 12:00+02',
    s text GENERATED ALWAYS AS (a || '-' || b) STORED, "we;ird" bool DEFAULT (1 IN (1, 2)),
    CHECK (CASE WHEN a LIKE 'b%' THEN true ELSE b NOT IN ('q', 'r') END), CHECK ((a, b) IS DISTINCT FROM ('c'::varchar, 'd'::char)),
    CHECK (w.* IS NOT NULL) NO INHERIT);
CREATE TABLE v (a varchar, t text GENERATED ALWAYS AS (a || 'x') VIRTUAL);  -- 18+
CREATE TABLE wchild (own varchar DEFAULT 'z' CHECK (own IN ('z'))) INHERITS (w); ALTER TABLE wchild ALTER a SET DEFAULT 'b';
INSERT INTO w (a, b, l, o) VALUES ('a', 'x', 'ab', 'ab');

-- shape: indexes and statistics over expressions
CREATE TABLE t (a varchar(9), b char(5), c int, d jsonb, p point, r int4range);
CREATE INDEX partial ON t (c) WHERE a IN ('x', 'y') AND b <> 'z';
CREATE UNIQUE INDEX over ON t USING btree ((a || b) varchar_pattern_ops DESC, c NULLS FIRST, lower(a) COLLATE "C") INCLUDE (d) WITH (fillfactor = 70) WHERE a <> '';
CREATE UNIQUE INDEX "nulls;" ON t ((c + 1)) NULLS NOT DISTINCT;  -- 15+
CREATE INDEX "j s" ON t USING gin ((d -> 'x') jsonb_path_ops); CREATE INDEX ON t USING gist (p) WHERE (a::text = 'q'::text);
CREATE INDEX whole ON t ((t IS NULL));
ALTER TABLE t ADD CONSTRAINT apart EXCLUDE USING gist (r WITH &&, (p) WITH ~=) WHERE (a IN ('x', 'y')) DEFERRABLE;
CREATE STATISTICS stat (ndistinct) ON c, a FROM t;
CREATE STATISTICS over_stat ON (a || 'x'), (c % 3) FROM t;  -- 14+
CREATE MATERIALIZED VIEW m AS SELECT a, b FROM t WHERE a IN ('x', 'y'); CREATE INDEX of_m ON m ((a || b));
INSERT INTO t VALUES ('x', 'y', 1, '{}', '(1,2)', '[1,2)');

-- shape: inheritance with indexes and statistics of columns that move
CREATE TABLE heir (z int, b char(5), a varchar(9)); CREATE TABLE base (a varchar(9), b char(5)); ALTER TABLE heir INHERIT base;
CREATE STATISTICS of_heir ON z, a, b FROM heir; CREATE INDEX of_heir_i ON heir (b, a, z) WHERE a IN ('x', 'y');

-- shape: policies, rules and triggers with conditions
CREATE TABLE t (a varchar, b char(5), c int); CREATE TABLE log (a text, b text);
CREATE POLICY "p;" ON t USING (a IN ('x', 'y')) WITH CHECK (b <> 'z' AND c IN (SELECT length(log.a) FROM log));
CREATE POLICY only_check ON t FOR INSERT WITH CHECK (a = ANY ('{q,r}')); ALTER TABLE t ENABLE ROW LEVEL SECURITY;
CREATE RULE kept AS ON DELETE TO t WHERE OLD.a IN ('x', 'y') DO INSTEAD INSERT INTO log VALUES (OLD.a, OLD.b);
CREATE RULE "second;" AS ON UPDATE TO t DO ALSO (INSERT INTO log SELECT NEW.a, t.b FROM t WHERE t.c = NEW.c; DELETE FROM log WHERE log.a IN ('z'));
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER "when;" BEFORE UPDATE OF a, b ON t FOR EACH ROW WHEN (NEW.a IN ('x', 'y') OR OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION touch('TRIGGER "when;" ');
CREATE CONSTRAINT TRIGGER later AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.b <> 'z') EXECUTE FUNCTION touch();
CREATE TABLE p (a varchar, k int) PARTITION BY LIST (k); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
CREATE TRIGGER on_all AFTER INSERT ON p FOR EACH ROW WHEN (NEW.a IN ('x', 'y')) EXECUTE FUNCTION touch(); ALTER TABLE p1 DISABLE TRIGGER on_all;

-- shape: views over tables that changed since
CREATE TABLE t (a int, gone int, b varchar, c char(4)); CREATE TABLE u (a int, b varchar, gone text, d date);
CREATE VIEW plain AS SELECT a, b AS "B;" FROM t WHERE b IN ('x', 'y');
CREATE VIEW joined AS SELECT s.a, s.b, s.c, q.d, z.b AS zb FROM (SELECT a, b, c FROM t) s JOIN (SELECT a, d FROM u) q USING (a) LEFT JOIN u z ON z.a = s.a AND z.d > '2026-01-01' ORDER BY s.b COLLATE "C", 2 DESC;
CREATE VIEW whole AS SELECT t, t.* FROM t; CREATE VIEW unioned AS SELECT a, b::text FROM t UNION ALL SELECT a, 'x' FROM u;
CREATE VIEW windows AS WITH q AS (SELECT a, row_number() OVER w AS n FROM t WINDOW w AS (PARTITION BY b ORDER BY a)) SELECT q.a, q.n, (SELECT max(d) FROM u WHERE u.a = q.a) FROM q;
CREATE VIEW checked WITH (security_barrier) AS SELECT a, b FROM t WHERE c NOT IN ('p', 'q') WITH CASCADED CHECK OPTION; ALTER VIEW checked ALTER b SET DEFAULT 'nobody';
CREATE VIEW full_join AS SELECT a, b, c, d FROM t FULL JOIN u USING (a, b); CREATE VIEW lateral_one AS SELECT t.a, x.y FROM t, LATERAL (SELECT u.d AS y FROM u WHERE u.a = t.a) x;
CREATE MATERIALIZED VIEW made AS SELECT t.a, count(*) FILTER (WHERE u.b IN ('x')) AS n FROM t LEFT JOIN u ON t.a = u.a GROUP BY t.a;
ALTER TABLE t RENAME a TO "new a"; ALTER TABLE u RENAME TO renamed; ALTER VIEW plain RENAME a TO other;
CREATE VIEW over_dropped AS SELECT x.b FROM renamed x; ALTER TABLE renamed ADD later int;

-- shape: functions whose defaults and statements are worded anew
CREATE TABLE t (a varchar, b int);
CREATE FUNCTION f(a varchar DEFAULT 'x' || 'y', b date DEFAULT '2026-01-01', VARIADIC c int[] DEFAULT '{1}') RETURNS SETOF t
    LANGUAGE sql STABLE STRICT SECURITY DEFINER COST 7 ROWS 3 PARALLEL SAFE SET search_path TO pg_catalog, public SET work_mem = '4MB' AS 'SELECT NULL::varchar, 1';
CREATE PROCEDURE p(a int, INOUT b text DEFAULT NULL) LANGUAGE plpgsql AS 'BEGIN b := 1; END';
CREATE FUNCTION atomic(x varchar) RETURNS bool LANGUAGE sql BEGIN ATOMIC INSERT INTO t VALUES (x, 1); SELECT a IN ('x', 'y') FROM t WHERE t.b = length(x); END;  -- 14+
CREATE FUNCTION gives(x varchar DEFAULT 'q') RETURNS bool LANGUAGE sql IMMUTABLE RETURN x IN ('x', 'y');  -- 14+

-- shape: partitions with keys and bounds that are worded anew
CREATE TABLE r (a varchar, d timestamptz, n int) PARTITION BY RANGE (lower(a), d, (n % 10));
CREATE TABLE r1 PARTITION OF r FOR VALUES FROM ('a', '2026-01-01', MINVALUE) TO ('m', '2026-01-02 00:00+02', 5);
CREATE TABLE r2 PARTITION OF r FOR VALUES FROM ('m', '2026-02-01', 0) TO (MAXVALUE, MAXVALUE, MAXVALUE) PARTITION BY LIST ((a || 'x'));
CREATE TABLE r3 PARTITION OF r2 FOR VALUES IN ('zx', NULL); CREATE TABLE r4 PARTITION OF r2 DEFAULT;
CREATE TABLE h (a char(4) CHECK (a IN ('x', 'y')), b int DEFAULT 1 + 1) PARTITION BY HASH (b, (a || 'q'));
CREATE TABLE h0 PARTITION OF h FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE INDEX of_r ON r ((a || 'x')) WHERE a IN ('x', 'y'); CREATE TABLE money_like (m numeric(8,2)) PARTITION BY LIST (m);
CREATE TABLE money_1 PARTITION OF money_like FOR VALUES IN (1, 2.5); CREATE PUBLICATION "rows;" FOR TABLE h WHERE (a IN ('x', 'y')) WITH (publish = 'insert', publish_via_partition_root = true);  -- 15+
CREATE TABLE money_1 PARTITION OF money_like FOR VALUES IN (1, 2.5);  -- -14
