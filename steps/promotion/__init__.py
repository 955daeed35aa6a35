"""Promotion: the gate, the re-evaluated champion, people's decisions, and the evidence behind a version."""
