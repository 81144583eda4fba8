"""`ebbtide serve`: everything on one machine."""
