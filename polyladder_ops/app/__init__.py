"""The app that lives on the database: whether it is well, and its migrations."""
