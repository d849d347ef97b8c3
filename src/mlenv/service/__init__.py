"""Use cases, written against Protocols: register, lock, build, run, check."""
