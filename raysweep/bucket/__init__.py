"""A sweep in S3, GCS or Azure: who may write it, and how each machine sends its files."""
