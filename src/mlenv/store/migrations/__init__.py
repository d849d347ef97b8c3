"""How the tables came to be, one step per file in `versions/`. A step must not stop the program before it."""
