"""What a function's image stands on, from its limits and build arguments.

In:   FunctionConfig. Out: BaseChoice: the images that the Dockerfile's stages start from.
Pure, but for the tables in templates/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dcf.build.cuda import CUDA_ARGS, choose_cuda_image
from dcf.build.interpreters import own_version
from dcf.build.project import FunctionConfig
from dcf.build.toolchains import default_version
from dcf.domain.quantity import parse_gpu
from dcf.errors import BuildError


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseChoice:
    """The images that a Dockerfile's stages start from."""

    base_image: str
    """Of the last stage."""
    stage_args: Mapping[str, str]
    """What else the runtime's Dockerfile is told: the images of its other stages, and versions."""
    notices: tuple[str, ...] = ()

    def build_args(self) -> dict[str, str]:
        """As the Dockerfile takes them."""
        return {"BASE_IMAGE": self.base_image, **self.stage_args}


def choose_base(config: FunctionConfig) -> BaseChoice:
    """Say what `config` asks for: BASE_IMAGE first, then a GPU or a CUDA argument, else the runtime's own.

    Raises:
        BuildError: a combination of CUDA, cuDNN and Ubuntu that NVIDIA never published; a runtime without images.
    """
    asked, notices = _asked_for(config)
    match config.runtime:
        case "python":
            own, stages = _python_stages(
                config.build_args, asked, needs_version=not config.build_args.get("BASE_IMAGE")
            )
        case "go":
            own, stages = _go_stages(config.build_args)
        case other:
            raise BuildError(f"images of functions in {other} come with a later release of DCF")
    return BaseChoice(base_image=asked or own, stage_args=stages, notices=notices)


def _asked_for(config: FunctionConfig) -> tuple[str, tuple[str, ...]]:
    """The base that the config names or implies, "" where it leaves that to the runtime; and notices."""
    args = config.build_args
    cuda = [name for name in CUDA_ARGS if args.get(name)]
    if base := args.get("BASE_IMAGE"):
        return base, (f"BASE_IMAGE is given: {', '.join(cuda)} choose no image",) if cuda else ()
    gpus = parse_gpu(config.limits["gpu"]) if config.limits.get("gpu") else 0
    if gpus or any(name != "UBUNTU_VERSION" for name in cuda):
        return choose_cuda_image(*(args.get(name, "") for name in CUDA_ARGS)).name, ()
    return "", ("UBUNTU_VERSION acts only beside a GPU or a CUDA_VERSION",) if cuda else ()


def _python_stages(args: Mapping[str, str], asked: str, *, needs_version: bool) -> tuple[str, dict[str, str]]:
    version = args.get("PYTHON_VERSION", "")
    watcher = _watcher_image(args)
    python = args.get("PYTHON_IMAGE") or _python(version or own_version())
    return _python(version or own_version()), {
        "WATCHER_IMAGE": watcher,
        # Where the handler's Python is taken from if the base has none that fits; one that is known to have it
        # gives nothing to fetch.
        "PYTHON_IMAGE": python if asked else watcher,
        "PACK_PYTHON": "1" if asked else "0",
        # A base of the user's own may have any Python from 3.6 on.
        "PYTHON_VERSION": version or (own_version() if needs_version else ""),
    }


def _go_stages(args: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    watcher = _watcher_image(args)
    go = args.get("GO_IMAGE") or f"golang:{args.get('GO_VERSION') or default_version('go')}"
    # The watcher's image is fetched anyhow, and has certificates and time zones, which a bare Debian lacks.
    return watcher, {"WATCHER_IMAGE": watcher, "GO_IMAGE": go}


def _watcher_image(args: Mapping[str, str]) -> str:
    """Where the watcher's own interpreter is taken from: the version that runs dcf."""
    return args.get("WATCHER_IMAGE") or _python(own_version())


def _python(version: str) -> str:
    return f"python:{version}-slim"
