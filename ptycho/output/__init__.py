"""What a run leaves for people: figures, the report page, the live page, files for other programs."""
