"""From a plan to files, durably, each byte of the source read once; then held against the plan."""
