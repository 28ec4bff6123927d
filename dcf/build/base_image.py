"""What a function's image stands on, from its limits and build arguments.

In:   FunctionConfig. Out: BaseChoice: the images that the Dockerfile's stages start from.
Pure, but for the tables in templates/.
"""

from __future__ import annotations

from dataclasses import dataclass

from dcf.build.cuda import CUDA_ARGS, choose_cuda_image
from dcf.build.interpreters import own_version
from dcf.build.project import FunctionConfig
from dcf.domain.quantity import parse_gpu


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseChoice:
    """The arguments of the Dockerfile that name images."""

    base_image: str
    watcher_image: str
    """Where the watcher's own interpreter is taken from: the version that runs dcf."""
    python_image: str
    """Where the handler's Python is taken from if the base has none that fits."""
    pack_python: bool
    """False: the base is known to have it."""
    python_version: str
    """What the handler's Python must be; "" where any from 3.6 on will do."""
    notices: tuple[str, ...] = ()

    def build_args(self) -> dict[str, str]:
        """As the Dockerfile takes them."""
        return {
            "BASE_IMAGE": self.base_image,
            "WATCHER_IMAGE": self.watcher_image,
            "PYTHON_IMAGE": self.python_image,
            "PACK_PYTHON": "1" if self.pack_python else "0",
            "PYTHON_VERSION": self.python_version,
        }


def choose_base(config: FunctionConfig) -> BaseChoice:
    """Say what `config` asks for: BASE_IMAGE first, then a GPU or a CUDA argument, else a Python.

    Raises:
        BuildError: a combination of CUDA, cuDNN and Ubuntu that NVIDIA never published.
    """
    args = config.build_args
    version = args.get("PYTHON_VERSION", "")
    watcher = args.get("WATCHER_IMAGE") or _python(own_version())
    own = args.get("PYTHON_IMAGE") or _python(version or own_version())
    cuda = [name for name in CUDA_ARGS if args.get(name)]
    if base := args.get("BASE_IMAGE"):
        return BaseChoice(
            base_image=base,
            watcher_image=watcher,
            python_image=own,
            pack_python=True,
            python_version=version,
            notices=(f"BASE_IMAGE is given: {', '.join(cuda)} choose no image",) if cuda else (),
        )
    gpus = parse_gpu(config.limits["gpu"]) if config.limits.get("gpu") else 0
    if gpus or any(name != "UBUNTU_VERSION" for name in cuda):
        image = choose_cuda_image(*(args.get(name, "") for name in CUDA_ARGS))
        return BaseChoice(
            base_image=image.name,
            watcher_image=watcher,
            python_image=own,
            pack_python=True,
            python_version=version or own_version(),
        )
    return BaseChoice(
        base_image=_python(version or own_version()),
        watcher_image=watcher,
        python_image=watcher,  # nothing is taken from it, so no further image is fetched
        pack_python=False,
        python_version=version or own_version(),
        notices=("UBUNTU_VERSION acts only beside a GPU or a CUDA_VERSION",) if cuda else (),
    )


def _python(version: str) -> str:
    return f"python:{version}-slim"
