"""The start page as text: page.html with what is known filled in, each value escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from trackbed_mlflow.start_page.probes import READY, SILENT, Look

FILE = Path(__file__).with_name("page.html")
MLFLOW_PAGE = "/#/experiments?workflowType=machine_learning"
LOGIN = "{login}"  # in the lines for another machine: whoever looks at the page
TOOLS = {"amd": "rocm-smi", "nvidia": "nvidia-smi"}
UNITS = ((1440, "days"), (60, "hours"), (1, "minutes"))  # each from two on
WEB = re.compile(r"https?://[\w.\[\]:-]+(/[\w./-]*)?")


class View:
    """What the page says, from what the toolkit left and what was seen now."""

    def __init__(self, known: Mapping[str, Any], look: Look, login: str) -> None:
        self.known, self.look, self.login = known, look, login

    def state(self, name: str) -> str:
        if name == "gateway" and self.login:
            return READY  # it has led here
        return self.look.states.get(name, SILENT)

    @property
    def services(self) -> list[tuple[str, str, str]]:
        """Name, title and state of each."""
        listed = self.known.get("services") or [{"name": "mlflow", "title": "MLflow"}]
        states = {"mlflow": READY}
        return [(s["name"], s["title"], states.get(s["name"]) or self.state(s["name"])) for s in listed]

    def data(self) -> dict[str, Any]:
        """For programs. No secret and no address is in it."""
        disk = self.look.disk
        return {
            "project": self.known.get("project"),
            "engine": self.known.get("engine"),
            "looked": round(self.look.when),
            "services": [{"service": n, "title": t, "state": s} for n, t, s in self.services],
            "disk": {"free": disk.free, "size": disk.size} if disk else None,
            "gpu": self.known.get("gpu"),
            "gpus": [vars(gpu) for gpu in self.look.gpus],
            "written": self.known.get("written"),
            "backups": self.known.get("backups"),
            "lease": self.known.get("lease"),
        }


class Page:
    def __init__(self) -> None:
        text = FILE.read_text("utf-8")
        found = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
        assert found
        self.style = found[1]
        self.template = Template(text.replace(self.style, "$style"))

    def text(self, view: View, token: str) -> str:
        """``token``: the notebook's, where the browser has brought it."""
        known = view.known
        project = str(known.get("project") or "trackbed")
        written = known.get("written")
        return self.template.substitute(
            style=self.style,
            project=escape(project),
            links="\n".join(links(known, token)),
            looked=moment(view.look.when, view.look.when),
            services="\n".join(row(*service) for service in view.services),
            facts="\n".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in facts(view)),
            written=(
                f"Backups, lease and GPU model: as Trackbed wrote them {moment(float(written), view.look.when)}."
                if written
                else "Type <code>invoke up</code>: it has not yet written what only it knows."
            ),
            client=client(known, view.login),
        )


def links(known: Mapping[str, Any], token: str) -> Iterable[str]:
    """JupyterLab, MLflow, the object store's console, as far as each has an address here."""
    if notebook := web(known.get("notebook_url")):
        if token:
            yield card(f"{notebook}?token={quote(token, safe='')}", "JupyterLab", "notebooks and a terminal")
        else:
            note = f"asks for its token, which {whoever(known, 'invoke jupyter-url')}"
            yield card(notebook, "JupyterLab", note)
    yield card(MLFLOW_PAGE, "MLflow", "experiments, runs, models")
    if console := web(known.get("console_url")):
        yield card(
            console,
            f"{known.get('console_title')} console",
            f"artifacts as files; asks for keys, which {whoever(known, 'invoke credentials')}",
        )


def whoever(known: Mapping[str, Any], command: str) -> str:
    """Who has a secret: people behind the gateway have no shell there."""
    return "the people who run this have" if known.get("public") else f"<code>{command}</code> prints"


def web(address: object) -> str:
    """The address of a page, "" for anything else: whatever was written, a link leads to a page."""
    return address if isinstance(address, str) and WEB.fullmatch(address) else ""


def card(address: str, name: str, note: str) -> str:
    """``note``: of this page's own words."""
    return f'<li><a href="{escape(address)}">{escape(name)}</a> <span>{note}</span></li>'


def row(name: str, title: str, state: str) -> str:
    kind = {READY: "ready", SILENT: "silent"}.get(state, "unknown")
    return (
        f'<tr><th scope="row">{escape(title)}</th><td>{escape(name)}</td><td class="{kind}">{escape(state)}</td></tr>'
    )


def facts(view: View) -> Iterable[tuple[str, str]]:
    """Names and escaped values of what is no service."""
    known, look = view.known, view.look
    if look.disk:
        yield "Disk", f"{size(look.disk.free)} free of {size(look.disk.size)}"
    if gpu := known.get("gpu"):
        seen = [f"{g.name}: {g.busy} % busy, {size(g.used)} of {size(g.memory)} in use" for g in look.gpus]
        tool = TOOLS.get(str(known.get("gpu_kind")))
        more = f"; <code>{tool}</code> in a terminal of JupyterLab shows what it does" if tool and not seen else ""
        yield "GPU", "<br>".join([escape(str(gpu)) + more, *map(escape, seen)])
    if backups := known.get("backups"):
        yield "Last backup", described(backups, "last", "none yet", look.when) + by_hand(known, backups)
    if lease := known.get("lease"):
        yield "Lease ends", described(lease, "end", "no end is known", look.when)
    if workspace := known.get("workspace"):
        yield "Notebook's files", f"<code>{escape(str(workspace))}</code>"
    if engine := known.get("engine"):
        yield "Engine", escape(str(engine))


def described(what: Mapping[str, Any], key: str, otherwise: str, now: float) -> str:
    value = moment(float(what[key]), now) if what.get(key) else escape(otherwise)
    notes = [escape(str(what[name])) for name in ("note", "problem") if what.get(name)]
    return "<br>".join([value, *notes])


def by_hand(known: Mapping[str, Any], backups: Mapping[str, Any]) -> str:
    """Where no schedule makes backups: what does."""
    if backups.get("scheduled"):
        return ""
    return "<br>no schedule" + ("" if known.get("public") else "; <code>invoke backup</code> makes one now")


def client(known: Mapping[str, Any], login: str) -> str:
    """The lines for another machine, in the name of whoever looks."""
    lines = str(known.get("client") or "").replace(LOGIN, login or "NAME")
    return escape(lines) if lines else "# invoke env prints them"


def size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def moment(then: float, now: float) -> str:
    """A time for people and programs, with how far it is."""
    when = datetime.fromtimestamp(then, UTC)
    text = f'<time datetime="{when:%Y-%m-%dT%H:%M:%SZ}">{when:%Y-%m-%d %H:%M} UTC</time>'
    return text if then == now else f"{text} ({distance(then - now)})"


def distance(seconds: float) -> str:
    """As in "in 3 hours" and "2 days ago"."""
    minutes = int(abs(seconds) // 60)
    length, unit = next(pair for pair in UNITS if minutes >= 2 * pair[0] or pair[0] == 1)
    count = minutes // length
    if not count:
        return "just now"
    words = f"{count} {unit[:-1] if count == 1 else unit}"
    return f"in {words}" if seconds > 0 else f"{words} ago"
