"""Backbones: how a network is cut, frozen and fingerprinted, what it costs, and its features, kept."""
