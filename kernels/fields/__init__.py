"""Radiance fields: empty until the first one comes, with its protocol, reference and backends."""
