-- What is said about an object elsewhere: (class, oid, word, text) goes into the object's definition. See queries.py.

-- Comments: those on columns with their table, those on a domain's constraints with their type; none on inherited checks,
-- which pg_dump does not write
SELECT coalesce(r.class, d.classoid::oid), coalesce(r.oid, d.objoid), pg_catalog.concat('comment', r.part), d.description
FROM pg_catalog.pg_description d
LEFT JOIN LATERAL (
    SELECT CASE c.relkind WHEN 'c' THEN 'pg_type'::regclass ELSE 'pg_class'::regclass END::oid,
           CASE c.relkind WHEN 'c' THEN c.reltype ELSE c.oid END, pg_catalog.format(' on column %I', a.attname)
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
    WHERE d.classoid = 'pg_class'::regclass AND d.objsubid <> 0 AND c.oid = d.objoid AND a.attnum = d.objsubid
    UNION ALL
    SELECT CASE k.contypid WHEN 0 THEN 'pg_class'::regclass ELSE 'pg_type'::regclass END::oid,
           CASE k.contypid WHEN 0 THEN k.conrelid ELSE k.contypid END, pg_catalog.format(' on constraint %I', k.conname)
    FROM pg_catalog.pg_constraint k
    WHERE d.classoid = 'pg_constraint'::regclass AND k.oid = d.objoid AND (k.contypid <> 0 OR k.contype = 'n')
) r (class, oid, part) ON true
LEFT JOIN pg_catalog.pg_constraint copied ON d.classoid = 'pg_constraint'::regclass AND copied.oid = d.objoid
                                         AND copied.contype = 'c' AND copied.conrelid <> 0 AND NOT copied.conislocal
WHERE d.objoid >= 16384 AND copied.oid IS NULL OR d.classoid = 'pg_largeobject'::regclass
   OR d.classoid = 'pg_namespace'::regclass AND d.objoid = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'public');

SELECT l.classoid::oid, l.objoid, pg_catalog.concat('label ', pg_catalog.quote_ident(l.provider),
                                       pg_catalog.format(' on column %I', a.attname)), l.label
FROM pg_catalog.pg_seclabel l
LEFT JOIN pg_catalog.pg_attribute a ON l.classoid = 'pg_class'::regclass AND l.objsubid <> 0
                                   AND a.attrelid = l.objoid AND a.attnum = l.objsubid;

-- ALTER ... DEPENDS ON EXTENSION
SELECT d.classid::oid, d.objid, pg_catalog.format('depends on extension %I', e.extname), 'yes'
FROM pg_catalog.pg_depend d
JOIN pg_catalog.pg_extension e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid
WHERE d.deptype = 'x';

-- Privileges on columns: the text is one item of the acl
SELECT 'pg_class'::regclass::oid, a.attrelid, pg_catalog.format('(%I)', a.attname), i.item::text
FROM pg_catalog.pg_attribute a, pg_catalog.unnest(a.attacl) i (item)
WHERE a.attacl IS NOT NULL AND NOT a.attisdropped;

-- What an expression calls that is not the server's own, by identity: a text does not name every operator (IS DISTINCT FROM,
-- CASE x WHEN, JOIN ... USING), and made under another search_path it means another one
SELECT o.class, o.oid, '=calls', pg_catalog.string_agg(o.identity, ', ' ORDER BY o.identity COLLATE "C")
FROM (
    SELECT DISTINCT
        CASE WHEN r.rulename = '_RETURN' OR a.oid IS NOT NULL THEN 'pg_class'::regclass
             WHEN k.contypid <> 0 THEN 'pg_type'::regclass ELSE d.classid::regclass END::oid,
        CASE WHEN r.rulename = '_RETURN' THEN r.ev_class WHEN a.oid IS NOT NULL THEN a.adrelid
             WHEN k.contypid <> 0 THEN k.contypid ELSE d.objid END,
        i.identity
    FROM pg_catalog.pg_depend d
    LEFT JOIN pg_catalog.pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
    LEFT JOIN pg_catalog.pg_attrdef a ON d.classid = 'pg_attrdef'::regclass AND a.oid = d.objid
    LEFT JOIN pg_catalog.pg_constraint k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
    CROSS JOIN LATERAL pg_catalog.pg_identify_object(d.refclassid, d.refobjid, 0) i
    WHERE d.deptype = 'n' AND d.refobjid >= 16384
      AND d.refclassid IN ('pg_operator'::regclass, 'pg_proc'::regclass)
      AND d.classid IN ('pg_rewrite'::regclass, 'pg_attrdef'::regclass, 'pg_constraint'::regclass, 'pg_policy'::regclass,
                        'pg_trigger'::regclass, 'pg_class'::regclass, 'pg_proc'::regclass, 'pg_statistic_ext'::regclass)
) o (class, oid, identity)
GROUP BY o.class, o.oid;

-- The expressions in which a cast of the user's may stand, and those casts: `casts.py` tells of those that do it otherwise
SELECT e.class::oid, e.oid, '=casts', pg_catalog.jsonb_build_object('casts', k.casts, 'tree', e.tree)::text
FROM (
    SELECT pg_catalog.jsonb_object_agg(
               pg_catalog.concat(k.castsource, ' ', k.casttarget),
               pg_catalog.jsonb_build_array(k.castmethod, pg_catalog.format('%s as %s', k.castsource::regtype, k.casttarget::regtype))),
           pg_catalog.concat(':(func)?resulttype (', pg_catalog.string_agg(k.casttarget::text, '|'), ') ')
    FROM pg_catalog.pg_cast k
    WHERE k.oid >= 16384 AND $own(pg_cast, k.oid)
    HAVING count(*) > 0
) k (casts, made)
CROSS JOIN LATERAL (
    SELECT CASE r.rulename WHEN '_RETURN' THEN 'pg_class'::regclass ELSE 'pg_rewrite'::regclass END,
           CASE r.rulename WHEN '_RETURN' THEN r.ev_class ELSE r.oid END, pg_catalog.concat(r.ev_qual, r.ev_action)
    FROM pg_catalog.pg_rewrite r WHERE r.oid >= 16384
    UNION ALL SELECT 'pg_class'::regclass, a.adrelid, a.adbin::text FROM pg_catalog.pg_attrdef a
    UNION ALL SELECT 'pg_class'::regclass, i.indexrelid, pg_catalog.concat(i.indexprs, i.indpred) FROM pg_catalog.pg_index i
    UNION ALL SELECT 'pg_class'::regclass, p.partrelid, p.partexprs::text FROM pg_catalog.pg_partitioned_table p
    UNION ALL SELECT CASE n.contypid WHEN 0 THEN 'pg_constraint'::regclass ELSE 'pg_type'::regclass END,
                     CASE n.contypid WHEN 0 THEN n.oid ELSE n.contypid END, n.conbin::text
              FROM pg_catalog.pg_constraint n
    UNION ALL SELECT 'pg_type'::regclass, t.oid, t.typdefaultbin::text FROM pg_catalog.pg_type t
    UNION ALL SELECT 'pg_policy'::regclass, p.oid, pg_catalog.concat(p.polqual, p.polwithcheck) FROM pg_catalog.pg_policy p
    UNION ALL SELECT 'pg_trigger'::regclass, g.oid, g.tgqual::text FROM pg_catalog.pg_trigger g
    UNION ALL SELECT 'pg_statistic_ext'::regclass, x.oid, x.stxexprs::text FROM pg_catalog.pg_statistic_ext x  -- 14+
    UNION ALL SELECT 'pg_publication'::regclass, r.prpubid, r.prqual::text FROM pg_catalog.pg_publication_rel r  -- 15+
    UNION ALL SELECT 'pg_proc'::regclass, f.oid, pg_catalog.concat(
                         f.prosqlbody, -- 14+
                         f.proargdefaults)
              FROM pg_catalog.pg_proc f
              WHERE f.oid >= 16384
) e (class, oid, tree)
WHERE e.tree ~ k.made
