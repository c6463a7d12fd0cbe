"""Settings of `invoke import`: the store that holds a source's artifacts."""

from __future__ import annotations

from dataclasses import dataclass

from helpers.settings import kinds
from helpers.settings.declaration import setting
from helpers.settings.kinds import optional


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class Imports:
    """Import"""

    import_s3_endpoint: str = setting(
        "",
        optional(kinds.ENDPOINT, ""),
        "Endpoint of the object store that `import` and `data.add` read; empty is AWS",
        remembered=False,
    )
    import_s3_region: str = setting("us-east-1", kinds.REGION, "Region of the bucket that they read", remembered=False)
    import_s3_access_key: str = setting(
        "", kinds.ACCESS_KEY, "Access key of the bucket that they read", remembered=False
    )
    import_s3_secret_key: str = setting(
        "", kinds.key(8), "Secret key of the bucket that they read", secret=True, remembered=False
    )
