-- Every role but the server's own, without passwords. See queries.py.
SELECT r.rolname, r.rolsuper, r.rolinherit, r.rolcreaterole, r.rolcreatedb, r.rolcanlogin, r.rolreplication,
    r.rolbypassrls, r.rolconnlimit, coalesce(r.rolvaliduntil::text, ''),
    (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(
                pg_catalog.split_part(c.item, '=', 1),
                pg_catalog.substr(c.item, pg_catalog.strpos(c.item, '=') + 1)))
     FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) c (item)
     WHERE s.setrole = r.oid AND s.setdatabase = 0)::text,
    coalesce(pg_catalog.shobj_description(r.oid, 'pg_authid'), ''),
    (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(
                pg_catalog.pg_get_userbyid(m.roleid), m.admin_option,
                m.inherit_option, m.set_option,  -- 16+
                NULL, NULL,  -- -15
                pg_catalog.pg_get_userbyid(m.grantor)))
     FROM pg_catalog.pg_auth_members m WHERE m.member = r.oid)::text,
    -- What the first superuser owns is noted nowhere.
    r.oid < 16384 OR EXISTS (
        SELECT FROM pg_catalog.pg_shdepend s JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database()
        WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = r.oid
          AND (s.dbid = d.oid OR s.classid = 'pg_database'::regclass AND s.objid = d.oid))
FROM pg_catalog.pg_roles r
-- Logins that a run of ours made for itself are nobody's: see databases.temporary_name.
WHERE r.rolname !~ '^pg_' AND r.rolname !~ '^polyladder_[a-z]+_[0-9a-f]{16}$'
