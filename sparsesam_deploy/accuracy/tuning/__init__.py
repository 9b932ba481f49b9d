"""Densities for an accuracy budget: a resumable search."""
