"""An embedded PostgreSQL with the data of a language-learning app: where people practise and tests run."""
