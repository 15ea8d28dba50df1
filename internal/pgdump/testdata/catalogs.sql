SELECT concat_ws('|', 'class', n.nspname, c.relname, relkind, relpersistence, relreplident, relrowsecurity, relforcerowsecurity, relispopulated, relchecks, relhasrules, relhastriggers,
	relhasindex, reloptions, (SELECT reloptions FROM pg_class t WHERE t.oid = c.reltoastrelid), (SELECT amname FROM pg_am WHERE pg_am.oid = relam))
	FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema';
SELECT concat_ws('|', 'attribute', n.nspname, c.relname, attname, (SELECT count(*) FROM pg_attribute b WHERE b.attrelid = a.attrelid AND b.attnum BETWEEN 1 AND a.attnum AND NOT b.attisdropped),
	format_type(atttypid, atttypmod), attcollation::regcollation, attnotnull, attidentity, attgenerated, attstorage, attcompression, coalesce(attstattarget, -1), attoptions, atthasdef, pg_get_expr(adbin, adrelid))
	FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = relnamespace LEFT JOIN pg_attrdef d ON adrelid = attrelid AND adnum = attnum
	WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND attnum > 0 AND NOT attisdropped;
SELECT concat_ws('|', 'constraint', n.nspname, conname, contype, conrelid::regclass, contypid::regtype, condeferrable, condeferred, convalidated, conislocal, coninhcount, connoinherit, pg_get_constraintdef(k.oid))
	FROM pg_constraint k JOIN pg_namespace n ON n.oid = connamespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema';
SELECT concat_ws('|', 'index', indexrelid::regclass, pg_get_indexdef(indexrelid), indisunique, indisprimary, indisexclusion, indimmediate, indisclustered, indisvalid, indisready, indislive, indisreplident)
	FROM pg_index i JOIN pg_class c ON c.oid = indexrelid JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema';
SELECT concat_ws('|', 'view', c.oid::regclass, pg_get_viewdef(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
	WHERE relkind IN ('v', 'm') AND nspname !~ '^pg_' AND nspname <> 'information_schema';
SELECT concat_ws('|', 'trigger', tgrelid::regclass, regexp_replace(tgname, '(ConstraintTrigger_(._)?)\d+$', '\1'), tgisinternal, tgenabled, tgdeferrable, tginitdeferred, regexp_replace(pg_get_triggerdef(oid), '(ConstraintTrigger_(._)?)\d+', '\1')) FROM pg_trigger;
SELECT concat_ws('|', 'rule', ev_class::regclass, rulename, ev_enabled, pg_get_ruledef(r.oid)) FROM pg_rewrite r JOIN pg_class c ON c.oid = ev_class WHERE c.oid >= 16384;
SELECT concat_ws('|', 'policy', polrelid::regclass, polname, polcmd, polpermissive, ARRAY(SELECT rolname FROM pg_roles WHERE oid = ANY(polroles) ORDER BY 1), pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)) FROM pg_policy;
SELECT concat_ws('|', 'type', n.nspname, typname, typtype, typcategory, typnotnull, typbasetype::regtype, typtypmod, typcollation::regcollation, typdefault, ARRAY(SELECT enumlabel FROM pg_enum WHERE enumtypid = t.oid ORDER BY enumsortorder))
	FROM pg_type t JOIN pg_namespace n ON n.oid = typnamespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema';
SELECT concat_ws('|', 'range', rngtypid::regtype, rngsubtype::regtype, rngmultitypid::regtype, rngcollation::regcollation, (SELECT opcname FROM pg_opclass WHERE oid = rngsubopc), rngcanonical, rngsubdiff) FROM pg_range;
SELECT concat_ws('|', 'routine', CASE WHEN prokind = 'a' THEN proname ELSE pg_get_functiondef(p.oid) END, prosecdef, proleakproof, proisstrict, provolatile, proparallel, procost, prorows)
	FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema';
SELECT concat_ws('|', 'sequence', seqrelid::regclass, seqtypid::regtype, seqstart, seqincrement, seqmax, seqmin, seqcache, seqcycle) FROM pg_sequence;
SELECT concat_ws('|', 'collation', n.nspname, to_jsonb(c) - 'oid' - 'collnamespace' - 'collowner') FROM pg_collation c JOIN pg_namespace n ON n.oid = collnamespace WHERE c.oid >= 16384;
SELECT concat_ws('|', 'statistics', pg_get_statisticsobjdef(oid), stxstattarget) FROM pg_statistic_ext;
SELECT concat_ws('|', 'extension', extname, extversion, extnamespace::regnamespace) FROM pg_extension;
SELECT concat_ws('|', 'schema', nspname) FROM pg_namespace WHERE nspname !~ '^pg_toast|^pg_temp';
SELECT concat_ws('|', 'comment', pg_describe_object(classoid, objoid, objsubid), description) FROM pg_description WHERE objoid >= 16384;
SELECT concat_ws('|', 'acl', a.what, x.grantee::regrole, x.privilege_type, x.is_grantable) FROM (
	SELECT 'relation ' || c.oid::regclass AS what, coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner)) AS acl FROM pg_class c WHERE c.oid >= 16384
	UNION ALL SELECT 'column ' || attrelid::regclass || '.' || attname, attacl FROM pg_attribute WHERE attrelid >= 16384
	UNION ALL SELECT 'routine ' || oid::regprocedure, coalesce(proacl, acldefault('f', proowner)) FROM pg_proc WHERE oid >= 16384
	UNION ALL SELECT 'type ' || oid::regtype, coalesce(typacl, acldefault('T', typowner)) FROM pg_type WHERE oid >= 16384
	UNION ALL SELECT 'schema ' || nspname, coalesce(nspacl, acldefault('n', nspowner)) FROM pg_namespace
	UNION ALL SELECT 'default ' || defaclnamespace::regnamespace || defaclobjtype::text || defaclrole::regrole, defaclacl FROM pg_default_acl) a CROSS JOIN LATERAL aclexplode(a.acl) x WHERE what !~ 'pg_toast';
SELECT DISTINCT regexp_replace(concat_ws('|', 'dependency', pg_describe_object(classid, objid, objsubid), deptype, pg_describe_object(refclassid, refobjid, refobjsubid)), '(pg_toast_|ConstraintTrigger_(._)?)\d+', '\1', 'g')
	FROM pg_depend WHERE objid >= 16384 AND refobjid >= 16384;
