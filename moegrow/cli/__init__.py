"""The commands, and what a person at a terminal sees of them."""
