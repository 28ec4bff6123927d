"""The wire: generated stubs, frames, method tables, one status table."""
