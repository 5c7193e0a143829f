-- Types, functions and what is made of them: operators, casts, collations, text search. See queries.py.

-- Types, without what comes with something else: row types of tables, arrays, multiranges
SELECT 'type', 'pg_type'::regclass::oid, t.oid, pg_catalog.format('%I.%I', s.nspname, t.typname),
    pg_catalog.pg_get_userbyid(t.typowner),
    coalesce(t.typacl, pg_catalog.acldefault('T', t.typowner))::text[],
    (CASE WHEN NOT t.typisdefined THEN pg_catalog.jsonb_build_object('shell', true)
     WHEN t.typtype = 'e' THEN pg_catalog.jsonb_build_object(
        'labels', (SELECT pg_catalog.jsonb_agg(pg_catalog.quote_literal(e.enumlabel) ORDER BY e.enumsortorder)
                   FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid))
     WHEN t.typtype = 'c' THEN pg_catalog.jsonb_build_object(
        'attributes', (SELECT pg_catalog.jsonb_agg(pg_catalog.concat(
                                  pg_catalog.format('%I %s', a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod)),
                                  CASE WHEN a.attcollation <> 0 AND a.attcollation <> b.typcollation
                                       THEN ' collate ' || a.attcollation::regcollation::text END) ORDER BY a.attnum)
                       FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type b ON b.oid = a.atttypid
                       WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped))
     WHEN t.typtype = 'd' THEN pg_catalog.jsonb_build_object(
        'domain over', pg_catalog.format_type(t.typbasetype, t.typtypmod),
        'collation', (SELECT t.typcollation::regcollation FROM pg_catalog.pg_type b
                      WHERE b.oid = t.typbasetype AND b.typcollation <> t.typcollation),
        'not null', t.typnotnull,
        'default', pg_catalog.jsonb_build_object(
            'default', coalesce(pg_catalog.pg_get_expr(t.typdefaultbin, 0), pg_catalog.quote_literal(t.typdefault))),
        '=checks', (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(
                            pg_catalog.quote_ident(k.conname), CASE WHEN NOT k.convalidated THEN ' not valid' END, ' ',
                            pg_catalog.jsonb_build_object(pg_catalog.format('check %I', k.conname), pg_catalog.pg_get_expr(k.conbin, 0)))
                            ORDER BY k.conname COLLATE "C")
                    FROM pg_catalog.pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c'),
        '~constraints', (SELECT pg_catalog.jsonb_agg(
                            pg_catalog.format('%I %s', k.conname, pg_catalog.pg_get_constraintdef(k.oid))
                            ORDER BY k.conname COLLATE "C")
                        FROM pg_catalog.pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c'))
     WHEN t.typtype = 'r' THEN (SELECT pg_catalog.jsonb_build_object(
        'range of', r.rngsubtype::regtype,
        'operator class', (pg_catalog.pg_identify_object('pg_opclass'::regclass, r.rngsubopc, 0)).identity,
        'collation', nullif(r.rngcollation, 0)::regcollation,
        'multirange', (SELECT nullif(pg_catalog.format('%I.%I', ms.nspname, m.typname), pg_catalog.format('%I.%I',  -- 14+
                           s.nspname, CASE WHEN t.typname ~ 'range'  -- 14+
                                           THEN pg_catalog.regexp_replace(t.typname, 'range', 'multirange')  -- 14+
                                           ELSE t.typname || '_multirange' END))  -- 14+
                       FROM pg_catalog.pg_type m JOIN pg_catalog.pg_namespace ms ON ms.oid = m.typnamespace  -- 14+
                       WHERE m.oid = r.rngmultitypid),  -- 14+
        'canonical', nullif(r.rngcanonical::oid, 0)::regprocedure,
        'difference', nullif(r.rngsubdiff::oid, 0)::regprocedure)
        FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid)
     ELSE pg_catalog.jsonb_build_object(
        'input', t.typinput::regprocedure, 'output', t.typoutput::regprocedure,
        'receive', nullif(t.typreceive::oid, 0)::regprocedure, 'send', nullif(t.typsend::oid, 0)::regprocedure,
        'typmod in', nullif(t.typmodin::oid, 0)::regprocedure, 'typmod out', nullif(t.typmodout::oid, 0)::regprocedure,
        'analyze', nullif(t.typanalyze::oid, 0)::regprocedure,
        'subscript', nullif(t.typsubscript::oid, 0)::regprocedure,  -- 14+
        'length', t.typlen, 'by value', t.typbyval, 'alignment', t.typalign, 'storage', t.typstorage,
        'category', t.typcategory, 'preferred', t.typispreferred, 'delimiter', t.typdelim,
        'default', t.typdefault, 'element', nullif(t.typelem, 0)::regtype, 'collatable', t.typcollation <> 0)
     END)::text
FROM pg_catalog.pg_type t
JOIN pg_catalog.pg_namespace s ON s.oid = t.typnamespace
LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
WHERE (c.oid IS NULL OR c.relkind = 'c') AND t.typtype <> 'm'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_type e WHERE e.oid = t.typelem AND e.typarray = t.oid)
  AND $users(s.nspname) AND $own(pg_type, t.oid);

-- Functions and procedures, without the constructors that come with a range type
SELECT CASE p.prokind WHEN 'p' THEN 'procedure' ELSE 'function' END, 'pg_proc'::regclass::oid, p.oid,
    (pg_catalog.pg_identify_object('pg_proc'::regclass, p.oid, 0)).identity,
    pg_catalog.pg_get_userbyid(p.proowner),
    coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))::text[],
    pg_catalog.jsonb_build_object(
        '~definition', pg_catalog.pg_get_functiondef(p.oid),
        '=definition', CASE WHEN p.proargdefaults IS NOT NULL
                             OR p.prosqlbody IS NOT NULL  -- 14+
                            THEN pg_catalog.jsonb_build_object('definition', pg_catalog.pg_get_functiondef(p.oid)) END,
        '=in statements', p.prosqlbody IS NOT NULL,  -- 14+
        '=body', pg_catalog.quote_literal(p.prosrc), '=library', pg_catalog.quote_literal(p.probin), '=kind', p.prokind,
        '=language', (SELECT l.lanname FROM pg_catalog.pg_language l WHERE l.oid = p.prolang),
        '=returns', pg_catalog.format_type(p.prorettype, NULL), '=set', p.proretset, '=volatile', p.provolatile,
        '=parallel', p.proparallel, '=strict', p.proisstrict, '=security definer', p.prosecdef,
        '=leakproof', p.proleakproof, '=cost', p.procost::text, '=rows', p.prorows::text,
        '=settings', (
            SELECT pg_catalog.jsonb_agg(coalesce(u.name || '=' || l.list, u.setting) ORDER BY u.place)
            FROM (SELECT s.setting, s.place, pg_catalog.split_part(s.setting, '=', 1),
                         pg_catalog.substr(s.setting, pg_catalog.strpos(s.setting, '=') + 1)
                  FROM pg_catalog.unnest(p.proconfig) WITH ORDINALITY s (setting, place)) u (setting, place, name, value)
            -- pg_dump writes the names in a list. Read again they have a blank between them, and quotes only where they need
            -- them: as they always stand but for SET ... FROM CURRENT, which keeps what somebody typed.
            LEFT JOIN LATERAL (
                SELECT coalesce(pg_catalog.string_agg(pg_catalog.quote_ident(
                           CASE WHEN e.word[1] ~ '^"' THEN pg_catalog.replace(pg_catalog.substr(e.word[1], 2, pg_catalog.length(e.word[1]) - 2), '""', '"')
                                ELSE pg_catalog.lower(e.word[1] COLLATE "C") END), ', ' ORDER BY e.place), '""')
                FROM pg_catalog.regexp_matches(u.value, '("(?:[^"]|"")*"|[^",\s]+)', 'g') WITH ORDINALITY e (word, place)
            ) l (list) ON u.name IN ('search_path', 'temp_tablespaces')
                      AND u.value ~ '^\s*(("([^"]|"")*"|[^",\s]+)(\s*,\s*("([^"]|"")*"|[^",\s]+))*)?\s*$'),
        '=support', nullif(p.prosupport::oid, 0)::regprocedure,
        '=defaults', p.pronargdefaults, '=variadic', nullif(p.provariadic, 0)::regtype,
        '=argument names', pg_catalog.to_jsonb(p.proargnames), '=argument modes', p.proargmodes::text,
        '=argument types', coalesce(p.proallargtypes, p.proargtypes::oid[])::regtype[]::text,
        '=transforms', p.protrftypes::oid[]::regtype[]::text)::text
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_namespace s ON s.oid = p.pronamespace
WHERE p.prokind <> 'a' AND $users(s.nspname) AND $own(pg_proc, p.oid)
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'i');

-- Aggregates
SELECT 'aggregate', 'pg_proc'::regclass::oid, p.oid,
    (pg_catalog.pg_identify_object('pg_proc'::regclass, p.oid, 0)).identity,
    pg_catalog.pg_get_userbyid(p.proowner),
    coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))::text[],
    pg_catalog.jsonb_build_object(
        'arguments', pg_catalog.pg_get_function_arguments(p.oid), 'parallel', p.proparallel,
        'kind', a.aggkind, 'direct arguments', a.aggnumdirectargs,
        'state function', a.aggtransfn::regprocedure, 'state type', a.aggtranstype::regtype,
        'state size', a.aggtransspace, 'initial', pg_catalog.quote_literal(a.agginitval),
        'final function', nullif(a.aggfinalfn::oid, 0)::regprocedure,
        'final extra', a.aggfinalextra, 'final modify', a.aggfinalmodify,
        'combine function', nullif(a.aggcombinefn::oid, 0)::regprocedure,
        'serial function', nullif(a.aggserialfn::oid, 0)::regprocedure,
        'deserial function', nullif(a.aggdeserialfn::oid, 0)::regprocedure,
        'moving state function', nullif(a.aggmtransfn::oid, 0)::regprocedure,
        'moving inverse function', nullif(a.aggminvtransfn::oid, 0)::regprocedure,
        'moving final function', nullif(a.aggmfinalfn::oid, 0)::regprocedure,
        'moving final extra', a.aggmfinalextra, 'moving final modify', a.aggmfinalmodify,
        'moving state type', nullif(a.aggmtranstype, 0)::regtype,
        'moving state size', a.aggmtransspace, 'moving initial', pg_catalog.quote_literal(a.aggminitval),
        'sort operator', nullif(a.aggsortop, 0)::regoperator)::text
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_aggregate a ON a.aggfnoid = p.oid
JOIN pg_catalog.pg_namespace s ON s.oid = p.pronamespace
WHERE $users(s.nspname) AND $own(pg_proc, p.oid);

-- Casts, without the one from a range to its multirange
SELECT 'cast', 'pg_cast'::regclass::oid, k.oid, (pg_catalog.pg_identify_object('pg_cast'::regclass, k.oid, 0)).identity,
    '', NULL,
    pg_catalog.jsonb_build_object('function', nullif(k.castfunc, 0)::regprocedure, 'context', k.castcontext,
                                  'method', k.castmethod)::text
FROM pg_catalog.pg_cast k
WHERE k.oid >= 16384 AND $own(pg_cast, k.oid)
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_range r  -- 14+
                  WHERE r.rngtypid = k.castsource AND r.rngmultitypid = k.casttarget)  -- 14+
;

-- Operators; one without a function is only a forward reference
SELECT 'operator', 'pg_operator'::regclass::oid, o.oid,
    (pg_catalog.pg_identify_object('pg_operator'::regclass, o.oid, 0)).identity,
    pg_catalog.pg_get_userbyid(o.oprowner), NULL,
    pg_catalog.jsonb_build_object(
        'function', o.oprcode::regprocedure, 'commutator', nullif(o.oprcom, 0)::regoperator,
        'negator', nullif(o.oprnegate, 0)::regoperator, 'restrict', nullif(o.oprrest::oid, 0)::regprocedure,
        'join', nullif(o.oprjoin::oid, 0)::regprocedure, 'merges', o.oprcanmerge, 'hashes', o.oprcanhash)::text
FROM pg_catalog.pg_operator o
JOIN pg_catalog.pg_namespace s ON s.oid = o.oprnamespace
WHERE o.oprcode <> 0 AND $users(s.nspname) AND $own(pg_operator, o.oid);

-- Operator families with all their members
SELECT 'operator family', 'pg_opfamily'::regclass::oid, f.oid,
    (pg_catalog.pg_identify_object('pg_opfamily'::regclass, f.oid, 0)).identity,
    pg_catalog.pg_get_userbyid(f.opfowner), NULL,
    pg_catalog.jsonb_build_object('operators', $operators(a.amopfamily = f.oid),
                                  'functions', $functions(a.amprocfamily = f.oid))::text
FROM pg_catalog.pg_opfamily f
JOIN pg_catalog.pg_namespace s ON s.oid = f.opfnamespace
WHERE $users(s.nspname) AND $own(pg_opfamily, f.oid);

-- Operator classes with the members for their own type, which tell them apart inside a family of the system
SELECT 'operator class', 'pg_opclass'::regclass::oid, o.oid,
    (pg_catalog.pg_identify_object('pg_opclass'::regclass, o.oid, 0)).identity,
    pg_catalog.pg_get_userbyid(o.opcowner), NULL,
    pg_catalog.jsonb_build_object(
        'default', o.opcdefault, 'type', o.opcintype::regtype, 'storage', nullif(o.opckeytype, 0)::regtype,
        'family', (pg_catalog.pg_identify_object('pg_opfamily'::regclass, o.opcfamily, 0)).identity,
        'operators', $operators(a.amopfamily = o.opcfamily AND a.amoplefttype = o.opcintype AND a.amoprighttype = o.opcintype),
        'functions', $functions(a.amprocfamily = o.opcfamily AND a.amproclefttype = o.opcintype AND a.amprocrighttype = o.opcintype)
    )::text
FROM pg_catalog.pg_opclass o
JOIN pg_catalog.pg_namespace s ON s.oid = o.opcnamespace
WHERE $users(s.nspname) AND $own(pg_opclass, o.oid);

-- Collations, without the version of the library that sorts
SELECT 'collation', 'pg_collation'::regclass::oid, k.oid, pg_catalog.format('%I.%I', s.nspname, k.collname),
    pg_catalog.pg_get_userbyid(k.collowner), NULL,
    pg_catalog.jsonb_build_object(
        'provider', k.collprovider, 'not deterministic', NOT k.collisdeterministic,
        -- pg_dump does not write it: a copy of "C" is for every encoding, what comes back for the database's own.
        '~encoding', nullif(pg_catalog.pg_encoding_to_char(k.collencoding), ''),
        'collate', CASE k.collprovider WHEN 'c' THEN k.collcollate END,
        'ctype', CASE k.collprovider WHEN 'c' THEN k.collctype END,
        'rules', k.collicurules,  -- 16+
        'locale', k.colllocale  -- 17+
        'locale', k.colliculocale  -- 15-16
        'locale', CASE k.collprovider WHEN 'i' THEN k.collcollate END  -- -14
    )::text
FROM pg_catalog.pg_collation k
JOIN pg_catalog.pg_namespace s ON s.oid = k.collnamespace
WHERE $users(s.nspname) AND $own(pg_collation, k.oid);

-- Conversions between encodings
SELECT 'conversion', 'pg_conversion'::regclass::oid, k.oid, pg_catalog.format('%I.%I', s.nspname, k.conname),
    pg_catalog.pg_get_userbyid(k.conowner), NULL,
    pg_catalog.jsonb_build_object(
        'from', pg_catalog.pg_encoding_to_char(k.conforencoding), 'to', pg_catalog.pg_encoding_to_char(k.contoencoding),
        'function', k.conproc::regproc, 'default', k.condefault)::text
FROM pg_catalog.pg_conversion k
JOIN pg_catalog.pg_namespace s ON s.oid = k.connamespace
WHERE $users(s.nspname) AND $own(pg_conversion, k.oid);

-- Text search: parsers, templates, dictionaries, configurations
SELECT 'text search parser', 'pg_ts_parser'::regclass::oid, k.oid, pg_catalog.format('%I.%I', s.nspname, k.prsname),
    '', NULL,
    pg_catalog.jsonb_build_object(
        'start', k.prsstart::regprocedure, 'token', k.prstoken::regprocedure, 'end', k.prsend::regprocedure,
        'headline', nullif(k.prsheadline::oid, 0)::regprocedure, 'types', k.prslextype::regprocedure)::text
FROM pg_catalog.pg_ts_parser k
JOIN pg_catalog.pg_namespace s ON s.oid = k.prsnamespace
WHERE $users(s.nspname) AND $own(pg_ts_parser, k.oid);

SELECT 'text search template', 'pg_ts_template'::regclass::oid, k.oid,
    pg_catalog.format('%I.%I', s.nspname, k.tmplname), '', NULL,
    pg_catalog.jsonb_build_object('init', nullif(k.tmplinit::oid, 0)::regprocedure,
                                  'lexize', k.tmpllexize::regprocedure)::text
FROM pg_catalog.pg_ts_template k
JOIN pg_catalog.pg_namespace s ON s.oid = k.tmplnamespace
WHERE $users(s.nspname) AND $own(pg_ts_template, k.oid);

SELECT 'text search dictionary', 'pg_ts_dict'::regclass::oid, k.oid,
    pg_catalog.format('%I.%I', s.nspname, k.dictname), pg_catalog.pg_get_userbyid(k.dictowner), NULL,
    pg_catalog.jsonb_build_object(
        'template', (pg_catalog.pg_identify_object('pg_ts_template'::regclass, k.dicttemplate, 0)).identity,
        'options', k.dictinitoption)::text
FROM pg_catalog.pg_ts_dict k
JOIN pg_catalog.pg_namespace s ON s.oid = k.dictnamespace
WHERE $users(s.nspname) AND $own(pg_ts_dict, k.oid);

SELECT 'text search configuration', 'pg_ts_config'::regclass::oid, k.oid,
    pg_catalog.format('%I.%I', s.nspname, k.cfgname), pg_catalog.pg_get_userbyid(k.cfgowner), NULL,
    pg_catalog.jsonb_build_object(
        'parser', (pg_catalog.pg_identify_object('pg_ts_parser'::regclass, k.cfgparser, 0)).identity,
        'tokens', (SELECT pg_catalog.jsonb_agg(pg_catalog.format('%s %s', m.maptokentype, m.mapdict::regdictionary)
                                               ORDER BY m.maptokentype, m.mapseqno)
                   FROM pg_catalog.pg_ts_config_map m WHERE m.mapcfg = k.oid))::text
FROM pg_catalog.pg_ts_config k
JOIN pg_catalog.pg_namespace s ON s.oid = k.cfgnamespace
WHERE $users(s.nspname) AND $own(pg_ts_config, k.oid)
