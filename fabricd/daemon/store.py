"""Which store the config names, opened: for the daemon and for fabricctl alike."""

from __future__ import annotations

from pathlib import Path

from fabricd.config import Config, ConfigError
from fabricd.sources import DirStore, EtcdStore, Store


def open_store(config: Config) -> Store:
    """The store of `[store]`; nothing is asked of it yet. Raises ConfigError."""
    section = config.store
    if section.type == "dir":
        assert section.path is not None, "config.parse() requires it"
        return DirStore(section.path)
    try:
        if section.type == "kubernetes":
            return _kubernetes(section.kubeconfig)
        return EtcdStore(
            section.endpoints,
            section.prefix,
            ca=section.ca,
            cert=section.cert,
            key=section.key,
            username=section.username,
            password_file=section.password_file,
        )
    except ValueError as error:
        raise ConfigError([f"{config.path}: [store]: {error}"]) from error


def _kubernetes(kubeconfig: Path | None) -> Store:
    # Loaded only for who has it as store: edges with little memory have another.
    from fabricd.sources.kube import KubeStore  # noqa: PLC0415
    from fabricd.sources.kube_access import credentials  # noqa: PLC0415

    return KubeStore(credentials(kubeconfig))
