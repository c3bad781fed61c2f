"""Looking at weights, maps and logits, before and after; what has been published about growing."""
