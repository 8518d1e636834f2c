"""`fabricctl calico`: the cloud side. Tell Calico of the edges' networks, see what came of it.

Runs on any node of the cluster with a config file alone: it asks Calico's etcd, the fabric's
store for who the gateways are, and this node's kernel; neither fabricd nor charon.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from random import Random
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar
from uuid import uuid4

import click
import trio

from fabricd.calico import pools
from fabricd.calico.check import Cluster, Row, check
from fabricd.calico.node import read_node
from fabricd.cli.options import (
    FORMS,
    Failed,
    Settings,
    config_option,
    output_option,
    pass_settings,
    warn,
)
from fabricd.cli.output import emit, table
from fabricd.cli.progress import working
from fabricd.config import Config, ConfigError
from fabricd.core.events import Listed
from fabricd.core.rib import Rib
from fabricd.daemon.store import open_store
from fabricd.errors import Unavailable
from fabricd.model import Address, Node, Role, address, family
from fabricd.sources import parse_endpoint

if TYPE_CHECKING:
    from fabricd.calico.datastore import Datastore

T = TypeVar("T")

Pools = Mapping[str, pools.Document]
"""Calico's IPPools by name."""

TIMEOUT: Final = 5.0
"""Seconds for one call to etcd."""


@click.group()
@config_option
@output_option
def calico() -> None:
    """Calico's IP pools, and whether its nodes find the edges."""


# ---------------------------------------------------------------- ippool


@calico.command("ippool")
@config_option
@click.option("-o", "--output", "form", type=click.Choice(FORMS), help="[default: yaml]")
@pass_settings
def ippool(settings: Settings, form: str | None) -> None:
    """Print the pool as a manifest, for `calicoctl apply -f -` or `kubectl apply -f -`.

    One pool for each network of the fabric.
    """
    wanted = _wanted(settings.config())
    document = (
        wanted[0]
        if len(wanted) == 1
        else {"apiVersion": pools.API_VERSION, "kind": f"{pools.KIND}List", "items": wanted}
    )
    given = settings.form if settings.form in {"json", "yaml"} else "yaml"
    emit(document, form or given, lambda _: _pool_table(wanted))


def _pool_table(wanted: Sequence[pools.Document]) -> str:
    fields = ("cidr", "ipipMode", "vxlanMode", "natOutgoing", "disabled", "nodeSelector")
    rows = [
        [pools.name_of(pool), *(str(pool["spec"][field]).lower() for field in fields)]
        for pool in wanted
    ]
    return table(["NAME", "CIDR", "IPIP", "VXLAN", "NAT", "DISABLED", "SELECTOR"], rows)


# ---------------------------------------------------------------- apply


@calico.command("apply")
@config_option
@click.option("--force", is_flag=True, help="Replace a pool of that name for another network.")
@pass_settings
def apply(settings: Settings, force: bool) -> None:
    """Write the pool to Calico's etcd datastore, unless it is right already.

    Where Calico keeps its resources in Kubernetes, pipe `calico ippool` to kubectl instead.
    """
    config = settings.config()
    wanted = _wanted(config)

    async def write(datastore: Datastore) -> None:
        stored = await datastore.list()
        there = {name: pool.document for name, pool in stored.items()}
        if not there:
            warn("there are no pools of Calico's: is this the etcd that Calico uses?")
        new = {
            pools.name_of(pool): pools.to_store(
                pool, there, force=force, uid=str(uuid4()), now=_now()
            )
            for pool in wanted
        }
        for name, document in new.items():
            if document is None:
                click.echo(f"{name}: unchanged")
                continue
            revision = stored[name].revision if name in stored else 0
            if not await datastore.write(name, document, revision):
                raise Failed(f"{name}: somebody else has just changed it: run this again")
            click.echo(f"{name}: {'updated' if revision else 'created'}")

    try:
        _in_datastore(config, write)
    except pools.Refused as error:
        raise Failed(str(error)) from error


def _now() -> str:
    """RFC 3339, as Kubernetes' metav1.Time writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# ---------------------------------------------------------------- check


@calico.command("check")
@config_option
@output_option
@click.option(
    "--pools",
    "file",
    type=click.File("rb"),
    metavar="FILE",
    help="Calico's pools from `calicoctl get ippool -o json` (- is standard input), not from etcd.",
)
@click.pass_context
@pass_settings
def check_command(settings: Settings, context: click.Context, file: IO[bytes] | None) -> None:
    """See whether pods on this node find the edges; on the gateway, whether others can learn it.

    Exit status: 0 all is right, 1 something is not, or can't be judged.
    """
    config = settings.config()
    found, why = _pools(config, file)
    nodes = _records(config)
    cluster = Cluster(
        wanted=_wanted(config),
        pools=found,
        why=why,
        gateways=_endpoints(nodes or {}, Role.CLOUD),
        edges=_endpoints(nodes or {}, Role.EDGE),
    )
    own = None if nodes is None else nodes.get(config.node.name)
    facts = read_node(
        is_gateway=None if nodes is None else own is not None and own.role is Role.CLOUD,
        versions=sorted(set(map(family, config.networks))),
    )
    rows = check(cluster, facts)
    document = {
        "node": config.node.name,
        "gateway": facts.is_gateway,
        "checks": [
            {"name": row.name, "ok": row.ok, "detail": row.detail, "todo": row.todo} for row in rows
        ],
    }
    emit(document, settings.form, lambda wide: _check_text(rows, wide))
    context.exit(0 if all(row.ok for row in rows) else 1)


def _check_text(rows: Sequence[Row], wide: bool) -> str:
    def cells(row: Row) -> list[Any]:
        ok = ("yes", "green") if row.ok else ("no", "red")
        return [row.name, ok, row.detail, *([row.todo or "-"] if wide else [])]

    text = table(["CHECK", "OK", "DETAIL", *(["TO DO"] if wide else [])], list(map(cells, rows)))
    todo = [f"{row.name}: {row.todo}" for row in rows if row.todo]
    return text if wide or not todo else "\n".join([text, "", "to do:", *todo])


def _pools(config: Config, file: IO[bytes] | None) -> tuple[Pools | None, str]:
    """Calico's pools, or None and why they can't be read."""
    if file is not None:
        return _pools_of_file(file), ""

    async def read(datastore: Datastore) -> Pools:
        return {name: pool.document for name, pool in (await datastore.list()).items()}

    try:
        return _in_datastore(config, read), ""
    except Unavailable as error:
        return None, error.reason
    except Failed as error:
        return None, error.message


def _pools_of_file(file: IO[bytes]) -> Pools:
    """The pools in a list as calicoctl or kubectl print it, or a single one."""
    import yaml  # noqa: PLC0415  # JSON is YAML; only this needs it

    try:
        document = yaml.safe_load(file)
        return {pools.name_of(pool): pool for pool in document.get("items", [document])}
    except (yaml.YAMLError, TypeError, AttributeError) as error:
        raise Failed(
            "--pools: no list of IPPools in it: give what `calicoctl get ippool -o json` prints"
        ) from error


def _records(config: Config) -> Mapping[str, Node] | None:
    """The nodes of the fabric; None, and a warning, when their store does not answer."""
    try:
        puts = _run(lambda: _list(config))
    except Unavailable as error:
        warn(f"{error}; that this is a gateway is told by its routes then")
        return None
    rib = Rib(config.ike.identity)
    rib.apply(Listed(puts), now=0)
    return rib.in_force().nodes


async def _list(config: Config) -> Any:
    async with aclosing(open_store(config)) as store:
        return await store.list()


def _endpoints(nodes: Mapping[str, Node], role: Role) -> frozenset[Address]:
    """The addresses of all nodes of a role; none if one of them is a DNS name."""
    try:
        return frozenset(
            address(node.endpoint) for node in nodes.values() if node.role is role and node.endpoint
        )
    except ValueError:
        return frozenset()


# ---------------------------------------------------------------- both


def _wanted(config: Config) -> list[dict[str, Any]]:
    section = config.calico
    options = pools.Options(section.ipip_mode, section.block_size, section.node_selector)
    return pools.manifests(config.networks, options)


def _in_datastore(config: Config, use: Callable[[Datastore], Awaitable[T]]) -> T:
    """Run `use` on Calico's etcd. Raises Failed, and Unavailable."""
    # `calico ippool` does without gRPC.
    from fabricd.calico.datastore import Datastore  # noqa: PLC0415
    from fabricd.sources.etcd_client import Credentials, EtcdClient  # noqa: PLC0415

    section = config.calico_etcd
    if section is None:
        raise Failed(
            f"{config.path}: calico.endpoints: is needed to find Calico's etcd, as [store] is "
            "none; with Calico in Kubernetes: fabricctl calico ippool | kubectl apply -f -"
        )

    async def main() -> T:
        credentials = Credentials(
            section.ca, section.cert, section.key, section.username, section.password_file
        )
        endpoints = [parse_endpoint(url) for url in section.endpoints]
        rng = Random()  # noqa: S311  # spreads clients over the members, hides nothing
        async with aclosing(EtcdClient(endpoints, credentials, rng, TIMEOUT)) as client:
            return await use(Datastore(client))

    return _run(main)


def _run(main: Callable[[], Awaitable[T]]) -> T:
    try:
        with working("asking the store"):
            return trio.run(main)
    except ConfigError as error:
        raise Failed(*error.faults) from error
