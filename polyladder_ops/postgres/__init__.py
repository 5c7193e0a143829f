"""All that speaks to PostgreSQL; the one package that imports psycopg."""
