"""What may stand between an installation and its next snapshot: facts are gathered, then judged by pure rules."""
