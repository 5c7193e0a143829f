-- The rows: made on the server out of each row's number, so that the same scale gives the same rows everywhere.
-- "-- step: …" parts the file for the progress bar. Circles of foreign keys are closed by the numbers themselves;
-- the session has session_replication_role = replica, so no trigger fires and no key is checked row by row.

-- step: tools
CREATE FUNCTION pg_temp.rows(base integer) RETURNS integer LANGUAGE sql IMMUTABLE
    RETURN greatest(3, round(base * current_setting('polyladder.scale')::numeric)::integer);
CREATE FUNCTION pg_temp.dice(n bigint, salt bigint, sides integer) RETURNS integer LANGUAGE sql IMMUTABLE
    RETURN ((hashint8extended(n, salt) & 9223372036854775807) % sides)::integer;
-- As in life: a few words and users are met again and again.
CREATE FUNCTION pg_temp.skewed(n bigint, salt bigint, sides integer) RETURNS integer LANGUAGE sql IMMUTABLE
    RETURN 1 + (pg_temp.dice(n, salt, sides)::bigint * pg_temp.dice(n, salt + 7, 1000) / 1000)::integer;
CREATE FUNCTION pg_temp.pick(choices text[], n bigint, salt bigint) RETURNS text LANGUAGE sql IMMUTABLE
    RETURN choices[1 + pg_temp.dice(n, salt, cardinality(choices))];
CREATE FUNCTION pg_temp.user_id(n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE
    RETURN overlay(overlay(md5('user ' || n) PLACING '4' FROM 13) PLACING 'a' FROM 17)::uuid;
CREATE FUNCTION pg_temp.some_user(n bigint, salt bigint) RETURNS uuid LANGUAGE sql IMMUTABLE
    RETURN pg_temp.user_id(pg_temp.skewed(n, salt, pg_temp.rows(8000)));
-- The instant of event `n` of `total`, spread over the year before the evening of 4 January 2026.
CREATE FUNCTION pg_temp.moment(n bigint, total integer) RETURNS timestamp with time zone LANGUAGE sql IMMUTABLE
    RETURN '2025-01-05 06:00+00'::timestamptz
        + (n * 31500000000 / total * 1000 + pg_temp.dice(n, 3, 86400000) * 1000::bigint) * '1 microsecond'::interval;
CREATE FUNCTION pg_temp.first_name(n bigint) RETURNS text LANGUAGE sql IMMUTABLE
    RETURN pg_temp.pick('{Anna,Björn,Çelik,Dóra,Émile,Fátima,Giulia,Håkon,Inès,José,Karla,Łukasz,María,Noël,Ömer,
        Paula,Quirin,Renée,Søren,Tomáš,Ursula,Václav,Weronika,Xiomara,Yūki,Zoë,Ольга,Дмитрий,さくら,小明,مريم,דוד}',
        n, 11);
CREATE FUNCTION pg_temp.german(n bigint, salt bigint) RETURNS text LANGUAGE sql IMMUTABLE RETURN
    pg_temp.pick('{Meine Schwester,Der alte Bäcker,Unser Nachbar,Die Lehrerin,Das müde Kind,Ein Fremder,Der Schaffner,
        Jede Woche meine Oma,Die Straßenbahn,Der Prüfer,Niemand,Mein bester Freund,Die Ärztin,Das Mädchen}', n, salt)
    || ' ' || pg_temp.pick('{findet,vergisst,sucht,trägt,kauft,beschreibt,verliert,übersetzt,öffnet,schließt,
        bekommt,zeichnet,erklärt,grüßt,versteckt,repariert}', n, salt + 1)
    || ' ' || pg_temp.pick('{heute,am Morgen,später,vielleicht,schon wieder,im Frühling,ohne Grund,höflich,
        mit großer Mühe,zum Glück,nachts,trotzdem}', n, salt + 2)
    || ' ' || pg_temp.pick('{den Schlüssel,ein Wörterbuch,die Brötchen,das Fenster,eine Überraschung,den Zug,
        die Hausaufgabe,einen Löwen,das Gedicht,den Käse,ein Lied,die Übung,den Regenschirm,seinen Namen}', n, salt + 3)
    || '.';
CREATE FUNCTION pg_temp.english(n bigint, salt bigint) RETURNS text LANGUAGE sql IMMUTABLE RETURN
    pg_temp.pick('{My sister,The old baker,Our neighbour,The teacher,A tired child,Some stranger,The conductor,
        Every week my granny,The tram,Nobody,My best friend,The doctor,Our cat,The examiner}', n, salt)
    || ' ' || pg_temp.pick('{finds,forgets,looks for,carries,buys,describes,loses,translates,opens,closes,gets,draws,
        explains,greets,hides,mends}', n, salt + 1)
    || ' ' || pg_temp.pick('{the key,a dictionary,the rolls,the window,a surprise,the train,the homework,a lion,
        the poem,the cheese,a song,the exercise,the umbrella,a name}', n, salt + 3)
    || ' ' || pg_temp.pick('{today,in the morning,later,perhaps,once again,in spring,for no reason,politely,
        with great effort,luckily,at night,all the same}', n, salt + 2) || '.';
CREATE FUNCTION pg_temp.lemma(n bigint) RETURNS text LANGUAGE sql IMMUTABLE RETURN
    pg_temp.pick('{Apfel,Bücher,Brücken,Dorf,Ernte,Fahrrad,Flügel,Garten,Gemüse,Geschichts,Glück,Hafen,Haus,Herbst,
        Himmels,Käse,Kinder,Küchen,Licht,Mond,Morgen,Nebel,Pfeffer,Regen,Reise,Rücken,Salz,Schatten,Schiff,Schnee,
        Sommer,Spiel,Sprach,Stadt,Stern,Straßen,Tür,Vogel,Wasser,Wörter,Zahn,Zauber,Zeit,Zucker}', n, 21)
    || pg_temp.pick('{anzug,bahn,bau,becher,blatt,brief,dach,deckel,farbe,fest,frage,gang,geld,gefühl,grund,halter,
        hütte,karte,kiste,korb,lehrer,löffel,macher,meister,mühle,nadel,platz,preis,raum,rätsel,reihe,schule,schlüssel,
        spiegel,stück,tasche,träger,uhr,verein,wagen,weg,werk,wunsch,zeichen,zug,übung}', n, 22);

-- step: languages and plans
INSERT INTO public.language (code, name, own_name, is_right_to_left, default_course_id) VALUES
    ('de', 'German', 'Deutsch', false, 1), ('es', 'Spanish', 'español', false, 2), ('it', 'Italian', 'italiano', false, 3),
    ('fr', 'French', 'français', false, 4), ('en', 'English', 'English', false, NULL), ('ja', 'Japanese', '日本語', false, 5),
    ('ar', 'Arabic', 'العربية', true, NULL), ('pt-BR', 'Portuguese (Brazil)', 'português', false, NULL);
INSERT INTO public.country (code, name, languages, vat) VALUES
    ('DE', 'Germany', '{de}', 19), ('CH', 'Switzerland', '{de,fr,it}', 8.1), ('ES', 'Spain', '{es}', 21),
    ('IT', 'Italy', '{it,de}', 22), ('JP', 'Japan', '{ja}', 10), ('AT', 'Österreich', '{de}', 20), ('BR', 'Brazil', '{pt-BR}', 17);
INSERT INTO public.subscription_plan (code, title, price, duration, features) VALUES
    ('free', 'Free', (0, 'EUR'), '100 years', '{}'), ('month', 'Monthly', (9.99, 'EUR'), '1 mon', '{offline}'),
    ('year', 'Yearly, "best"', (79.90, 'EUR'), '1 year', '{offline,tutor,"a, b","c\\d",NULL}');
INSERT INTO public.feature_flag (name, is_on, rollout, retired_at) VALUES
    ('dark-mode', true, 100, NULL), ('speech-scores', true, 12.5, NULL), ('leagues', false, 0, '2025-06-01 12:00+02');
INSERT INTO public.pgmigrations (name, run_on)
    SELECT (1733040000000 + n * 1209600123)::text || '_' || name, '2024-12-01 08:00:00.123'::timestamp + n * '14 days'::interval
    FROM unnest('{initial-schema,users-email-domain,courses,words-and-forms,partition-reviews,decks,progress-events,
        notes-row-security,payments,invoice-numbers,tutors,bookings-exclude-overlap,recordings,audit-append-only,
        exercise-results-by-skill,leaderboard,search-trigrams,achievements,data-exports,feature-flags,german-office}'::text[])
        WITH ORDINALITY AS m (name, n);
INSERT INTO learning.achievement (code, title, points) VALUES
    ('first', 'Der erste Schritt', 5), ('week', 'Sieben Tage 🔥', 20), ('owl', 'Nachteule 🦉', 10), ('poly', 'Polyglott', 500);

-- step: users
INSERT INTO public.users (id, email, display_name, native_language, country_code, role, interests, preferences, avatar,
        current_session_id, streak_days, created_at, last_seen_at, updated_at, deleted_at)
    SELECT pg_temp.user_id(n), 'learner' || n || '@' || pg_temp.pick('{example.org,example.com,mail.example,post.example}', n, 1),
        pg_temp.first_name(n) || ' ' || chr(65 + pg_temp.dice(n, 2, 26)) || '.', pg_temp.pick('{de,es,it,fr,en,ja,ar,pt-BR}', n, 4),
        nullif(pg_temp.pick('{DE,CH,ES,IT,JP,AT,BR,""}', n, 5), ''), pg_temp.pick('{learner,learner,learner,learner,tutor,editor}', n, 6),
        ARRAY[pg_temp.pick('{travel,work,family,love}', n, 8), pg_temp.pick('{music,"rock, pop",films,books}', n, 9)],
        jsonb_build_object('sound', n % 3 > 0, 'goal', 5 * pg_temp.dice(n, 10, 12), 'font', pg_temp.pick('{serif,sans}', n, 12)),
        CASE WHEN n % 50 = 1 THEN decode(repeat(md5(n::text), 8), 'hex') END,
        CASE WHEN n % 3 = 0 THEN pg_temp.skewed(n, 13, pg_temp.rows(15000)) END, pg_temp.dice(n, 14, 200),
        pg_temp.moment(n, pg_temp.rows(8000)), pg_temp.moment(n, pg_temp.rows(8000)) + pg_temp.dice(n, 15, 9000000) * '1 s'::interval,
        '2026-01-04 20:00+00', CASE WHEN n % 40 = 0 THEN timestamptz '2026-01-03 11:11:11.5+00' END
    FROM generate_series(1, pg_temp.rows(8000)) AS n;
INSERT INTO public.user_settings (user_id, daily_goal_minutes, reminder_time, quiet_hours, theme, extra)
    SELECT pg_temp.user_id(n), 5 + pg_temp.dice(n, 1, 55), time '18:00' + pg_temp.dice(n, 2, 240) * '1 min'::interval,
        '1 mon -3 days 08:00:00.5', pg_temp.pick('{system,light,dark}', n, 3), CASE WHEN n % 5 = 0 THEN 'null'::jsonb END
    FROM generate_series(1, pg_temp.rows(8000), 2) AS n;
INSERT INTO public.device (user_id, platform, push_token, last_address, app_version, seen_at)
    SELECT pg_temp.user_id(n), pg_temp.pick('{ios,android,web}', n, 1), md5('push ' || n), '10.0.0.0'::inet + pg_temp.dice(n, 2, 16000000),
        '4.' || pg_temp.dice(n, 3, 20) || '.' || pg_temp.dice(n, 4, 9), pg_temp.moment(n, pg_temp.rows(8000))
    FROM generate_series(1, pg_temp.rows(8000)) AS n;
INSERT INTO public.subscription (user_id, plan_code, valid, renews)
    SELECT pg_temp.user_id(n * 2), pg_temp.pick('{free,month,month,year}', n, 1),
        daterange('2025-01-05'::date + pg_temp.dice(n, 2, 300), '2025-12-01'::date + pg_temp.dice(n, 3, 400)), n % 4 > 0
    FROM generate_series(1, pg_temp.rows(8000) / 2) AS n;
INSERT INTO public.payment (subscription_id, paid, status, paid_on, reference)
    SELECT pg_temp.skewed(n, 1, pg_temp.rows(8000) / 2), ROW((99 + n % 700)::numeric / 10, 'EUR')::public.money_amount, pg_temp.pick('{open,paid,paid,failed,refunded}', n, 2),
        '2025-01-05'::date + pg_temp.dice(n, 3, 360), CASE WHEN n % 97 = 0 THEN '' WHEN n % 7 > 0 THEN 'RF' || upper(left(md5(n::text), 14)) END
    FROM generate_series(1, pg_temp.rows(9000)) AS n;
INSERT INTO public.notification (user_id, kind, title, body, sent_at, read_at)
    SELECT pg_temp.some_user(n, 1), pg_temp.pick('{reminder,streak,friend,offer}', n, 2), pg_temp.first_name(n) || ' wartet auf dich',
        pg_temp.german(n, 30) || E'\n' || pg_temp.english(n, 40), pg_temp.moment(n, pg_temp.rows(20000)),
        CASE WHEN n % 3 > 0 THEN pg_temp.moment(n, pg_temp.rows(20000)) + pg_temp.dice(n, 5, 90000) * '1 s'::interval END
    FROM generate_series(1, pg_temp.rows(20000)) AS n;
INSERT INTO public.session_cache (token_hash, user_id, state, expires_at)
    SELECT sha256(n::text::bytea), pg_temp.some_user(n, 1), jsonb_build_object('csrf', md5(n::text), 'tabs', n % 4), '2026-01-06 02:00+00'
    FROM generate_series(1, pg_temp.rows(1500)) AS n;
INSERT INTO public.invite (code, inviter_id, invited_by_code, used_at)
    SELECT md5('invite ' || n), pg_temp.some_user(n, 1), CASE WHEN n > 3 THEN md5('invite ' || (n / 2)) END, NULL
    FROM generate_series(1, pg_temp.rows(500)) AS n;
INSERT INTO public.support_note (user_id, body, weight, price, bits)
    SELECT pg_temp.some_user(n, 1), body, (ARRAY['NaN', '-Infinity', '0.1', '1e-300', '-0', '3.141592653589793'])[1 + n % 6]::float8,
        (n * 1234.56)::numeric::money, (n::integer)::bit(8)
    FROM unnest(ARRAY['', ' ', '\N', '\.', E'\\.\n', E'a\tb\\c\r\nd\be\ff\vg', 'NULL', '"', '''', '$$', '$body$', '-- not a comment', '/* open',
        'Robert''); DROP TABLE public.users; --', '\! touch owned', '\unrestrict `id`', '\connect postgres', E'\n\\.\nDROP TABLE public.users;\n',
        E'--\n-- PostgreSQL database dump complete\n--\n', 'COPY public.users (id) FROM stdin;', 'für Ärzte: 5 € – naïve “quotes”', '👩‍👩‍👧 🇨🇭', E'e\u0301 é',
        E'\u200f\u202eabc', E'\x01\x7f', repeat('x', 3000)]) WITH ORDINALITY AS t (body, n);

-- step: courses and words
INSERT INTO learning.course (language_code, taught_in, title, level, is_published)
    SELECT code, CASE code WHEN 'en' THEN 'de' ELSE 'en' END, title || ' ' || level, level, level < 'C1'
    FROM unnest(enum_range(NULL::public.level)) AS level,
        (VALUES ('de', 'Deutsch Schritt für Schritt'), ('es', 'Español vivo'), ('it', 'Italiano subito'), ('fr', 'Le français, ça va !'),
            ('ja', 'やさしい日本語')) AS c (code, title);
INSERT INTO learning.unit (course_id, "position", title, goals)
    SELECT 1 + n % 30, 1 + n / 30, 'Unit ' || (1 + n / 30) || ': ' || pg_temp.lemma(n), ARRAY[pg_temp.english(n, 50), pg_temp.english(n, 60)]
    FROM generate_series(0, pg_temp.rows(400) - 1) AS n;
INSERT INTO learning.lesson (unit_id, skill, title, content, minutes)
    SELECT 1 + n % pg_temp.rows(400), (enum_range(NULL::public.skill))[1 + n % 6], pg_temp.lemma(n),
        jsonb_build_object('intro', pg_temp.english(n, 1), 'dialog', jsonb_build_array(pg_temp.german(n, 2), pg_temp.german(n, 3)),
            'words', jsonb_build_array(n, n * 3, n * 7)), 5 + n % 20
    FROM generate_series(1, pg_temp.rows(2000)) AS n;
INSERT INTO learning.word (language_code, lemma, sort_key, part_of_speech, level, forms, example, frequency)
    SELECT pg_temp.pick('{de,de,de,es,it,fr,ja}', n, 1), pg_temp.lemma(n), lower(pg_temp.lemma(n)), pg_temp.pick('{noun,noun,verb,adjective,phrase}', n, 2),
        (enum_range(NULL::public.level))[1 + pg_temp.dice(n, 3, 6)], ARRAY[pg_temp.lemma(n) || 's', NULL, lower(pg_temp.lemma(n)) || 'n'],
        CASE WHEN n % 4 > 0 THEN pg_temp.german(n, 4) END, (1 / (n + 0.5))::real
    FROM generate_series(1, pg_temp.rows(20000)) AS n;
INSERT INTO learning.translation (word_id, language_code, text, is_literal, votes)
    SELECT 1 + n % pg_temp.rows(20000), pg_temp.pick('{en,en,es,it,fr,ja,pt-BR}', n, 1),
        pg_temp.pick('{the key,the dictionary,the rolls,the window,a surprise,the train,the homework,a lion,the poem,the cheese}', n, 2)
            || ' of ' || lower(pg_temp.lemma(n)), n % 9 = 0, pg_temp.dice(n, 3, 50) * pg_temp.dice(n, 4, 9) / 10
    FROM generate_series(1, pg_temp.rows(40000)) AS n;
INSERT INTO learning.sentence (language_code, text, words, author)
    SELECT 'de', pg_temp.german(n, 1) || ' ' || pg_temp.german(n, 11), ARRAY[n, n * 2, n * 3] , CASE WHEN n % 5 = 0 THEN pg_temp.first_name(n) END
    FROM generate_series(1, pg_temp.rows(10000)) AS n;
INSERT INTO learning.exercise (lesson_id, skill, question, answers, points)
    SELECT 1 + n % pg_temp.rows(2000), (enum_range(NULL::public.skill))[1 + n % 6], jsonb_build_object('text', pg_temp.german(n, 1), 'gap', n % 5),
        ARRAY[pg_temp.lemma(n), pg_temp.lemma(n + 1), pg_temp.lemma(n + 2)], 5 + n % 10 + 0.25
    FROM generate_series(1, pg_temp.rows(6000)) AS n;

-- step: what people did
INSERT INTO learning.session (user_id, lesson_id, started_at, ended_at, xp)
    SELECT pg_temp.some_user(n, 1), 1 + pg_temp.dice(n, 2, pg_temp.rows(2000)), pg_temp.moment(n, pg_temp.rows(15000)),
        pg_temp.moment(n, pg_temp.rows(15000)) + (60 + pg_temp.dice(n, 4, 1800)) * '1 s'::interval, pg_temp.dice(n, 5, 60)
    FROM generate_series(1, pg_temp.rows(15000)) AS n;
INSERT INTO learning.exercise_result (skill, user_id, exercise_id, score, answered_at)
    SELECT (enum_range(NULL::public.skill))[1 + pg_temp.dice(n, 1, 6)], pg_temp.some_user(n, 2), 1 + pg_temp.dice(n, 3, pg_temp.rows(6000)),
        pg_temp.dice(n, 4, 10001) / 100.0, pg_temp.moment(n, pg_temp.rows(25000))
    FROM generate_series(1, pg_temp.rows(25000)) AS n;

-- step: reviews
INSERT INTO learning.review (user_number, word_id, grade, ease, interval_days, elapsed_ms, reviewed_at)
    SELECT pg_temp.skewed(n, 1, pg_temp.rows(8000)), pg_temp.skewed(n, 2, pg_temp.rows(20000)), pg_temp.dice(n, 4, 6),
        (1.3 + pg_temp.dice(n, 5, 240) / 100.0)::real, pg_temp.dice(n, 6, 14) * pg_temp.dice(n, 7, 14), 600 + pg_temp.skewed(n, 8, 30000),
        pg_temp.moment(n, pg_temp.rows(163000))
    FROM generate_series(1, pg_temp.rows(163000)) AS n;

-- step: progress events
INSERT INTO learning.progress_event (user_id, kind, payload, happened_at)
    SELECT pg_temp.some_user(n, 1), pg_temp.pick('{lesson.finished,lesson.started,word.learned,streak.extended,league.moved}', n, 2),
        jsonb_build_object('lesson', pg_temp.dice(n, 3, pg_temp.rows(2000)), 'score', pg_temp.dice(n, 4, 1001) / 10.0, 'mistakes',
            jsonb_build_array(pg_temp.lemma(n), pg_temp.lemma(n + 5)), 'app', '4.' || pg_temp.dice(n, 6, 20), 'offline', n % 11 = 0,
            'answer', pg_temp.german(n, 70), 'trace', md5(n::text)),
        pg_temp.moment(n, pg_temp.rows(42000))
    FROM generate_series(1, pg_temp.rows(42000)) AS n;

-- step: decks, notes and texts
INSERT INTO learning.deck (id, owner_id, title, color)
    SELECT md5('deck ' || n)::uuid, pg_temp.user_id(n), pg_temp.lemma(n), '#' || left(md5(n::text), 6) FROM generate_series(1, pg_temp.rows(1500)) AS n;
INSERT INTO learning.deck_word (deck_id, word_id)
    SELECT md5('deck ' || (1 + n / 8))::uuid, 1 + (n * 31) % pg_temp.rows(20000) FROM generate_series(0, pg_temp.rows(1500) * 8 - 1) AS n;
INSERT INTO learning.note (user_number, body, is_shared, edited_at)
    SELECT pg_temp.skewed(n, 1, pg_temp.rows(8000)), pg_temp.german(n, 2) || E'\n→ ' || pg_temp.english(n, 2), n % 10 = 0, pg_temp.moment(n, pg_temp.rows(3000))
    FROM generate_series(1, pg_temp.rows(3000)) AS n;
INSERT INTO learning.content (title, published_at) VALUES ('Impressum', '2025-01-01 00:00+00'), ('Datenschutz', NULL);
INSERT INTO learning.article (title, slug, published_at, body)
    SELECT pg_temp.lemma(n), 'artikel-' || n, pg_temp.moment(n, 300), (SELECT string_agg(pg_temp.german(n * 1000 + s, s), CASE WHEN s % 7 = 0 THEN E'\n\n' ELSE ' ' END ORDER BY s)
        FROM generate_series(1, CASE WHEN n = 1 THEN 1000 ELSE 20 + pg_temp.dice(n, 1, 60) END) AS s)
    FROM generate_series(1, pg_temp.rows(250)) AS n;
INSERT INTO learning.dialogue (title, speakers, lines)
    SELECT pg_temp.lemma(n), ARRAY[pg_temp.first_name(n), pg_temp.first_name(n + 1)], jsonb_build_array(pg_temp.german(n, 1), pg_temp.german(n, 2), pg_temp.english(n, 3))
    FROM generate_series(1, pg_temp.rows(300)) AS n;
INSERT INTO learning.tutor (user_id, teaches, hourly_rate)
    SELECT pg_temp.user_id(n * 3), ARRAY[pg_temp.pick('{de,es}', n, 1), 'en']::public.language_code[], ROW(20 + n % 30, 'EUR')::public.money_amount FROM generate_series(1, pg_temp.rows(60)) AS n;
INSERT INTO learning.tutor_booking (tutor_id, during)
    SELECT 1 + n % pg_temp.rows(60), tstzrange('2025-03-01 08:00+00'::timestamptz + n * '45 min'::interval, '2025-03-01 08:45+00'::timestamptz + n * '45 min'::interval)
    FROM generate_series(1, pg_temp.rows(1200)) AS n;
INSERT INTO learning.user_achievement (user_id, code, won_on)
    SELECT pg_temp.user_id(n), pg_temp.pick('{first,week,owl,poly}', n, 1), '2025-02-01'::date + pg_temp.dice(n, 2, 300) FROM generate_series(1, pg_temp.rows(4000)) AS n;
INSERT INTO learning."Lernfortschritt Übersicht"
    SELECT n, pg_temp.lemma(n) || 'straße ' || n % 90, pg_temp.dice(n, 1, 10000) / 100.0, n % 2 = 0, CASE WHEN n % 3 > 0 THEN '進捗 ' || n END
    FROM generate_series(1, pg_temp.rows(1000)) AS n;
INSERT INTO "Büro"."it's ""quoted""" ("Größe (cm)", "a\b") VALUES (1.50, 'a\b'), ('NaN', E'\\\\'), (-0.000000000000000001, NULL);
INSERT INTO "Büro"."Rechnung"
    SELECT n, pg_temp.first_name(n) || E' & Söhne\t"GmbH"', ARRAY[ROW(n + 0.99, 'EUR'), NULL, ROW(NULL, 'C"F')]::public.money_amount[] FROM generate_series(1, pg_temp.rows(200)) AS n;
INSERT INTO "Büro".without_columns DEFAULT VALUES;
INSERT INTO "Büro".without_columns DEFAULT VALUES;

-- step: the audit trail
INSERT INTO audit.log (actor, action, object, before, after, at)
    SELECT pg_temp.pick('{polyladder_app,admin,"worker (nightly)"}', n, 1), pg_temp.pick('{update,insert,delete}', n, 2), 'users/' || pg_temp.some_user(n, 3),
        jsonb_build_object('streak', pg_temp.dice(n, 4, 200)), jsonb_build_object('streak', 1 + pg_temp.dice(n, 4, 200), 'name', pg_temp.first_name(n)),
        pg_temp.moment(n, pg_temp.rows(25000))
    FROM generate_series(1, pg_temp.rows(25000)) AS n;
INSERT INTO audit.login (user_number, address, agent, succeeded, at)
    SELECT pg_temp.skewed(n, 1, pg_temp.rows(8000)), CASE WHEN n % 5 = 0 THEN '2001:db8::'::inet ELSE '192.0.2.0'::inet END + pg_temp.dice(n, 2, 65000),
        pg_temp.pick('{Mozilla/5.0 (X11; Linux x86_64),PolyLadder/4.2 (iPhone; iOS 18.1),PolyLadder/4.1 (Android 15)}', n, 4), n % 17 > 0, pg_temp.moment(n, pg_temp.rows(15000))
    FROM generate_series(1, pg_temp.rows(15000)) AS n;
INSERT INTO audit.data_export (user_id, requested_at, network, hardware)
    SELECT pg_temp.user_id(n), pg_temp.moment(n, 40), '192.0.2.0/24', '08:00:2b:01:02:03' FROM generate_series(1, 20) AS n;

-- step: recordings
INSERT INTO learning.recording (word_id, speaker, sound, waveform)
    SELECT n, pg_temp.first_name(n),
        lo_from_bytea(91000 + n, (SELECT coalesce(decode(string_agg(md5(n || ' ' || i), '' ORDER BY i), 'hex'), '') FROM generate_series(1, size) AS i)),
        ARRAY[n, -n, 32767]::smallint[]
    FROM unnest(ARRAY[200, 0, 1250, 4000, 6400]) WITH ORDINALITY AS s (size, n);
