"""A sweep in S3, GCS or Azure: who may write it, and how its files get there from every machine."""
