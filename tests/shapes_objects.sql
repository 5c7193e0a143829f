-- What is beside tables: large objects, extensions, grants. The roles inv_owner, inv_app and "inv Rôle/=""x""" are there.

-- shape: large objects with owners, grants and comments
SELECT lo_from_bytea(70001, ''), lo_from_bytea(70002, decode(repeat('00ff5c', 40000), 'hex')), lo_from_bytea(70003, '\x27'), lo_create(70004);
COMMENT ON LARGE OBJECT 70002 IS E'big; ''\\'; GRANT SELECT ON LARGE OBJECT 70002 TO PUBLIC;
ALTER LARGE OBJECT 70003 OWNER TO inv_owner; GRANT UPDATE ON LARGE OBJECT 70003 TO inv_app WITH GRANT OPTION;
SELECT lo_create(4294967295); CREATE TABLE t (o oid); INSERT INTO t VALUES (70001), (4294967295);

-- shape: extensions in other schemas
CREATE EXTENSION citext; CREATE TABLE c (name citext UNIQUE); INSERT INTO c VALUES ('Ä');
CREATE EXTENSION hstore SCHEMA pg_catalog; CREATE TABLE h (v hstore); INSERT INTO h VALUES ('"a;\"" => "\\", b => NULL');
CREATE TABLE of_it (id int); ALTER EXTENSION citext ADD TABLE of_it; ALTER EXTENSION citext DROP TABLE of_it;
CREATE INDEX c_i ON c (name); ALTER INDEX c_i DEPENDS ON EXTENSION citext;
GRANT EXECUTE ON FUNCTION citext_eq(citext, citext) TO inv_app; REVOKE EXECUTE ON FUNCTION citext_ne(citext, citext) FROM PUBLIC;

-- shape: owners, grants and default privileges
CREATE TABLE all_of_it (a int, "b;" text); GRANT ALL ON all_of_it TO inv_app; GRANT ALL ON all_of_it TO "inv Rôle/=""x""" WITH GRANT OPTION;
CREATE TABLE of_owner (a int); ALTER TABLE of_owner OWNER TO inv_owner; REVOKE ALL ON of_owner FROM inv_owner;
CREATE TABLE single (a int, b int); GRANT SELECT (a), UPDATE (b) ON single TO inv_app; GRANT MAINTAIN ON single TO inv_app;  -- 17+
CREATE TABLE single (a int, b int); GRANT SELECT (a), UPDATE (b) ON single TO inv_app;  -- -16
CREATE TABLE nobody (a int); REVOKE ALL ON nobody FROM postgres; GRANT SELECT ON nobody TO PUBLIC;
CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; REVOKE ALL ON FUNCTION f() FROM PUBLIC; GRANT EXECUTE ON FUNCTION f() TO inv_app;
ALTER DEFAULT PRIVILEGES FOR ROLE inv_owner GRANT ALL ON TABLES TO inv_app;
ALTER DEFAULT PRIVILEGES FOR ROLE inv_owner REVOKE ALL ON FUNCTIONS FROM PUBLIC;
REVOKE ALL ON SCHEMA public FROM PUBLIC; GRANT USAGE, CREATE ON SCHEMA public TO inv_app; COMMENT ON SCHEMA public IS 'ours; now';
CREATE VIEW seen AS SELECT 1 AS x; GRANT SELECT (x) ON seen TO inv_app WITH GRANT OPTION;
CREATE PUBLICATION every FOR ALL TABLES; CREATE TABLE pub (a int PRIMARY KEY); CREATE PUBLICATION "so;me" FOR TABLE pub;

-- shape: foreign servers and their passwords
CREATE FOREIGN DATA WRAPPER wrapper OPTIONS (debug 'tr''ue'); CREATE SERVER "far; away" FOREIGN DATA WRAPPER wrapper OPTIONS (host E'h\\');
CREATE USER MAPPING FOR inv_app SERVER "far; away" OPTIONS (password E'ca''na\\ry');
CREATE FOREIGN TABLE remote (a int OPTIONS (column_name 'b;') NOT NULL) SERVER "far; away" OPTIONS (table_name E'\\');
