-- Questions about the sandbox's data and the answers that a sound copy gives, whatever its size and however much was
-- written meanwhile. Yours goes into a file like this one, named by POLYLADDER_CHECKS; psql reads it too.

-- check: there are users
-- expect: > 0
SELECT count(*) FROM public.users;

-- check: users have their names
-- expect: 0
SELECT count(*) FROM public.users WHERE display_name IN ('', 'undefined', 'null');

-- check: no session is without its user
-- expect: none
SELECT s.id FROM learning.session s WHERE NOT EXISTS (SELECT FROM public.users u WHERE u.id = s.user_id) LIMIT 5;

-- check: letters beyond ASCII are whole
-- expect: [["ar", "العربية"], ["fr", "français"], ["ja", "日本語"]]
SELECT code, own_name FROM public.language WHERE code IN ('ar', 'fr', 'ja') ORDER BY code::text;

-- check: the newest migration is the one that this release knows
-- expect: 'german-office'
SELECT substring(name FROM '_(.*)') FROM public.pgmigrations ORDER BY run_on DESC, id DESC LIMIT 1;

-- check: the next payment gets a new number
-- expect: t
SELECT last_value >= (SELECT max(id) FROM public.payment) FROM public.payment_id_seq;

-- check: readers may read words
-- expect: t
SELECT has_table_privilege('polyladder_readonly', 'learning.word', 'SELECT');
