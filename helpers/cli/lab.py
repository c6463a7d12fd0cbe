"""`invoke demo`: what it prints."""

from __future__ import annotations

from helpers import console, demo, status
from helpers.cli import options
from helpers.errors import SettingError
from helpers.settings.flags import Flags


def run_demo(given: Flags, epochs: int) -> None:
    if not 1 <= epochs <= demo.MOST:
        raise SettingError(f"--epochs={epochs}: must be from 1 to {demo.MOST}.")
    engine = status.running(options.load(given))

    def begun(link: str) -> None:
        progress.notice(
            f"the run, while it is logged:\n  {link}"
            if link
            else "the run is in the experiment demo of the remote tracking server"
        )

    with console.Progress() as progress:
        done = demo.run(engine, epochs, progress, begun)
    console.bars(
        f"accuracy after each epoch, on {done.device}", [(str(one.number), one.accuracy) for one in done.epochs]
    )
    console.notice(f"accuracy {done.epochs[-1].accuracy:.3f}, loss {done.epochs[-1].loss:.3f}")
    if done.link:
        console.value(done.link)
