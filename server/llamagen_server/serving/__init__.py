"""Ways to run the HTTP app."""
