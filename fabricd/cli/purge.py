"""`fabricctl purge`: take away from kernel and charon all that is fabricd's, and nothing else.

It is a plan like any other, towards the state of a node that has nothing of the fabric. Only
this node's private key needs to be known by its file: charon does not say who loaded a key.
"""

from __future__ import annotations

import time

import click
import trio

from fabricd.cli.control import is_running
from fabricd.cli.options import (
    Failed,
    Settings,
    config_option,
    output_option,
    pass_settings,
    warn,
)
from fabricd.cli.output import emit
from fabricd.cli.plan import plan_text
from fabricd.cli.progress import working
from fabricd.config import Config
from fabricd.core.action import Action, Disruption, Kind, Outcome, plan_document
from fabricd.core.desired import NOTHING
from fabricd.core.plan import ORDER, plan
from fabricd.core.state import IkeState
from fabricd.daemon.keyring import Keyring
from fabricd.errors import Unavailable
from fabricd.ike import Charon
from fabricd.kernel import Kernel


@click.command()
@config_option
@output_option
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@pass_settings
def purge(settings: Settings, dry_run: bool) -> None:
    """Remove all that is fabricd's from this node's kernel and charon."""
    config = settings.config()
    if not dry_run and is_running(config.control.socket):
        raise Failed(
            f"fabricd runs here (it listens at {config.control.socket}) and would put everything "
            "back: systemctl stop fabricd"
        )
    with working("looking at charon and the kernel" if dry_run else "removing"):
        outcomes, faults = trio.run(_purge, config, dry_run)
    document = plan_document([outcome.action for outcome in outcomes if outcome.error is None])
    emit(document, settings.form, lambda _: plan_text(document["actions"]))
    faults += [
        f"{outcome.action.kind} {outcome.action.target}: {outcome.error}"
        for outcome in outcomes
        if outcome.error is not None
    ]
    if faults:
        raise Failed(*faults)


async def _purge(config: Config, dry_run: bool) -> tuple[list[Outcome], list[str]]:
    """What was done, or would be, and which part could not be reached.

    charon first: as long as SAs are there, the kernel goes on refusing clear text.
    """
    outcomes: list[Outcome] = []
    faults: list[str] = []
    for part in (_purge_charon, _purge_kernel):
        try:
            outcomes += await part(config, dry_run)
        except Unavailable as error:
            faults.append(f"{error}; run purge again when it answers")
    return outcomes, faults


async def _purge_charon(config: Config, dry_run: bool) -> list[Outcome]:
    charon = Charon(config.vici_socket)
    ike = await charon.observe()
    actions = _on_charon(ike, _own_key(config, ike))
    if dry_run:
        return [Outcome(action) for action in actions]
    done: dict[tuple[Kind, str], Outcome] = {}
    while actions:
        for outcome in await charon.apply(actions, credentials=None):
            done[outcome.action.kind, outcome.action.target] = outcome
        # An SA that was being made while its connection was unloaded is there only now.
        again = _on_charon(await charon.observe())
        actions = [action for action in again if (action.kind, action.target) not in done]
    return list(done.values())


async def _purge_kernel(_: Config, dry_run: bool) -> list[Outcome]:
    async with Kernel(sysctls=()) as kernel:
        actions = plan(NOTHING, await kernel.observe(), None)
        return [Outcome(action) for action in actions] if dry_run else await kernel.apply(actions)


def _on_charon(ike: IkeState, *more: Action | None) -> list[Action]:
    actions = [*plan(NOTHING, None, ike), *filter(None, more)]
    return sorted(actions, key=lambda action: ORDER.index(action.kind))


def _own_key(config: Config, ike: IkeState) -> Action | None:
    """Unload this node's private key, if charon has it."""
    keyring = Keyring(config.ike.ca, config.ike.cert, config.ike.key, time.time)
    keyring.refresh()
    if keyring.credentials is None:
        if ike.keys:
            reasons = "; ".join(keyring.faults)
            warn(f"charon may keep this node's private key, which is not known: {reasons}")
        return None
    key = keyring.credentials.key_id
    if key not in ike.keys:
        return None
    return Action(Kind.KEY_UNLOAD, key, Disruption.NONE, f"it is that in {config.ike.key}", key)
