"""How model types name and store things: one TOML file each, and what reads a checkpoint by it."""
