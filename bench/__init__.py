"""`make bench`: Ebbtide against plain tools on the same bytes, as ratios."""
