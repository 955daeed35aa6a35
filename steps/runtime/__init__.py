"""What every stage stands on: its signature as a command line, params, files, compute, progress, seeding."""
