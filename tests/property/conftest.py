"""How hard the properties are tried: enough to find things, little enough to run all the time."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "fabric",
    max_examples=200,
    deadline=None,
    derandomize=False,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("fabric")
