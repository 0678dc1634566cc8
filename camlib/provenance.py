"""Where and with what numbers were made: device, versions and commit, as a record keeps them."""

import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path

import torch
import torchvision


def device_name(device: torch.device) -> str:
    """The model of an accelerator, or the processor's name and the number of threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    threads = torch.get_num_threads()
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"


def versions() -> dict[str, str]:
    """Versions of what the arithmetic depends on."""
    return {
        "camlib": importlib.metadata.version("camlib"),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": torchvision.__version__,
    }


def commit() -> str:
    """The commit of the camlib that runs, with "+changes" if its files differ from it, or "unknown"."""
    try:
        head = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", ".")
    except (OSError, subprocess.CalledProcessError):
        return _installed_commit()
    return f"{head}+changes" if changed else head


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _installed_commit() -> str:
    """The commit that pip noted when it installed from a repository (PEP 610), as on Colab."""
    try:
        origin = importlib.metadata.distribution("camlib").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
    return json.loads(origin or "{}").get("vcs_info", {}).get("commit_id", "unknown")
