"""Recipes: growth written down in TOML, shipped with moegrow or given by users."""
