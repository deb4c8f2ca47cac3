"""Words and characters of what kvstream prints."""
