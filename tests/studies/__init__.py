"""Commands behind the figures of the docs: they take longer than a test run."""
