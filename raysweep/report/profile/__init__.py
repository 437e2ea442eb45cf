"""Where a session's time went, as a table, a page and a figure; docs/profile.md describes them."""
