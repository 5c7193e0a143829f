"""Putting a dump into a database through libpq."""
