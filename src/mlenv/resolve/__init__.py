"""Requirements and index facts to packages at exact bytes."""
