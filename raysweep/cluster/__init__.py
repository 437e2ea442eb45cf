"""Files that describe a cluster: what is missing in them, said before money is spent."""
