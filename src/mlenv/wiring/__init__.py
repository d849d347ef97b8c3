"""The one place that picks concrete adapters."""
