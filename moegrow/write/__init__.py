"""Write a plan as a checkpoint, atomically, and verify it."""
