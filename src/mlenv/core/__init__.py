"""Values and rules: names, specs, locks, digests, layers and image plans. Opens nothing and asks no clock."""
