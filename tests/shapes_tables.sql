-- Tables, types, constraints: what the server rewords, reorders or moves when a dump comes back.

-- shape: keys in a circle
CREATE TABLE a (id int PRIMARY KEY, b int); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a);
INSERT INTO a VALUES (1, 1), (2, 2); INSERT INTO b VALUES (1, 2), (2, 1); ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b;
CREATE TABLE self (id int PRIMARY KEY, up int REFERENCES self DEFERRABLE INITIALLY DEFERRED); INSERT INTO self VALUES (1, 2), (2, 1);
CREATE TABLE later (id int UNIQUE DEFERRABLE INITIALLY DEFERRED, CONSTRAINT "other;" UNIQUE (id) DEFERRABLE);
INSERT INTO later VALUES (2), (1);

-- shape: inheritance with another order of columns
CREATE TABLE parent (x int, y text); CREATE TABLE child (z int, y text, x int); ALTER TABLE child INHERIT parent;
INSERT INTO parent VALUES (1, 'p'); INSERT INTO child VALUES (3, 'c', 2);
ALTER TABLE parent ADD w int DEFAULT 4, ADD CHECK (x > 0), ADD CHECK (x < 99) NO INHERIT;
CREATE TABLE second (u int, y text); CREATE TABLE both_of (own int) INHERITS (second, parent);
INSERT INTO both_of (own, y, x) VALUES (1, 'b', 5);
ALTER TABLE child ALTER w SET DEFAULT 5, ALTER y SET NOT NULL;

-- shape: checks that are reworded and constraints that wait
CREATE TABLE k (s varchar(9) CHECK (s IN ('a', 'b')), c char(3) CHECK (c = ANY ('{x,y}')),
                CONSTRAINT late CHECK (length(s) > 0) NOT VALID);
INSERT INTO k VALUES ('a', 'x');
CREATE TABLE lost (id int, s varchar DEFAULT 'v', CHECK (id BETWEEN 1 AND 5 AND s NOT LIKE '%;'));
INSERT INTO lost VALUES (1);
CREATE TABLE target (id int PRIMARY KEY); ALTER TABLE lost ADD CONSTRAINT to_target FOREIGN KEY (id) REFERENCES target NOT VALID;
CREATE TABLE hoped (id int, CONSTRAINT not_yet CHECK (id > 0) NOT ENFORCED); INSERT INTO hoped VALUES (-1);  -- 18+
ALTER TABLE hoped ADD CONSTRAINT named NOT NULL id NO INHERIT;  -- 18+
CREATE TABLE nulls (a int, UNIQUE NULLS NOT DISTINCT (a)); INSERT INTO nulls VALUES (NULL), (1);  -- 15+

-- shape: exclusion constraints, ranges, domains, composite types
CREATE EXTENSION btree_gist;
CREATE TYPE pair AS (x int, "y z" text[]);
CREATE DOMAIN percent AS int DEFAULT 5 NOT NULL CHECK (VALUE BETWEEN 0 AND 100);
CREATE DOMAIN pairs AS pair[] CHECK (cardinality(VALUE) < 9);
CREATE TYPE floats AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE TYPE mood AS ENUM ('b', 'it''s', 'ü'); ALTER TYPE mood ADD VALUE 'a' BEFORE 'b';
CREATE TABLE t (id int, during tsrange, share percent, few pairs, f floats, m mood[], alone pair,
    EXCLUDE USING gist (id WITH =, during WITH &&) WHERE (id > 0) DEFERRABLE,
    CONSTRAINT "no overlap" EXCLUDE USING gist (f WITH &&));
INSERT INTO t VALUES (1, '[2026-01-01,2026-01-02)', 7, ARRAY[ROW(1, '{a,"b c"}')::pair], '[1.5,2)', '{b,"it''s"}', ROW(NULL, NULL)),
    (1, '[2026-01-02,)', DEFAULT, '{}', 'empty', NULL, ROW(2, ARRAY[E'\\', '"', ','])), (-1, NULL, 0, NULL, NULL, '{ü}', NULL);
CREATE TABLE temporal (id int, at tsrange, PRIMARY KEY (id, at WITHOUT OVERLAPS));  -- 18+
INSERT INTO temporal VALUES (1, '[2026-01-01,2026-01-02)'), (1, '[2026-01-02,2026-01-03)');  -- 18+

-- shape: partitions, hashed by an enum and attached in another order
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TABLE h (m mood, note text) PARTITION BY HASH (m);
CREATE TABLE h0 PARTITION OF h FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE h1 (note text, gone int, m mood); ALTER TABLE h1 DROP COLUMN gone;
ALTER TABLE h ATTACH PARTITION h1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO h SELECT (enum_range(NULL::mood))[1 + g % 3], E'n\t' || g FROM generate_series(1, 300) g;
CREATE TABLE l (k int) PARTITION BY LIST (k); CREATE TABLE l1 PARTITION OF l FOR VALUES IN (1, NULL);
CREATE TABLE ld PARTITION OF l DEFAULT PARTITION BY RANGE (k);
CREATE TABLE ld1 PARTITION OF ld FOR VALUES FROM (2) TO (100); INSERT INTO l VALUES (1), (NULL), (50);
CREATE TABLE empty_root (a int, b int) PARTITION BY RANGE (a, (b + 1));
CREATE TABLE text_hashed (t text, g int GENERATED ALWAYS AS (length(t)) STORED, PRIMARY KEY (t)) PARTITION BY HASH (t);
CREATE TABLE text_hashed_0 PARTITION OF text_hashed FOR VALUES WITH (MODULUS 1, REMAINDER 0);
INSERT INTO text_hashed VALUES ('a'), ('b'); CREATE TABLE refers (t text REFERENCES text_hashed); INSERT INTO refers VALUES ('a');

-- shape: forced row security, unlogged rows, typed tables, other storage
CREATE UNLOGGED TABLE u AS SELECT g FROM generate_series(1, 50) g;
CREATE TABLE s (id int); ALTER TABLE s ENABLE ROW LEVEL SECURITY; ALTER TABLE s FORCE ROW LEVEL SECURITY;
CREATE POLICY only_one ON s USING (id = 1); INSERT INTO s VALUES (1), (2);
CREATE TYPE ty AS (a int, b text); CREATE TABLE typed OF ty (a PRIMARY KEY); INSERT INTO typed VALUES (1, 'x');
CREATE TABLE st (a text STORAGE EXTERNAL, b text) WITH (fillfactor = 50); INSERT INTO st VALUES (repeat('x', 100000), repeat('y', 9));  -- 16+
CREATE TABLE clustered (id int); CREATE INDEX clustered_i ON clustered (id); ALTER TABLE clustered CLUSTER ON clustered_i;
INSERT INTO clustered SELECT 100 - g FROM generate_series(1, 99) g; CLUSTER clustered;
ALTER TABLE clustered REPLICA IDENTITY FULL; CREATE STATISTICS stat ON id, (id + 1) FROM clustered;  -- 14+
ALTER TABLE u DISABLE TRIGGER ALL; ALTER TABLE u SET (autovacuum_enabled = off);
