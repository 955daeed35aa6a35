"""Serving: the champion over HTTP and on files, and the formats of other runtimes."""
