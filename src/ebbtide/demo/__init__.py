"""`ebbtide demo`: the whole story on a throwaway replica set."""
