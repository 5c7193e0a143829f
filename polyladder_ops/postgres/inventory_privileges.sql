-- Privileges that were changed on what is not the user's own: members of extensions, and the system's objects as far as
-- pg_dump keeps them (not information_schema, no languages without a handler). Columns: (kind, name, owner, column, acl,
-- acl at birth). See queries.py.
SELECT i.type, i.identity, pg_catalog.pg_get_userbyid(o.owner), coalesce(pg_catalog.quote_ident(o.part), ''),
    coalesce(o.acl, pg_catalog.acldefault(o.letter::"char", o.owner))::text[],
    coalesce(p.initprivs, pg_catalog.acldefault(o.letter::"char", o.owner))::text[]
FROM (
    SELECT 'pg_class'::regclass, c.oid, 0, NULL::name, c.relacl, CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END, c.relowner, c.relnamespace
    FROM pg_catalog.pg_class c WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
    UNION ALL
    SELECT 'pg_class'::regclass, c.oid, a.attnum, a.attname, a.attacl, 'c', c.relowner, c.relnamespace
    FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
    WHERE NOT a.attisdropped AND (a.attacl IS NOT NULL OR EXISTS (
        SELECT FROM pg_catalog.pg_init_privs p
        WHERE p.classoid = 'pg_class'::regclass AND p.objoid = a.attrelid AND p.objsubid = a.attnum))
    UNION ALL
    SELECT 'pg_proc'::regclass, oid, 0, NULL, proacl, 'f', proowner, pronamespace FROM pg_catalog.pg_proc
    UNION ALL
    SELECT 'pg_type'::regclass, oid, 0, NULL, typacl, 'T', typowner, typnamespace FROM pg_catalog.pg_type WHERE typelem = 0
    UNION ALL
    SELECT 'pg_namespace'::regclass, oid, 0, NULL, nspacl, 'n', nspowner, oid FROM pg_catalog.pg_namespace
    UNION ALL
    SELECT 'pg_language'::regclass, oid, 0, NULL, lanacl, 'l', lanowner, 0 FROM pg_catalog.pg_language WHERE lanispl
    UNION ALL
    SELECT 'pg_foreign_data_wrapper'::regclass, oid, 0, NULL, fdwacl, 'F', fdwowner, 0 FROM pg_catalog.pg_foreign_data_wrapper
    UNION ALL
    SELECT 'pg_foreign_server'::regclass, oid, 0, NULL, srvacl, 'S', srvowner, 0 FROM pg_catalog.pg_foreign_server
) o (class, oid, subid, part, acl, letter, owner, namespace)
LEFT JOIN pg_catalog.pg_init_privs p ON p.classoid = o.class AND p.objoid = o.oid AND p.objsubid = o.subid
LEFT JOIN pg_catalog.pg_namespace s ON s.oid = o.namespace
CROSS JOIN LATERAL pg_catalog.pg_identify_object(o.class, o.oid, 0) i
WHERE o.acl IS DISTINCT FROM p.initprivs
  AND (o.oid < 16384 AND s.nspname IS DISTINCT FROM 'public' AND (s.nspname = 'pg_catalog' OR s.oid IS NULL) OR NOT $own(o.class, o.oid))
