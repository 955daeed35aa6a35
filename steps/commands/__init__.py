"""Commands that are no stages: what they answer depends on the registry or on a folder of today."""
