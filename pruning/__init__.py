"""Prune, quantize, prove and promote the weights of online models."""
