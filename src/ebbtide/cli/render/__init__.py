"""How the command line shows things: text for people, JSON for programs, progress for those who wait."""
