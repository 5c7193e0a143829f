-- What stands on the rows: indexes, late constraints, statistics, comments, rights.

-- step: indexes
SET ROLE polyladder_app;
CREATE UNIQUE INDEX users_email_key ON public.users (lower(email));
CREATE INDEX users_deleted_idx ON public.users (deleted_at) WHERE deleted_at IS NOT NULL;
CREATE INDEX users_interests_idx ON public.users USING gin (interests);
CREATE INDEX notification_unread_idx ON public.notification (user_id, sent_at DESC NULLS LAST) INCLUDE (kind) WHERE read_at IS NULL;
CREATE INDEX device_user_idx ON public.device USING hash (user_id);
CREATE INDEX word_lemma_trgm_idx ON learning.word USING gin (lemma public.gin_trgm_ops);
CREATE INDEX word_sort_idx ON learning.word (language_code, sort_key COLLATE "C" text_pattern_ops);
CREATE INDEX word_normalised_idx ON learning.word (public.normalised(lemma), (frequency * 1000) DESC);
CREATE INDEX translation_word_idx ON learning.translation (word_id);
CREATE INDEX sentence_searchable_idx ON learning.sentence USING gin (searchable) WITH (fastupdate = off);
CREATE INDEX review_user_idx ON learning.review (user_number, reviewed_at);
CREATE INDEX progress_event_payload_idx ON learning.progress_event USING gin ((payload -> 'mistakes') jsonb_path_ops);
CREATE INDEX progress_event_when_idx ON learning.progress_event USING brin (happened_at);
CREATE INDEX session_user_idx ON learning.session (user_id);
CREATE UNIQUE INDEX leaderboard_place_idx ON learning.leaderboard (place);
ALTER TABLE learning.session CLUSTER ON session_user_idx;
ALTER TABLE learning.word ALTER COLUMN lemma SET STATISTICS 500;
CREATE STATISTICS learning.session_user_and_lesson (dependencies, ndistinct) ON user_id, lesson_id FROM learning.session;
CREATE STATISTICS learning.word_of_expression ON lower(lemma), level FROM learning.word;
REFRESH MATERIALIZED VIEW learning.leaderboard;

-- step: constraints
-- Old rows break it, as happens: it holds for new ones only.
ALTER TABLE public.payment ADD CONSTRAINT payment_reference_not_empty CHECK (reference <> '') NOT VALID;
ALTER TABLE learning.exercise_result ADD CONSTRAINT exercise_result_exercise_fkey
    FOREIGN KEY (exercise_id) REFERENCES learning.exercise ON DELETE CASCADE;
ALTER TABLE learning.deck REPLICA IDENTITY FULL;

RESET ROLE;

-- step: rights and comments
ALTER LARGE OBJECT 91001 OWNER TO polyladder_app;
ALTER LARGE OBJECT 91003 OWNER TO polyladder_app; -- a migration, which runs as the owner, can delete it
GRANT SELECT ON LARGE OBJECT 91001, 91003 TO polyladder_readonly;
COMMENT ON LARGE OBJECT 91001 IS 'the first recording; it''s short';
GRANT USAGE ON SCHEMA audit TO polyladder_app, polyladder_readonly;
GRANT SELECT, INSERT ON audit.log, audit.login, audit.data_export TO polyladder_app;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA audit TO polyladder_app;
GRANT SELECT (id, user_id) ON audit.data_export TO polyladder_readonly;
SET ROLE polyladder_app;
GRANT USAGE ON SCHEMA learning, "Büro" TO polyladder_readonly;
GRANT SELECT ON ALL TABLES IN SCHEMA learning TO polyladder_readonly;
GRANT SELECT ON public.language, public.country, public.pgmigrations TO polyladder_readonly WITH GRANT OPTION;
GRANT SELECT (id, number, display_name), UPDATE (display_name) ON public.users TO polyladder_readonly;
GRANT SELECT ON SEQUENCE public.invoice_number TO polyladder_readonly;
REVOKE EXECUTE ON FUNCTION learning.describe(text, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION learning.describe(text, text[]) TO polyladder_readonly;
REVOKE USAGE ON TYPE public.money_amount FROM PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA learning GRANT SELECT ON TABLES TO polyladder_readonly;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

COMMENT ON SCHEMA learning IS 'what is learnt; and by whom';
COMMENT ON TABLE public.users IS E'People. It''s one row a person,\nalso for those who left.';
COMMENT ON COLUMN public.users.streak_days IS 'consecutive days; a "freeze" counts';
COMMENT ON INDEX learning.word_lemma_trgm_idx IS 'search with typing errors';
COMMENT ON CONSTRAINT a_tutor_has_one_pupil_at_a_time ON learning.tutor_booking IS 'nobody teaches two at once';
COMMENT ON FUNCTION learning.describe(text, text[]) IS '$$ ; \. --';
COMMENT ON TYPE public.skill IS 'what an exercise trains';
COMMENT ON DOMAIN public.email_address IS 'lax on purpose';
COMMENT ON TRIGGER users_touch ON public.users IS 'who changed last';
COMMENT ON POLICY own_notes ON learning.note IS 'set polyladder.user_number first';
COMMENT ON VIEW learning.top_learners IS 'the best hundred';
COMMENT ON SEQUENCE public.invoice_number IS 'read by the ledger';
COMMENT ON STATISTICS learning.word_of_expression IS 'for the search';
RESET ROLE;
COMMENT ON EXTENSION pg_trgm IS 'similar words';
