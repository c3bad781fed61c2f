"""All before a weight is read: from arguments to maps, from maps to a plan, and its problems."""
