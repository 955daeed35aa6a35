"""Promotion: the gate, the champion judged anew, people's decisions, and the evidence behind a version."""
