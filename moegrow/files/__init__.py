"""Files, byte ranges, JSON and TOML text, without any knowledge of checkpoints."""
