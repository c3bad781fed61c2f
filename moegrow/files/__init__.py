"""What stands under all else and knows no checkpoint: files, byte ranges, JSON text, tables."""
