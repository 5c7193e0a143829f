-- What runs inside the database: functions, triggers, views, rules, policies.

SET ROLE polyladder_app;

CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := clock_timestamp();
    RETURN NEW;
END
$$;

-- A body full of what splits a dump wrongly: other dollar quotes, semicolons, BEGIN and END as text.
CREATE FUNCTION learning.describe(what text DEFAULT 'it''s; "that"', VARIADIC more text[] DEFAULT '{}') RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER COST 50 SET search_path TO 'learning', 'pg_temp' AS $body$
DECLARE
    said text := $q$BEGIN; -- not a comment; $$ nor an end $$; END$q$;
BEGIN
    /* a comment /* in a comment; */ still one */
    EXECUTE format($x$SELECT %L || ';' || E'\\.' || $1$x$, what) INTO said USING array_to_string(more, ', ');
    RETURN said;
END;
$body$;

CREATE FUNCTION learning.mastery(grade smallint, ease real) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    BEGIN ATOMIC
        SELECT CASE WHEN grade >= 4 AND ease > 2 THEN 'known' WHEN grade >= 3 THEN 'learning' ELSE 'new' END;
    END;

CREATE FUNCTION learning.due_words(learner bigint, at timestamp with time zone DEFAULT now())
    RETURNS TABLE (word_id integer, lemma text, due_at timestamp with time zone)
    LANGUAGE sql STABLE ROWS 50
    BEGIN ATOMIC
        SELECT w.id, w.lemma, max(r.reviewed_at + r.interval_days * '1 day'::interval)
            FROM learning.review r JOIN learning.word w ON w.id = r.word_id
            WHERE r.user_number = learner
            GROUP BY w.id
            HAVING max(r.reviewed_at + r.interval_days * '1 day'::interval) < at;
    END;

CREATE PROCEDURE learning.finish_session(session bigint, INOUT xp integer)
    LANGUAGE plpgsql AS $$
BEGIN
    UPDATE learning.session s SET ended_at = clock_timestamp(), xp = finish_session.xp
        WHERE s.id = session RETURNING s.xp INTO finish_session.xp;
END $$;

CREATE FUNCTION learning.longer(integer, integer) RETURNS integer
    LANGUAGE sql IMMUTABLE RETURN greatest($1, $2);
CREATE AGGREGATE learning.longest(integer) (SFUNC = learning.longer, STYPE = integer, INITCOND = '0');

CREATE OPERATOR learning.=~~ (FUNCTION = public.similarity, LEFTARG = text, RIGHTARG = text, COMMUTATOR = OPERATOR(learning.=~~));

CREATE FUNCTION public.check_booking() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF upper(NEW.during) - lower(NEW.during) > '4 hours' THEN
        RAISE EXCEPTION 'a booking of % is too long', upper(NEW.during) - lower(NEW.during) USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER users_touch BEFORE UPDATE ON public.users
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION public.touch();
CREATE CONSTRAINT TRIGGER booking_is_short AFTER INSERT OR UPDATE OF during ON learning.tutor_booking
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.check_booking();
CREATE TRIGGER "nicht benutzt" BEFORE INSERT ON learning.deck FOR EACH ROW EXECUTE FUNCTION public.touch();
ALTER TABLE learning.deck DISABLE TRIGGER "nicht benutzt";

CREATE VIEW public.active_users AS
    SELECT id, number, display_name, native_language, last_seen_at FROM public.users WHERE deleted_at IS NULL;
CREATE VIEW learning.active_learners WITH (security_barrier = true) AS
    SELECT u.number, u.display_name, count(s.id) AS sessions, coalesce(sum(s.xp), 0) AS xp
    FROM public.active_users u LEFT JOIN learning.session s ON s.user_id = u.id
    GROUP BY u.number, u.display_name;
CREATE VIEW learning.top_learners AS
    SELECT rank() OVER (ORDER BY xp DESC, number) AS place, l.* FROM learning.active_learners l ORDER BY xp DESC, number LIMIT 100;
CREATE VIEW learning."Bücher & Übungen" ("Titel", "Stufe") WITH (security_invoker = true) AS
    SELECT title, level FROM learning.course WHERE is_published WITH LOCAL CHECK OPTION;
CREATE RECURSIVE VIEW public.invite_chain (code, depth) AS
    SELECT code, 0 FROM public.invite WHERE invited_by_code IS NULL
    UNION ALL
    SELECT i.code, c.depth + 1 FROM public.invite i JOIN invite_chain c ON i.invited_by_code = c.code;
CREATE MATERIALIZED VIEW learning.leaderboard AS
    SELECT t.place, t.display_name, t.xp FROM learning.top_learners t;
CREATE MATERIALIZED VIEW learning.words_per_level AS
    SELECT language_code, level, count(*) AS words FROM learning.word GROUP BY language_code, level WITH NO DATA;

CREATE RULE keep_flags AS ON DELETE TO public.feature_flag DO INSTEAD (
    UPDATE public.feature_flag SET retired_at = now() WHERE name = OLD.name;
    INSERT INTO public.feature_flag_history (flag, what) VALUES (OLD.name, 'retired; kept');
);

ALTER TABLE learning.note ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_notes ON learning.note TO polyladder_app
    USING (user_number = nullif(current_setting('polyladder.user_number', true), '')::bigint);
CREATE POLICY shared_notes ON learning.note AS PERMISSIVE FOR SELECT TO PUBLIC USING (is_shared);
CREATE POLICY no_empty_notes ON learning.note AS RESTRICTIVE FOR INSERT WITH CHECK (body <> '');

RESET ROLE;

CREATE FUNCTION audit.forbid() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%.% is append-only', TG_TABLE_SCHEMA, TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON audit.log FOR EACH ROW EXECUTE FUNCTION audit.forbid();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON audit.log EXECUTE FUNCTION audit.forbid();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON audit.login FOR EACH ROW EXECUTE FUNCTION audit.forbid();
ALTER TABLE audit.login ENABLE ALWAYS TRIGGER append_only;
