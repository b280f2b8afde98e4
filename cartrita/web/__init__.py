"""Pages that show several apps; static files."""
