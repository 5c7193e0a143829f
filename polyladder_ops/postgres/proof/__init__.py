"""Reading a database back, and whether it is what was dumped."""
