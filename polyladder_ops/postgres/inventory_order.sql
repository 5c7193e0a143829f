-- Tables that inherit, but are no partitions, and their parents: (oid, name, columns, parents in their order). See queries.py.
WITH RECURSIVE heirs AS (
    SELECT c.oid FROM pg_catalog.pg_class c
    WHERE c.relkind IN ('r', 'f') AND NOT c.relispartition
      AND EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid)
    UNION
    SELECT i.inhparent FROM heirs h JOIN pg_catalog.pg_inherits i ON i.inhrelid = h.oid
)
SELECT c.oid::int8, pg_catalog.format('%I.%I', s.nspname, c.relname),
    (SELECT coalesce(pg_catalog.array_agg(pg_catalog.quote_ident(a.attname) ORDER BY a.attnum), '{}') FROM pg_catalog.pg_attribute a
     WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
    (SELECT coalesce(pg_catalog.array_agg(i.inhparent::int8 ORDER BY i.inhseqno), '{}') FROM pg_catalog.pg_inherits i
     WHERE i.inhrelid = c.oid)
FROM heirs h
JOIN pg_catalog.pg_class c ON c.oid = h.oid
JOIN pg_catalog.pg_namespace s ON s.oid = c.relnamespace
ORDER BY 2
