"""The GPUs as the notebook sees them: can they be opened, do they compute, do their figures reach a run.

Fed to the notebook's Python on stdin by ``invoke check`` and, with ``quick`` set, by ``invoke up``. The only argument
is a JSON object: {"kind": "amd" or "nvidia", "nodes": [...], "quick": bool, "torch": bool}. One JSON line a check:
{"check", "ok", "detail", "seconds"}; ``"ok": null`` says that it could not be done here, and why.
"""

from __future__ import annotations

import glob
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

OPEN, COMPUTE, METRICS = "GPU can be opened", "GPU computes", "GPU in system metrics"
SIDE = 1024


class NotTested(Exception):
    """A check that cannot be done in this notebook."""


def who() -> str:
    groups = ",".join(str(group) for group in sorted(set(os.getgroups()) | {os.getgid()}))
    return f"as uid {os.getuid()}, groups {groups}"


def can_open(kind: str, nodes: list[str]) -> str:
    """Open every node for reading and writing; raises RuntimeError with what stands in the way."""
    pattern = "/dev/nvidia[0-9]*" if kind == "nvidia" else "/dev/kfd"
    expected = nodes or sorted(glob.glob(pattern))
    if kind == "amd" and expected and not nodes:  # chosen by a cluster's device plugin
        expected += sorted(glob.glob("/dev/dri/renderD*"))
    if kind == "nvidia" and not expected and os.path.exists("/dev/dxg"):
        expected = ["/dev/dxg"]
    if not expected:
        raise RuntimeError(
            f"no {'/dev/nvidia0' if kind == 'nvidia' else '/dev/kfd'} in the notebook: the engine gave it no GPU"
        )
    for node in expected:
        try:
            os.close(os.open(node, os.O_RDWR | os.O_CLOEXEC))
        except FileNotFoundError:
            raise RuntimeError(f"{node} is not in the notebook") from None
        except PermissionError as error:
            details = os.stat(node)
            if error.errno == 1:  # EPERM: the control group, not the file's permissions
                raise RuntimeError(f"{node}: the container may not use this device (it was not given to it)") from None
            member = details.st_gid in (*os.getgroups(), os.getgid())
            why = "its mode lets no group in" if member else "the group is missing"
            raise RuntimeError(
                f"{node} belongs to group {details.st_gid} (mode {details.st_mode & 0o777:03o}); the "
                f"notebook runs {who()}: {why}"
            ) from None
        except OSError as error:
            raise RuntimeError(f"{node}: {error.strerror}") from None
    if kind == "nvidia":
        ask_driver()
    return f"{', '.join(expected)} {who()}"


def ask_driver() -> None:
    """What nvidia-smi complains of, where it is there: an open node is not yet a working driver."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return
    if done.returncode:
        raise RuntimeError(" ".join((done.stdout + done.stderr).split())[:300] or "nvidia-smi fails")


def compute(kind: str, required: bool) -> str:
    """One small matrix product on each GPU, with its time; raises RuntimeError when PyTorch finds none."""
    try:
        import torch  # type: ignore[import-not-found]
    except ImportError as error:
        if required:
            raise RuntimeError(f"PyTorch cannot be imported: {error}") from None
        raise NotTested("this notebook has no PyTorch (TORCH=none); its device nodes were opened") from None
    if not required and not (torch.version.cuda or getattr(torch.version, "hip", None)):
        raise NotTested("this notebook's PyTorch is for the CPU (TORCH=cpu); its device nodes were opened")
    built = "ROCm " + str(torch.version.hip) if getattr(torch.version, "hip", None) else f"CUDA {torch.version.cuda}"
    title = f"PyTorch {torch.__version__} for {built}"
    if kind == "amd" and not getattr(torch.version, "hip", None):
        raise RuntimeError(f"{title} cannot use an AMD GPU; it needs the build for ROCm")
    if not torch.cuda.is_available():
        reason = "it finds no GPU"
        try:
            torch.cuda.init()
        except Exception as error:  # its own words say whether the driver is too old
            reason = " ".join(str(error).split())[:300] or reason
        raise RuntimeError(f"{title}: {reason}")
    notes = []
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        left = torch.ones((SIDE, SIDE), device=device)
        torch.mm(left, left)  # loads the library
        torch.cuda.synchronize(device)
        began = time.monotonic()
        result = torch.mm(left, left)
        torch.cuda.synchronize(device)
        seconds = time.monotonic() - began
        if float(result[0, 0]) != SIDE:
            raise RuntimeError(f"GPU {index} computed {float(result[0, 0])} instead of {SIDE}")
        notes.append(f"{torch.cuda.get_device_name(index)}: {SIDE} x {SIDE} product in {seconds * 1000:.2f} ms")
    return f"{title}; " + "; ".join(notes)


def metrics(kind: str, has_torch: bool, experiment: str) -> str:
    """A run of a few seconds with system metrics; raises RuntimeError when no figure of a GPU is among them."""
    import mlflow  # type: ignore[import-not-found]
    from mlflow import MlflowClient

    package = "pynvml" if kind == "nvidia" else "pyrsmi"
    try:
        __import__(package)
        if kind == "nvidia":
            import pynvml  # type: ignore[import-not-found]

            pynvml.nvmlInit()
        else:
            from pyrsmi import rocml  # type: ignore[import-not-found]

            rocml.smi_initialize()
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if not has_torch:
            raise NotTested(f"{package} finds no driver library: {reason}") from None
        raise RuntimeError(f"{package}: {reason}") from None
    mlflow.set_experiment(experiment)
    mlflow.set_system_metrics_sampling_interval(1)
    with mlflow.start_run(run_name="check-gpu", log_system_metrics=True) as run:
        time.sleep(4)  # no wait: a measurement a second, and some of them
    client = MlflowClient()
    keys = sorted(key for key in client.get_run(run.info.run_id).data.metrics if key.startswith("system/gpu"))
    client.delete_run(run.info.run_id)
    if not keys:
        raise RuntimeError("a run with system metrics has no row of a GPU")
    return ", ".join(re.sub(r"^system/", "", key) for key in keys[:6])


def main(options: dict[str, Any]) -> int:
    kind, has_torch = options["kind"], bool(options["torch"])
    steps: list[tuple[str, Callable[[], str]]] = [(OPEN, lambda: can_open(kind, options["nodes"]))]
    if not options.get("quick"):
        os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # stdout is the protocol
        os.environ["TRACKBED_BROWSER_URL"] = ""
        steps += [
            (COMPUTE, lambda: compute(kind, has_torch)),
            (METRICS, lambda: metrics(kind, has_torch, options["experiment"])),
        ]
    failed = False
    for name, step in steps:
        began = time.monotonic()
        ok: bool | None = False
        if failed:
            detail = "skipped: an earlier check failed"
        else:
            try:
                ok, detail = True, step()
            except NotTested as reason:
                ok, detail = None, str(reason)
            except Exception as error:
                failed, detail = True, " ".join(str(error).split())[:400] or type(error).__name__
        sys.stdout.write(
            json.dumps({"check": name, "ok": ok, "detail": detail, "seconds": round(time.monotonic() - began, 3)})
            + "\n"
        )
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
