-- What belongs to the database as a whole: schemas, extensions, foreign servers, replication, large objects. See queries.py.

SELECT 'schema', 'pg_namespace'::regclass::oid, s.oid, pg_catalog.format('%I', s.nspname),
    pg_catalog.pg_get_userbyid(s.nspowner), coalesce(s.nspacl, pg_catalog.acldefault('n', s.nspowner))::text[], '{}'
FROM pg_catalog.pg_namespace s
WHERE $users(s.nspname) AND $own(pg_namespace, s.oid);

-- Extensions; whoever creates one owns it, pg_dump keeps no owner; their version is compared elsewhere
SELECT 'extension', 'pg_extension'::regclass::oid, e.oid, pg_catalog.format('%I', e.extname), '', NULL,
    pg_catalog.jsonb_build_object('schema', e.extnamespace::regnamespace, '~version', e.extversion)::text
FROM pg_catalog.pg_extension e;

SELECT 'language', 'pg_language'::regclass::oid, l.oid, pg_catalog.format('%I', l.lanname),
    pg_catalog.pg_get_userbyid(l.lanowner), coalesce(l.lanacl, pg_catalog.acldefault('l', l.lanowner))::text[],
    pg_catalog.jsonb_build_object(
        'trusted', l.lanpltrusted, 'handler', nullif(l.lanplcallfoid, 0)::regprocedure,
        'inline', nullif(l.laninline, 0)::regprocedure, 'validator', nullif(l.lanvalidator, 0)::regprocedure)::text
FROM pg_catalog.pg_language l
WHERE l.oid >= 16384 AND $own(pg_language, l.oid);

SELECT 'access method', 'pg_am'::regclass::oid, m.oid, pg_catalog.format('%I', m.amname), '', NULL,
    pg_catalog.jsonb_build_object('handler', m.amhandler::regprocedure, 'type', m.amtype)::text
FROM pg_catalog.pg_am m
WHERE m.oid >= 16384 AND $own(pg_am, m.oid);

SELECT 'transform', 'pg_transform'::regclass::oid, x.oid,
    pg_catalog.format('for %s language %I', x.trftype::regtype, l.lanname), '', NULL,
    pg_catalog.jsonb_build_object('from sql', nullif(x.trffromsql::oid, 0)::regprocedure,
                                  'to sql', nullif(x.trftosql::oid, 0)::regprocedure)::text
FROM pg_catalog.pg_transform x
JOIN pg_catalog.pg_language l ON l.oid = x.trflang
WHERE $own(pg_transform, x.oid);

SELECT 'event trigger', 'pg_event_trigger'::regclass::oid, e.oid, pg_catalog.format('%I', e.evtname),
    pg_catalog.pg_get_userbyid(e.evtowner), NULL,
    pg_catalog.jsonb_build_object(
        'event', e.evtevent, 'function', e.evtfoid::regprocedure, 'tags', $sorted(e.evttags),
        'enabled', CASE e.evtenabled WHEN 'D' THEN 'no' WHEN 'R' THEN 'replica' WHEN 'A' THEN 'always' END)::text
FROM pg_catalog.pg_event_trigger e
WHERE $own(pg_event_trigger, e.oid);

-- Foreign data: wrappers, servers, user mappings (their options hold passwords; who may not see them sees NULL)
SELECT 'foreign data wrapper', 'pg_foreign_data_wrapper'::regclass::oid, w.oid, pg_catalog.format('%I', w.fdwname),
    pg_catalog.pg_get_userbyid(w.fdwowner), coalesce(w.fdwacl, pg_catalog.acldefault('F', w.fdwowner))::text[],
    pg_catalog.jsonb_build_object(
        'handler', nullif(w.fdwhandler, 0)::regprocedure, 'validator', nullif(w.fdwvalidator, 0)::regprocedure,
        'options', $sorted(w.fdwoptions))::text
FROM pg_catalog.pg_foreign_data_wrapper w
WHERE $own(pg_foreign_data_wrapper, w.oid);

SELECT 'foreign server', 'pg_foreign_server'::regclass::oid, f.oid, pg_catalog.format('%I', f.srvname),
    pg_catalog.pg_get_userbyid(f.srvowner), coalesce(f.srvacl, pg_catalog.acldefault('S', f.srvowner))::text[],
    pg_catalog.jsonb_build_object(
        'wrapper', (SELECT pg_catalog.format('%I', w.fdwname) FROM pg_catalog.pg_foreign_data_wrapper w WHERE w.oid = f.srvfdw),
        'type', f.srvtype, 'version', f.srvversion, 'options', $sorted(f.srvoptions))::text
FROM pg_catalog.pg_foreign_server f
WHERE $own(pg_foreign_server, f.oid);

SELECT 'user mapping', 'pg_user_mapping'::regclass::oid, u.umid,
    pg_catalog.format('%s on %I', CASE WHEN u.umuser = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(u.usename) END, u.srvname),
    '', NULL, pg_catalog.jsonb_build_object('secret', $sorted(u.umoptions)::text)::text
FROM pg_catalog.pg_user_mappings u
WHERE $own(pg_foreign_server, u.srvid);

SELECT 'publication', 'pg_publication'::regclass::oid, p.oid, pg_catalog.format('%I', p.pubname),
    pg_catalog.pg_get_userbyid(p.pubowner), NULL,
    pg_catalog.jsonb_build_object(
        'all tables', p.puballtables, 'insert', p.pubinsert, 'update', p.pubupdate, 'delete', p.pubdelete,
        'truncate', p.pubtruncate, 'via root', p.pubviaroot,
        'generated columns', nullif(p.pubgencols, 'n'),  -- 18+
        'schemas', (SELECT pg_catalog.jsonb_agg(s.pnnspid::regnamespace ORDER BY s.pnnspid::regnamespace::text COLLATE "C")  -- 15+
                    FROM pg_catalog.pg_publication_namespace s WHERE s.pnpubid = p.oid),  -- 15+
        'tables', (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(
                              r.prrelid::regclass::text,
                              (SELECT pg_catalog.format(' (%s)', pg_catalog.string_agg(  -- 15+
                                          pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attname COLLATE "C"))  -- 15+
                               FROM pg_catalog.pg_attribute a  -- 15+
                               WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs::int2[])  -- 15+
                               HAVING r.prattrs IS NOT NULL),  -- 15+
                              CASE WHEN r.prqual IS NOT NULL THEN ' where ' END,  -- 15+
                              pg_catalog.jsonb_build_object('where of ' || r.prrelid::regclass::text,  -- 15+
                                                            pg_catalog.pg_get_expr(r.prqual, r.prrelid)),  -- 15+
                              '') ORDER BY r.prrelid::regclass::text COLLATE "C")
                   FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = p.oid
                     AND $own(pg_class, r.prrelid)  -- -17 (pg_dump leaves those out)
                  ))::text
FROM pg_catalog.pg_publication p
WHERE $own(pg_publication, p.oid);

-- Subscriptions, without whether they run: pg_dump restores them at rest. Only a superuser may read the whole row (and
-- the oid in 13), and pg_dump as anybody else leaves subscriptions out
SELECT 'subscription', 'pg_subscription'::regclass::oid,
    u.oid,  -- superuser
    0,  -- others
    pg_catalog.format('%I', u.subname), pg_catalog.pg_get_userbyid(u.subowner), NULL,
    pg_catalog.jsonb_build_object(
        'secret', u.subconninfo, 'commit', u.subsynccommit,  -- superuser
        'binary', u.subbinary,  -- 14+
        -- The default since 18: a dump of before says nothing of it.  -- 16+
        'streaming', CASE u.substream WHEN 't' THEN pg_catalog.to_jsonb('t'::text)  -- 16+
                                      WHEN 'p' THEN pg_catalog.jsonb_build_object('@18', 'p') END,  -- 16+
        'streaming', CASE WHEN u.substream THEN 't' END,  -- 14-15
        'two phase', u.subtwophasestate <> 'd', 'disable on error', u.subdisableonerr,  -- 15+
        'run as owner', CASE WHEN u.subrunasowner THEN pg_catalog.jsonb_build_object('@16', 'yes') END,  -- 16+
        'no password', NOT u.subpasswordrequired,  -- 16+
        'run as owner', pg_catalog.jsonb_build_object('@16', 'yes'),  -- -15 (it always did)
        'origin', nullif(u.suborigin, 'any'),  -- 16+
        'failover', u.subfailover,  -- 17+
        'publications', $sorted(u.subpublications), 'slot', u.subslotname)::text
FROM pg_catalog.pg_subscription u
WHERE u.subdbid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database());

SELECT 'default privileges', 'pg_default_acl'::regclass::oid, d.oid,
    (pg_catalog.pg_identify_object('pg_default_acl'::regclass, d.oid, 0)).identity,
    pg_catalog.pg_get_userbyid(d.defaclrole),
    d.defaclacl::text[], '{}'
FROM pg_catalog.pg_default_acl d;

-- Large objects; what they hold is compared elsewhere
SELECT 'large object', 'pg_largeobject'::regclass::oid, o.oid, o.oid::text, pg_catalog.pg_get_userbyid(o.lomowner),
    coalesce(o.lomacl, pg_catalog.acldefault('L', o.lomowner))::text[], '{}'
FROM pg_catalog.pg_largeobject_metadata o
