"""What each kind of golden case checks."""
