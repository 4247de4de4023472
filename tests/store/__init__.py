"""Tests of the storage layer, and the S3 server and the faulty proxy that they run against."""
