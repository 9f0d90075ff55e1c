"""The bytes on disk: ``docs/format.md`` as code. Pure."""
