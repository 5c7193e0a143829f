-- What pg_dump never writes, in sentences. How this file is read: see queries.py. Columns of every result: whether a person
-- must be told of it after each backup (false: it is missing from every database's dump, and not_included.py is why), sentence.

-- Made by a user in a schema of the system, which pg_dump passes over with all that is in it
SELECT true, pg_catalog.format('the %s %s%s, since pg_dump leaves that schema out', i.type, i.identity,
    CASE WHEN o.kind IN ('r', 'm') AND pg_catalog.pg_relation_size(o.oid) > 0 THEN ' with its rows' END)
FROM (
    SELECT 'pg_class'::regclass, oid, relnamespace, relkind FROM pg_catalog.pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
    UNION ALL
    SELECT 'pg_type'::regclass, t.oid, t.typnamespace, NULL FROM pg_catalog.pg_type t
    LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
    WHERE c.oid IS NULL OR c.relkind = 'c'
    UNION ALL
    SELECT 'pg_proc'::regclass, oid, pronamespace, NULL FROM pg_catalog.pg_proc
    UNION ALL
    SELECT 'pg_operator'::regclass, oid, oprnamespace, NULL FROM pg_catalog.pg_operator WHERE oprcode <> 0
    UNION ALL
    SELECT 'pg_opclass'::regclass, oid, opcnamespace, NULL FROM pg_catalog.pg_opclass
    UNION ALL
    SELECT 'pg_opfamily'::regclass, oid, opfnamespace, NULL FROM pg_catalog.pg_opfamily
    UNION ALL
    SELECT 'pg_collation'::regclass, oid, collnamespace, NULL FROM pg_catalog.pg_collation
    WHERE collname !~ '(-x-icu$|^[a-z]{2,3}(_[A-Z]{2})?([.@]|$))'  -- not what is imported from the machine
    UNION ALL
    SELECT 'pg_conversion'::regclass, oid, connamespace, NULL FROM pg_catalog.pg_conversion
    UNION ALL
    SELECT 'pg_statistic_ext'::regclass, oid, stxnamespace, NULL FROM pg_catalog.pg_statistic_ext
    UNION ALL
    SELECT 'pg_ts_parser'::regclass, oid, prsnamespace, NULL FROM pg_catalog.pg_ts_parser
    UNION ALL
    SELECT 'pg_ts_template'::regclass, oid, tmplnamespace, NULL FROM pg_catalog.pg_ts_template
    UNION ALL
    SELECT 'pg_ts_dict'::regclass, oid, dictnamespace, NULL FROM pg_catalog.pg_ts_dict
    UNION ALL
    SELECT 'pg_ts_config'::regclass, oid, cfgnamespace, NULL FROM pg_catalog.pg_ts_config
) o (class, oid, namespace, kind)
JOIN pg_catalog.pg_namespace s ON s.oid = o.namespace
CROSS JOIN LATERAL pg_catalog.pg_identify_object(o.class, o.oid, 0) i
WHERE o.oid >= 16384 AND NOT $users(s.nspname) AND s.nspname !~ '^pg_(toast_)?temp_'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.classid = o.class AND d.objid = o.oid AND d.deptype IN ('e', 'i'));

SELECT true, pg_catalog.format('the schema %I, since pg_dump leaves those out that begin with pg_', n.nspname)
FROM pg_catalog.pg_namespace n
WHERE n.oid >= 16384 AND n.nspname ~ '^pg_' AND n.nspname !~ '^pg_(toast_)?temp_' AND $own(pg_namespace, n.oid);

-- Comments and labels on what comes with something else: row types, arrays, multiranges, constructors of ranges, what
-- tables inherit or partitions copy, the triggers that are called constraints, the query of a view
SELECT true, pg_catalog.format('the %s on the %s %s', d.what, i.type, i.identity)
FROM (
    SELECT 'comment', classoid, objoid FROM pg_catalog.pg_description
    UNION ALL
    SELECT 'security label of ' || provider, classoid, objoid FROM pg_catalog.pg_seclabel
) d (what, class, oid)
LEFT JOIN pg_catalog.pg_type t ON d.class = 'pg_type'::regclass AND t.oid = d.oid
LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
LEFT JOIN pg_catalog.pg_constraint k ON d.class = 'pg_constraint'::regclass AND k.oid = d.oid
LEFT JOIN pg_catalog.pg_trigger g ON d.class = 'pg_trigger'::regclass AND g.oid = d.oid
LEFT JOIN pg_catalog.pg_trigger root ON root.oid = g.tgparentid
LEFT JOIN pg_catalog.pg_rewrite r ON d.class = 'pg_rewrite'::regclass AND r.oid = d.oid
CROSS JOIN LATERAL pg_catalog.pg_identify_object(d.class, d.oid, 0) i
WHERE d.oid >= 16384 AND (
    c.relkind <> 'c' OR t.typtype = 'm'
    OR EXISTS (SELECT FROM pg_catalog.pg_type e WHERE e.oid = t.typelem AND e.typarray = t.oid)
    OR k.contype = 't' OR k.contype = 'c' AND k.conrelid <> 0 AND NOT k.conislocal OR k.contype = 'f' AND k.conparentid <> 0
    OR root.tgenabled = g.tgenabled  -- where they differ pg_dump writes the copy, too
    OR r.rulename = '_RETURN'
    OR d.class = 'pg_proc'::regclass AND EXISTS (
        SELECT FROM pg_catalog.pg_depend m WHERE m.classid = d.class AND m.objid = d.oid AND m.deptype = 'i'));

SELECT true, s.what  -- -14 (they are kept since)
FROM pg_catalog.pg_namespace n  -- -14
CROSS JOIN LATERAL (VALUES  -- -14
    ('the owner of the schema public', n.nspowner <> 10),  -- -14
    ('the comment on the schema public',  -- -14
     pg_catalog.obj_description(n.oid, 'pg_namespace') IS DISTINCT FROM 'standard public schema')  -- -14
) s (what, lost)  -- -14
WHERE n.nspname = 'public' AND s.lost;  -- -14

SELECT true, pg_catalog.format('the privileges on the row type of %s', t.typrelid::regclass)
FROM pg_catalog.pg_type t
JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
WHERE c.relkind <> 'c' AND t.typacl IS NOT NULL AND t.oid >= 16384;

SELECT true, pg_catalog.format('what was changed on the function %s, which comes with its range type', i.identity)
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'i'
                           AND d.refclassid = 'pg_type'::regclass
CROSS JOIN LATERAL pg_catalog.pg_identify_object('pg_proc'::regclass, p.oid, 0) i
WHERE p.oid >= 16384 AND $later(p.xmin, d.xmin) > 0;

-- Foreign keys and deferrable keys whose own triggers don't fire as usual (DISABLE TRIGGER ALL): they hold again in a copy
SELECT true, pg_catalog.format('that triggers of the constraint %s are %s on %s', i.identity,
    CASE g.tgenabled WHEN 'D' THEN 'switched off' WHEN 'R' THEN 'for replicas only' ELSE 'always on' END, g.tgrelid::regclass)
FROM pg_catalog.pg_trigger g
JOIN pg_catalog.pg_constraint k ON k.oid = g.tgconstraint
CROSS JOIN LATERAL pg_catalog.pg_identify_object('pg_constraint'::regclass, k.oid, 0) i
WHERE g.tgisinternal AND g.tgenabled <> 'O' AND k.contype <> 't'
GROUP BY i.identity, g.tgenabled, g.tgrelid;

SELECT true, 'the mark of the database as a template'
FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database() AND d.datistemplate;

-- What a partition or a child has from its root or parent, and differently: a restore makes it anew, like theirs. A name
-- that ends as the server ends those it chooses is nobody's loss.
WITH RECURSIVE copied (oid, root) AS (
    SELECT oid, oid FROM pg_catalog.pg_constraint WHERE contype = 'f' AND conparentid = 0
    UNION ALL
    SELECT k.oid, c.root FROM copied c JOIN pg_catalog.pg_constraint k ON k.conparentid = c.oid
)
SELECT true, pg_catalog.format(s.what, k.conname, k.conrelid::regclass)
FROM copied c
JOIN pg_catalog.pg_constraint k ON k.oid = c.oid
JOIN pg_catalog.pg_constraint root ON root.oid = c.root AND root.conrelid <> k.conrelid
CROSS JOIN LATERAL (VALUES
    ('the name of the constraint %I on %s', k.conname !~ '_fkey[0-9]*$'
     AND root.conname::text NOT IN (k.conname, pg_catalog.regexp_replace(k.conname, '_[0-9]+$', ''))),
    ('that the constraint %I on %s is validated', k.convalidated AND NOT root.convalidated)
) s (what, lost)
WHERE s.lost;

SELECT true, pg_catalog.format('that the constraint %I on %s is validated', k.conname, k.conrelid::regclass)
FROM pg_catalog.pg_constraint parent
JOIN pg_catalog.pg_inherits h ON h.inhparent = parent.conrelid
JOIN pg_catalog.pg_constraint k ON k.conrelid = h.inhrelid AND k.contype = 'c' AND k.conname = parent.conname
JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
WHERE parent.contype = 'c' AND NOT parent.convalidated AND k.convalidated AND NOT k.conislocal AND NOT c.relispartition;

SELECT true, pg_catalog.format('the name of the trigger %I on %s', g.tgname, g.tgrelid::regclass)  -- -14 (it can't differ since)
FROM pg_catalog.pg_trigger g JOIN pg_catalog.pg_trigger root ON root.oid = g.tgparentid  -- -14
WHERE g.tgname <> root.tgname;  -- -14

-- It has its range's since 17
SELECT true, pg_catalog.format('the %s of the type %s', s.what, t.oid::regtype)  -- 14-16
FROM pg_catalog.pg_type t  -- 14-16
JOIN pg_catalog.pg_range r ON r.rngmultitypid = t.oid  -- 14-16
JOIN pg_catalog.pg_type o ON o.oid = r.rngtypid  -- 14-16
CROSS JOIN LATERAL (VALUES ('owner', t.typowner NOT IN (o.typowner, 10)),  -- 14-16
                           ('privileges', t.typacl IS NOT NULL)) s (what, lost)  -- 14-16
WHERE t.oid >= 16384 AND s.lost AND $own(pg_type, r.rngtypid);  -- 14-16

-- What a failed CREATE INDEX CONCURRENTLY left behind
SELECT true, pg_catalog.format('the index %s, which is not valid', i.indexrelid::regclass)
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
JOIN pg_catalog.pg_namespace s ON s.oid = t.relnamespace
WHERE NOT ((i.indisvalid OR t.relkind = 'p') AND i.indisready) AND $users(s.nspname) AND $own(pg_class, t.oid);

-- A DETACH ... CONCURRENTLY that did not end: the partition comes back attached
SELECT true, pg_catalog.format('that the partition %s is being detached', h.inhrelid::regclass)  -- 14+
FROM pg_catalog.pg_inherits h WHERE h.inhdetachpending;  -- 14+

-- What only a superuser, or who it belongs to, may read; pg_dump passes over it
SELECT true, pg_catalog.format('the subscription %I, which only a superuser can dump', u.subname)
FROM pg_catalog.pg_subscription u
WHERE u.subdbid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
  AND false  -- superuser
;
SELECT true, pg_catalog.format('the user mapping for %s on server %I%s',
    CASE WHEN u.umuser = 0 THEN 'public' ELSE pg_catalog.quote_ident(u.usename) END, u.srvname,
    CASE WHEN m.belongs THEN ', which belongs to an extension'
         ELSE ': its options (a password can be among them), which this role may not read' END)
FROM pg_catalog.pg_user_mappings u
JOIN pg_catalog.pg_foreign_server s ON s.oid = u.srvid
CROSS JOIN LATERAL (SELECT NOT $own(pg_foreign_server, s.oid)) m (belongs)
WHERE m.belongs
   OR u.umoptions IS NULL
  AND false  -- superuser
  AND NOT (pg_catalog.pg_has_role(s.srvowner, 'USAGE') AND u.umuser = 0
           OR u.usename = current_user AND (pg_catalog.pg_has_role(s.srvowner, 'USAGE')
                                            OR pg_catalog.has_server_privilege(s.oid, 'USAGE')));

-- What was made or changed on the system's own objects and on those of extensions, after they came: pg_dump leaves both to
-- initdb and CREATE EXTENSION. Nothing but the transaction tells whose it is. Members are noted as such by the one that makes
-- them; after pg_upgrade that is one for each member, all later than the extension itself, and nothing can be told.
-- The planner expects one member: a nested loop over many columns and many members would take minutes.
SET LOCAL enable_nestloop = off;
-- A member that was there before it was one was added by hand: what it hangs on was noted by an earlier transaction. (A script
-- makes both in one, if in a part of its own that could have failed alone; so does pg_upgrade.)
WITH noted AS (
    SELECT e.oid AS ext, e.extname, e.xmin AS xid, d.classid AS class, d.objid AS oid, $later(d.xmin, e.xmin) AS later,
           $later(d.xmin, e.xmin) > 0 AND EXISTS (
               SELECT FROM pg_catalog.pg_depend o
               WHERE o.classid = d.classid AND o.objid = d.objid AND o.deptype <> 'e' AND $later(d.xmin, o.xmin) > 0) AS added
    FROM pg_catalog.pg_extension e
    JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
), born AS (
    SELECT ext, greatest(0, pg_catalog.max(later)) AS latest, pg_catalog.count(*) FILTER (WHERE later > 0) * 2 > pg_catalog.count(*) AS unknown
    FROM noted
    WHERE NOT added
    GROUP BY ext
), member AS (
    SELECT n.ext, n.extname, n.xid, n.class, n.oid, b.latest FROM noted n JOIN born b USING (ext) WHERE NOT n.added AND NOT b.unknown
), system AS (
    SELECT DISTINCT xid, latest FROM member WHERE extname = 'plpgsql' AND ext < 16384
), hung AS (
    SELECT 'pg_class'::regclass AS on_class, indrelid AS on_oid, 'pg_class'::regclass AS class, indexrelid AS oid, 0 AS part, xmin AS xid, 'the ' AS what
    FROM pg_catalog.pg_index x
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend d  -- on its constraint
                      WHERE d.classid = 'pg_class'::regclass AND d.objid = x.indexrelid AND d.deptype = 'i')
    UNION ALL
    SELECT 'pg_class'::regclass, tgrelid, 'pg_trigger'::regclass, oid, 0, xmin, 'the ' FROM pg_catalog.pg_trigger WHERE NOT tgisinternal
    UNION ALL
    SELECT 'pg_class'::regclass, ev_class, 'pg_rewrite'::regclass, oid, 0, xmin, 'the ' FROM pg_catalog.pg_rewrite
    UNION ALL
    SELECT 'pg_class'::regclass, polrelid, 'pg_policy'::regclass, oid, 0, xmin, 'the ' FROM pg_catalog.pg_policy
    UNION ALL
    SELECT 'pg_class'::regclass, stxrelid, 'pg_statistic_ext'::regclass, oid, 0, xmin, 'the ' FROM pg_catalog.pg_statistic_ext
    UNION ALL
    SELECT 'pg_class'::regclass, adrelid, 'pg_attrdef'::regclass, oid, 0, xmin, 'the ' FROM pg_catalog.pg_attrdef
    UNION ALL
    SELECT 'pg_class'::regclass, attrelid, 'pg_class'::regclass, attrelid, attnum, xmin, 'what was changed on the ' FROM pg_catalog.pg_attribute
    WHERE attnum > 0 AND NOT attisdropped AND attacl IS NULL
    UNION ALL
    SELECT CASE conrelid WHEN 0 THEN 'pg_type'::regclass ELSE 'pg_class'::regclass END,
           CASE conrelid WHEN 0 THEN contypid ELSE conrelid END, 'pg_constraint'::regclass, oid, 0, xmin, 'the '
    FROM pg_catalog.pg_constraint
    WHERE contype <> 'n'
    UNION ALL
    SELECT 'pg_type'::regclass, enumtypid, 'pg_type'::regclass, enumtypid, 0, xmin, 'a label of the ' FROM pg_catalog.pg_enum
    UNION ALL
    SELECT 'pg_type'::regclass, oid, 'pg_type'::regclass, oid, 0, xmin, 'what was changed on the ' FROM pg_catalog.pg_type
    WHERE (typacl IS NULL OR typnamespace = pg_catalog.to_regnamespace('information_schema')) AND typrelid = 0 AND typelem = 0
    UNION ALL
    SELECT 'pg_proc'::regclass, oid, 'pg_proc'::regclass, oid, 0, xmin, 'what was changed on the ' FROM pg_catalog.pg_proc p
    WHERE p.proacl IS NULL OR p.pronamespace = pg_catalog.to_regnamespace('information_schema')
       OR p.proacl = (SELECT v.initprivs FROM pg_catalog.pg_init_privs v
                      WHERE v.classoid = 'pg_proc'::regclass AND v.objoid = p.oid AND v.objsubid = 0)
    UNION ALL
    -- Privileges of the system's objects are kept, but not these
    SELECT 'pg_class'::regclass, oid, 'pg_class'::regclass, oid, 0, xmin, 'what was changed on the ' FROM pg_catalog.pg_class c
    WHERE relkind = 'v' AND (relnamespace = pg_catalog.to_regnamespace('information_schema') OR relacl IS NULL
        OR relacl = (SELECT v.initprivs FROM pg_catalog.pg_init_privs v
                     WHERE v.classoid = 'pg_class'::regclass AND v.objoid = c.oid AND v.objsubid = 0))
    UNION ALL
    SELECT 'pg_namespace'::regclass, oid, 'pg_namespace'::regclass, oid, 0, xmin, 'what was changed on the ' FROM pg_catalog.pg_namespace
    WHERE nspname = 'information_schema'
    UNION ALL
    SELECT 'pg_language'::regclass, oid, 'pg_language'::regclass, oid, 0, xmin, 'what was changed on the ' FROM pg_catalog.pg_language
    WHERE NOT lanispl
    UNION ALL
    -- Loose members of operator families
    SELECT 'pg_opfamily'::regclass, amopfamily, 'pg_amop'::regclass, oid, 0, xmin, 'the ' FROM pg_catalog.pg_amop a
    WHERE oid >= 16384 AND $own(pg_operator, a.amopopr) AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_depend d
        WHERE d.classid = 'pg_amop'::regclass AND d.objid = a.oid AND d.refclassid = 'pg_opclass'::regclass)
    UNION ALL
    SELECT 'pg_opfamily'::regclass, amprocfamily, 'pg_amproc'::regclass, oid, 0, xmin, 'the ' FROM pg_catalog.pg_amproc a
    WHERE oid >= 16384 AND $own(pg_proc, a.amproc) AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_depend d
        WHERE d.classid = 'pg_amproc'::regclass AND d.objid = a.oid AND d.refclassid = 'pg_opclass'::regclass)
    UNION ALL
    SELECT 'pg_ts_dict'::regclass, oid, 'pg_ts_dict'::regclass, oid, 0, xmin, 'what was changed on the ' FROM pg_catalog.pg_ts_dict
    UNION ALL
    -- A user's operator writes itself into the one that it names as its commutator or negator
    SELECT 'pg_operator'::regclass, oid, 'pg_operator'::regclass, oid, 0, xmin, 'what was changed on the ' FROM pg_catalog.pg_operator o
    WHERE (oprcom < 16384 OR NOT $own(pg_operator, o.oprcom)) AND (oprnegate < 16384 OR NOT $own(pg_operator, o.oprnegate))
    UNION ALL
    SELECT 'pg_opclass'::regclass, oid, 'pg_opclass'::regclass, oid, 0, xmin, 'what was changed on the ' FROM pg_catalog.pg_opclass
    UNION ALL
    SELECT 'pg_opfamily'::regclass, oid, 'pg_opfamily'::regclass, oid, 0, xmin, 'what was changed on the ' FROM pg_catalog.pg_opfamily
    UNION ALL
    SELECT 'pg_event_trigger'::regclass, oid, 'pg_event_trigger'::regclass, oid, 0, xmin, 'what was changed on the '
    FROM pg_catalog.pg_event_trigger
    UNION ALL
    SELECT 'pg_foreign_data_wrapper'::regclass, oid, 'pg_foreign_data_wrapper'::regclass, oid, 0, xmin, 'what was changed on the '
    FROM pg_catalog.pg_foreign_data_wrapper
    WHERE fdwacl IS NULL
    UNION ALL
    SELECT 'pg_foreign_server'::regclass, oid, 'pg_foreign_server'::regclass, oid, 0, xmin, 'what was changed on the '
    FROM pg_catalog.pg_foreign_server
    WHERE srvacl IS NULL
    UNION ALL
    SELECT 'pg_ts_config'::regclass, mapcfg, 'pg_ts_config'::regclass, mapcfg, 0, xmin, 'what was changed on the ' FROM pg_catalog.pg_ts_config_map
    UNION ALL
    SELECT classoid, objoid, classoid, objoid, objsubid, xmin, 'the comment on the ' FROM pg_catalog.pg_description
    WHERE classoid <> 'pg_largeobject'::regclass AND (classoid <> 'pg_namespace'::regclass OR objoid IS DISTINCT FROM pg_catalog.to_regnamespace('public'))
      AND description <> 'PL/pgSQL procedural language'  -- old dumps say it again
), lost AS (
    SELECT h.*, 'the extension ' || pg_catalog.quote_ident(m.extname) AS whose
    FROM hung h JOIN member m ON m.class = h.on_class AND m.oid = h.on_oid
    WHERE $later(h.xid, m.xid) > m.latest
    UNION ALL
    SELECT h.*, 'the system'
    FROM hung h CROSS JOIN system m
    WHERE h.on_oid < 16384 AND $later(h.xid, m.xid) > m.latest AND $own(h.on_class, h.on_oid)
)
SELECT DISTINCT true, pg_catalog.concat(
    l.what, CASE WHEN l.class IN ('pg_amop'::regclass, 'pg_amproc'::regclass) THEN 'member' ELSE i.type END, ' ', i.identity,
    CASE l.what WHEN 'the ' THEN ', on what' ELSE ', which' END, ' belongs to ', l.whose)
FROM lost l
CROSS JOIN LATERAL pg_catalog.pg_identify_object(l.class, l.oid, l.part) i
UNION ALL
SELECT true, pg_catalog.format('the %s %s, which was added to the extension %I', i.type, i.identity, n.extname)
FROM noted n
CROSS JOIN LATERAL pg_catalog.pg_identify_object(n.class, n.oid, 0) i
WHERE n.added AND NOT EXISTS (  -- a table brings its row type
    SELECT FROM pg_catalog.pg_depend d WHERE d.classid = n.class AND d.objid = n.oid AND d.deptype = 'i');
SET LOCAL enable_nestloop = on;

-- What ties the user's own objects to those of an extension
SELECT true, pg_catalog.format('the table %s in the publication %I, since the table belongs to an extension',  -- -17
    r.prrelid::regclass, p.pubname)  -- -17
FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid  -- -17
WHERE NOT $own(pg_class, r.prrelid);  -- -17

SELECT true, pg_catalog.format('that the sequence %s belongs to a column of %s, which belongs to an extension',
    d.objid::regclass, d.refobjid::regclass)
FROM pg_catalog.pg_sequence q
JOIN pg_catalog.pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = q.seqrelid AND d.deptype = 'a'
                           AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
WHERE NOT $own(pg_class, d.refobjid) AND $own(pg_class, d.objid);

SELECT true, pg_catalog.format('that %I owns %s, which belongs to the extension %I', pg_catalog.pg_get_userbyid(c.relowner),
    c.oid::regclass, e.extname)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
WHERE c.relowner NOT IN (e.extowner, 10);

-- Rows that are there though their table was not marked as configuration: only an extension's script makes them anew, if it does.
-- Without rows that is shown with the backup
SELECT c.relkind = 'r' AND pg_catalog.pg_relation_size(c.oid) > 0, pg_catalog.format('the %s of %s, which belongs to an extension',
    CASE c.relkind WHEN 'S' THEN 'value' ELSE 'rows' END, c.oid::regclass)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0 AND d.deptype = 'e'
JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
WHERE c.relkind IN ('r', 'p', 'S') AND NOT coalesce(c.oid = ANY (e.extconfig), false);

-- What every dump lacks: it is shown with the backup, and not said each time
SELECT false, 'passwords of roles';

SELECT false, 'the database ' || d.datname
FROM pg_catalog.pg_database d WHERE d.datname <> pg_catalog.current_database() AND NOT d.datistemplate;

SELECT false, pg_catalog.format('the rows of the foreign table %s', c.oid::regclass)
FROM pg_catalog.pg_class c WHERE c.relkind = 'f';

SELECT false, pg_catalog.format('that %I owns the extension %I, which comes back with who restores as its owner',
    pg_catalog.pg_get_userbyid(e.extowner), e.extname)
FROM pg_catalog.pg_extension e WHERE e.extowner <> 10;

SELECT false, pg_catalog.format('the tablespace %I', t.spcname)
FROM pg_catalog.pg_tablespace t WHERE t.oid >= 16384;

SELECT false, 'the privileges on the parameter ' || a.parname  -- 15+
FROM pg_catalog.pg_parameter_acl a;  -- 15+

SELECT false, pg_catalog.format('the replication slot %s', s.slot_name)
FROM pg_catalog.pg_replication_slots s WHERE s.database = pg_catalog.current_database() AND NOT s.temporary;

SELECT false, pg_catalog.format('that the subscription %I runs: it comes back at rest', u.subname)
FROM pg_catalog.pg_subscription u
WHERE u.subdbid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
  AND u.subenabled
