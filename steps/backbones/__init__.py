"""Backbones: how a network is cut, frozen and fingerprinted, its cost, and the store of its features."""
