"""Paths in object stores: gs://BUCKET/KEY and s3://BUCKET/KEY."""
