"""REST of governance, one module for each subject."""
