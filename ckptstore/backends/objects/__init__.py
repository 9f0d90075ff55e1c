"""Buckets of S3, GCS, memory and any fsspec file system."""
