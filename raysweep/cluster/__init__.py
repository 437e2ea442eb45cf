"""Checks of files that describe a cluster: they report what is missing before money is spent."""
