"""Bring a small team's PostgreSQL back, provably, in minutes.

Imports point down only: ``tasks`` (the one place that knows Invoke, prints, prompts and exits) → ``backups``,
``verification``, ``sandbox`` → ``postgres`` (the one package that imports psycopg), ``catalog``, ``storage`` →
``settings``, ``portable``, ``errors``. ``tests/test_layers.py`` holds these rules with their reasons.
"""
