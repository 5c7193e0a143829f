-- Every database of the server as its properties. See queries.py.
SELECT d.datname, d.datname = pg_catalog.current_database(), pg_catalog.pg_get_userbyid(d.datdba), pg_catalog.pg_encoding_to_char(d.encoding)::text,
    d.datcollate, d.datctype,
    CASE d.datlocprovider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END,  -- 15+
    'libc',  -- -14
    coalesce(d.datlocale, ''),  -- 17+
    coalesce(d.daticulocale, ''),  -- 15-16
    '',  -- -14
    coalesce(d.daticurules, ''),  -- 16+
    '',  -- -15
    coalesce(d.datcollversion, ''),  -- 15+
    '',  -- -14
    t.spcname, d.datconnlimit, d.datistemplate,
    coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))::text[],
    coalesce(pg_catalog.shobj_description(d.oid, 'pg_database'), ''),
    (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(
                coalesce(r.rolname, ''), pg_catalog.split_part(c.item, '=', 1),
                pg_catalog.substr(c.item, pg_catalog.strpos(c.item, '=') + 1)))
     FROM pg_catalog.pg_db_role_setting s
     CROSS JOIN pg_catalog.unnest(s.setconfig) c (item)
     LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
     WHERE s.setdatabase = d.oid)::text,
    (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(l.provider, l.label))
     FROM pg_catalog.pg_shseclabel l
     WHERE l.classoid = 'pg_database'::regclass AND l.objoid = d.oid)::text
FROM pg_catalog.pg_database d
JOIN pg_catalog.pg_tablespace t ON t.oid = d.dattablespace
