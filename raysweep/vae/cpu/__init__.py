"""What makes training faster on a CPU; on a GPU none of it is used."""
