"""Growth that is written down: the recipes that ship, and those in files."""
