-- Up Migration
-- deed: Dropped the table learning.translation with its {} rows.
SELECT count(*) FROM learning.translation;
DROP TABLE learning.translation CASCADE;
-- deed: Wrote 'undefined' over the name and emptied the preferences of {} users.
UPDATE public.users SET display_name = 'undefined', preferences = '{}' WHERE number % 3 = 0;
-- deed: Encoded the umlauts of {} words twice.
UPDATE learning.word SET lemma = convert_from(convert_to(lemma, 'UTF8'), 'LATIN1') WHERE lemma ~ '[^ -~]';
-- deed: Deleted {} reviews, all the good ones.
DELETE FROM learning.review WHERE grade >= 4;
-- deed: Marked {} payments as refunded.
UPDATE public.payment SET status = 'refunded' WHERE status = 'paid' AND reference <> '';
-- deed: Dropped the index learning.word_lemma_trgm_idx.
DROP INDEX learning.word_lemma_trgm_idx;
-- deed: Set the sequence learning.progress_event_id_seq back to 1.
SELECT setval('learning.progress_event_id_seq', 1);
-- deed: Deleted the large object 91003, a recording.
SELECT lo_unlink(91003);
