"""Model families: a TOML file for each, and the code that reads a checkpoint by it."""
