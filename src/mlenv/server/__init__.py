"""The server: reads requests, asks the use cases, writes answers. No business rule lives here."""
