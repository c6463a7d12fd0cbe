"""Who it is: in public mode the gateway tells this server the login's name, and what the client says of itself does
not count any more.

The notebook reaches this server without the gateway, so the name comes with a proof that only the gateway's key makes.
A request without one keeps the names that it says, as the notebook's own runs do; one with a wrong proof is refused.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import inspect
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any

from trackbed_mlflow.errors import MISCONFIGURED, Stop

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

FILE = "TRACKBED_GATEWAY_KEY_FILE"
HEADER = b"x-trackbed-login"
PURPOSE = b"trackbed login\n"
AGAIN_SECONDS = 0.2  # how often the key's file is looked at after a wrong proof
USER, CLAIMED = "mlflow.user", "trackbed.client_user"  # the tag of who did it; of what the client said instead
RESERVED = frozenset({USER, CLAIMED})
CHANGED, NOBODY = "trackbed.changed_by", "a client without a login"  # of an assessment that is not the changer's own
ACTORS = ("created_by", "updated_by", "last_updated_by", "completed_by")
REFUSED = b'{"error_code": "PERMISSION_DENIED", "message": "This name of a login does not come from the gateway."}'

login: ContextVar[str] = ContextVar("login", default="")  # of the running request; "" for none


def read_key(path: str) -> bytes:
    """The gateway's key. Raises Stop without one: every name would be believed."""
    try:
        with open(path, "rb") as stream:
            key = stream.read(4096).strip()
    except OSError as error:
        raise Stop(MISCONFIGURED, f"the gateway's key in {path} cannot be read: {error.strerror}") from None
    if not key:
        raise Stop(MISCONFIGURED, f"the gateway's key in {path} is empty; `invoke up` writes it")
    return key


class Identity:
    """An ASGI application that knows whose login a request came with."""

    def __init__(self, app: App, path: str) -> None:
        self.app = app
        self.path = path
        self.key = read_key(path)
        self.looked = 0.0
        self.proven: dict[bytes, str] = {}  # header values that were right, one for each login

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = [value for name, value in scope["headers"] if name == HEADER]
        who = ""
        if given:
            who = self.name(given[0]) if len(given) == 1 else ""
            if not who:
                await send(
                    {
                        "type": "http.response.start",
                        "status": 403,
                        "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(REFUSED))],
                    }
                )
                await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else REFUSED})
                return
            scope["headers"] = [pair for pair in scope["headers"] if pair[0] != HEADER]
        token = login.set(who)
        try:
            await self.app(scope, receive, send)
        finally:
            login.reset(token)

    def name(self, value: bytes) -> str:
        """The login's name, "" where the proof is wrong."""
        if (known := self.proven.get(value)) is not None:
            return known
        if not self.right(value):
            if time.monotonic() - self.looked < AGAIN_SECONDS:
                return ""
            self.looked = time.monotonic()
            try:
                key = read_key(self.path)
            except Stop:
                return ""
            if key == self.key:
                return ""
            self.key, self.proven = key, {}
            if not self.right(value):
                return ""
        name = value.partition(b" ")[0].decode("ascii", "replace")
        self.proven[value] = name
        return name

    def right(self, value: bytes) -> bool:
        name, _, proof = value.partition(b" ")
        created = hmac.new(self.key, PURPOSE + name, hashlib.sha256).hexdigest().encode()
        return bool(name) and hmac.compare_digest(created, proof)


# what a store is told


def owned(tags: Any, who: str, make: Callable[..., Any] | None, said: str = "") -> Any:
    """Tags (a dict, or objects with key and value) that name ``who``; what they named before has a tag of its own.

    ``make``: makes a tag where nothing named anybody; None leaves it at that. ``said``: a name given beside the tags.
    """
    if isinstance(tags, Mapping):
        said = str(tags.get(USER) or "") or said
        if USER not in tags and make is None:
            return {key: value for key, value in tags.items() if key != CLAIMED}
        claim = {CLAIMED: said[:250]} if said not in ("", who) else {}
        return {**{key: value for key, value in tags.items() if key not in RESERVED}, USER: who, **claim}
    tags = list(tags or ())
    named = [tag for tag in tags if tag.key == USER]
    said = str(named[-1].value or "") if named else said
    rest = [tag for tag in tags if tag.key not in RESERVED]
    if named:
        make = type(named[-1])
    if make is None:
        return rest
    return [*rest, make(USER, who), *([make(CLAIMED, said[:250])] if said not in ("", who) else [])]


def reserved(value: Any) -> bool:
    """Whether a key, a tag or tags would change who did something."""
    if isinstance(value, str):
        return value in RESERVED
    if isinstance(value, Mapping):
        return not RESERVED.isdisjoint(value)
    if (key := getattr(value, "key", None)) is not None:  # first: MLflow's tags are iterable
        return key in RESERVED
    return any(tag.key in RESERVED for tag in value)


def refuse(why: str = f"The tags {USER} and {CLAIMED} say who made something and cannot be changed.") -> None:
    from mlflow.exceptions import MlflowException  # type: ignore[import-not-found]
    from mlflow.protos.databricks_pb2 import PERMISSION_DENIED  # type: ignore[import-not-found]

    raise MlflowException(why, error_code=PERMISSION_DENIED)


def created_run(arguments: dict[str, Any], who: str) -> None:
    from mlflow.entities import RunTag  # type: ignore[import-not-found]

    arguments["tags"] = owned(arguments["tags"], who, RunTag, str(arguments["user_id"] or ""))
    arguments["user_id"] = who


def created_model(arguments: dict[str, Any], who: str) -> None:
    from mlflow.entities import LoggedModelTag

    arguments["tags"] = owned(arguments.get("tags"), who, LoggedModelTag)


PROGRAMS = frozenset({"LLM_JUDGE", "CODE"})  # whose verdicts are no person's


def assessed(assessment: Any, who: str) -> None:
    """A person's verdict is that of the login; so is one of a kind that nobody knows."""
    source = getattr(assessment, "source", None)
    if source is not None and source.source_type not in PROGRAMS and source.source_id != who:
        assessment.metadata = {**(assessment.metadata or {}), CLAIMED: str(source.source_id)[:250]}
        source.source_id = who


def owning(store: Any, update: Callable[..., Any]) -> Callable[..., Any]:
    """The store's update_assessment: a person's verdict is changed by its login alone, others say who changed them."""
    signature = inspect.signature(update)

    @functools.wraps(update)
    def update_assessment(*args: Any, **kwargs: Any) -> Any:
        words = signature.bind(*args, **kwargs).arguments
        who = login.get()
        source = store.get_assessment(words["trace_id"], words["assessment_id"]).source
        own = source.source_type not in PROGRAMS and source.source_id == who
        if who and not own and source.source_type not in PROGRAMS:
            refuse(
                f"This assessment is {str(source.source_id)[:250]}'s, and you are {who}. Add one of your own that "
                "overrides it: mlflow.override_feedback(), or without overriding, mlflow.log_feedback()."
            )
        metadata = {
            key: value for key, value in (words.pop("metadata", None) or {}).items() if key not in (CHANGED, CLAIMED)
        }
        if not own:
            metadata[CHANGED] = who or NOBODY
        return update(**words, **({"metadata": metadata} if metadata else {}))

    return update_assessment


def spanning(store: Any, log: Callable[..., Any]) -> Callable[..., Any]:
    """The store's log_spans: a trace that OpenTelemetry begins is the login's, like a run."""

    @functools.wraps(log)
    def log_spans(location: str, spans: Any, *args: Any, **kwargs: Any) -> Any:
        if not (who := login.get()) or not spans:
            return log(location, spans, *args, **kwargs)
        from mlflow.store.tracking.dbmodels import models  # type: ignore[import-not-found]
        from sqlalchemy import select
        from sqlalchemy.dialects.postgresql import insert

        traces = {span.trace_id for span in spans}
        begun = select(models.SqlTraceInfo.request_id).where(models.SqlTraceInfo.request_id.in_(traces))
        with store.ManagedSessionMaker() as session:
            new = traces.difference(session.execute(begun).scalars())
        logged = log(location, spans, *args, **kwargs)
        if new:
            rows = [{"request_id": trace, "key": USER, "value": who} for trace in sorted(new)]
            with store.ManagedSessionMaker(read_only=False) as session:
                session.execute(insert(models.SqlTraceMetadata).on_conflict_do_nothing(), rows)
        return logged

    return log_spans


WHOLE: Mapping[str, Callable[[Any, Callable[..., Any]], Callable[..., Any]]] = {
    "update_assessment": owning,
    "log_spans": spanning,
}


def traced(arguments: dict[str, Any], who: str) -> None:
    info = arguments["trace_info"]
    info.trace_metadata = owned(info.trace_metadata, who, str)
    info.tags = owned(info.tags, who, None)
    for assessment in info.assessments or ():
        assessed(assessment, who)


def traced_before(arguments: dict[str, Any], who: str) -> None:
    arguments["request_metadata"] = owned(arguments["request_metadata"] or {}, who, str)
    arguments["tags"] = owned(arguments["tags"] or {}, who, None)


def recorded(arguments: dict[str, Any], who: str) -> None:
    arguments["records"] = [
        {**record, "tags": owned(record.get("tags") or {}, who, str)} for record in arguments["records"]
    ]


SPECIAL: Mapping[str, Callable[[dict[str, Any], str], None]] = {
    "create_run": created_run,
    "create_logged_model": created_model,
    "start_trace": traced,
    "deprecated_start_trace_v2": traced_before,
    "upsert_dataset_records": recorded,
    "create_assessment": lambda arguments, who: assessed(arguments["assessment"], who),
}


def changing(name: str, words: Iterable[str]) -> tuple[str, ...]:
    """The arguments with which a store's method could change who made something."""
    if name.startswith(("create_", "start_")) or name in SPECIAL:
        return ()
    keys = ("tag", "tags", "request_metadata", *(("key",) if "tag" in name else ()))
    return tuple(word for word in words if word in keys)


def naming(name: str, words: Iterable[str]) -> Callable[[dict[str, Any], str], None] | None:
    """What puts the login into the arguments of a store's method; None where nobody is named."""
    if special := SPECIAL.get(name):
        return special
    actors = tuple(word for word in words if word in ACTORS)
    tags = "tags" in words and name.startswith(("create_", "start_"))
    if not (actors or tags):
        return None

    def name_it(arguments: dict[str, Any], who: str) -> None:
        if tags and arguments.get("tags"):
            arguments["tags"] = owned(arguments["tags"], who, None)
        for word in actors:
            if not (word == "completed_by" and arguments.get(word) is None):  # an item that is opened again
                arguments[word] = who

    return name_it


def attributed(store: Any) -> int:
    """Let every method of a store that is told who did something use the login; gives their number."""
    count = 0
    for name, function in inspect.getmembers(type(store), inspect.isfunction):
        words = tuple(inspect.signature(function).parameters)[1:]  # without self
        if name.startswith("_") or not words:
            continue
        if whole := WHOLE.get(name):
            setattr(store, name, whole(store, getattr(store, name)))
        if changes := changing(name, words):
            setattr(store, name, refusing(getattr(store, name), {word: words.index(word) for word in changes}))
        if name_it := naming(name, words):
            setattr(store, name, telling(getattr(store, name), name_it))
        count += bool(whole or changes or name_it)
    return count


def refusing(method: Callable[..., Any], places: Mapping[str, int]) -> Callable[..., Any]:
    """The method for everything but a change of who made something. On the way of each log_batch: no signature here."""

    @functools.wraps(method)
    def refused(*args: Any, **kwargs: Any) -> Any:
        for word, place in places.items():
            value = kwargs.get(word) if place >= len(args) else args[place]
            if value and reserved(value):
                refuse()
        return method(*args, **kwargs)

    return refused


def telling(method: Callable[..., Any], name_it: Callable[[dict[str, Any], str], None]) -> Callable[..., Any]:
    signature = inspect.signature(method)

    @functools.wraps(method)
    def named(*args: Any, **kwargs: Any) -> Any:
        if who := login.get():
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            name_it(bound.arguments, who)
            args, kwargs = bound.args, bound.kwargs
        return method(*args, **kwargs)

    return named


VERDICT = ("name", "value", "error", "rationale", "assessment_metadata", "aggregate_value", "is_numeric_value")


def rows() -> None:
    """Rows that no argument leads to: a model version's user, tags that spans bring with them."""
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion  # type: ignore[import-not-found]
    from mlflow.store.tracking.dbmodels import models
    from sqlalchemy import event, inspect

    def version(_: Any, __: Any, values: dict[str, Any]) -> None:
        if who := login.get():
            values["user_id"] = who

    def tag(_: Any, __: Any, values: dict[str, Any]) -> None:
        if values.get("key") == USER and (who := login.get()):
            values["value"] = who

    def tag_stays(_: Any, __: Any, row: Any) -> None:
        if row.key in RESERVED:
            stays(row, inspect(row).attrs, "value")

    def source_stays(_: Any, __: Any, row: Any) -> None:
        columns = inspect(row).attrs
        stays(row, columns, "source_type", "source_id")
        if row.source_id != login.get():  # a trace begun again changes no verdict but the login's own
            stays(row, columns, *VERDICT)

    event.listen(SqlModelVersion, "init", version)
    for model in (models.SqlTag, models.SqlTraceTag, models.SqlTraceMetadata):
        event.listen(model, "init", tag)
        event.listen(model, "before_update", tag_stays)
    # a trace that is begun once more, or whose spans come later, replaces rows of the first time
    event.listen(models.SqlAssessments, "before_update", source_stays)


def stays(row: Any, columns: Any, *names: str) -> None:
    """Take back what a changed row would say in columns; ``columns``: SQLAlchemy's, with their history."""
    for name in names:
        history = columns[name].history
        if history.added and history.deleted:
            setattr(row, name, history.deleted[0])


def identified(app: App, stores: Iterable[Any], environment: Mapping[str, str]) -> App:
    """``app`` whose stores know the login, where a gateway is in front of it; else as it is."""
    path = environment.get(FILE, "")
    if not path:
        return app
    created = Identity(app, path)
    for store in {id(store): store for store in stores}.values():
        attributed(store)
    rows()
    return created
