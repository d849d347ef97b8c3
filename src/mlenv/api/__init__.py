"""What arrives as text: environment YAML, conda, requirements, pyproject and pylock files, and their way to core values."""
