"""Everything that arrives as text, read into core values: definitions in every spelling, and what is wrong with them."""
