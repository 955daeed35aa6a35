"""The names of a backbone's cuts: each is the name of the last block that is kept. Pure."""

WHOLE = ""  # after the last block: the whole backbone without its top
