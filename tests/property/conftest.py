"""Properties hold however slow the machine is: no deadline for one example."""

from hypothesis import HealthCheck, settings

settings.register_profile("mlenv", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("mlenv")
