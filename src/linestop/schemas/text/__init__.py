"""Texts and values: how large they are, whether they are visible, and how secrets are removed from them."""
