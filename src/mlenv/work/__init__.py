"""Durable work: builds and jobs on a queue, and the workers that do them."""
