"""The base of every stage: its signature as a command line, params, files, compute, progress, seeding."""
