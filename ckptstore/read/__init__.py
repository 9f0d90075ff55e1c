"""From files to checked objects."""
