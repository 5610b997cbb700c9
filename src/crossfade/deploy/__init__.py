"""What leaves the workshop."""
