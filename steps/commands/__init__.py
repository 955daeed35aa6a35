"""Commands that are not stages: their answers depend on the registry or on a folder's present content."""
