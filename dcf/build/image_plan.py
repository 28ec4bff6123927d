"""What a build of an image would make, before anything is made.

In:   FunctionConfig and the files that it names.
Out:  ImagePlan: name, arguments, context, and the digest of all that goes in. No engine is asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from dcf import __version__
from dcf.build.base_image import choose_base
from dcf.build.build_context import BuildContext, collect_context
from dcf.build.cuda import CUDA_ARGS
from dcf.build.dockerfile import Dockerfile, find_dockerfile
from dcf.build.image_name import ImageName, image_name
from dcf.build.project import FunctionConfig
from dcf.domain.image import FORMAT, FORMAT_LABEL, FUNCTION_LABEL, RUNTIME_LABEL, VERSION_LABEL

CONTENT_LABEL = "dcf.content"
"""On the image: the digest of all that went into it, by which a build finds it again."""
DIGEST_DIGITS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePlan:
    """Everything about an image but how the network is reached."""

    function: str
    name: ImageName
    reference: str
    """`<repository>:<first 12 digits of the digest>`: another content is another reference, so a deploy rolls over."""
    digest: str
    """64 hex digits."""
    base_image: str
    build_args: Mapping[str, str]
    """As far as the Dockerfile declares them."""
    labels: Mapping[str, str]
    dockerfile: Dockerfile
    context: BuildContext
    notices: tuple[str, ...]

    @property
    def own_tag(self) -> str:
        """The name that the user thinks of it by; moves to the newest build."""
        return self.name.with_tag(self.name.tag)


def plan_image(config: FunctionConfig) -> ImagePlan:
    """Say what an image of `config` would be.

    Raises:
        BuildError: its name, its base, its Dockerfile or its files are not such that there can be one.
    """
    name = image_name(config)
    base = choose_base(config)
    dockerfile = find_dockerfile(config)
    context = collect_context(config, dockerfile)
    ours = base.build_args() | {
        "BUILD_PACKAGES": " ".join(config.build_packages),
        "HANDLER_FILE": config.handler_file,
        "HANDLER_NAME": config.handler_name,
        "SOURCE": context.source,
    }
    build_args = {key: value for key, value in {**config.build_args, **ours}.items() if key in dockerfile.arguments}
    unheard = [key for key in config.build_args if key not in build_args and key not in (*ours, *CUDA_ARGS)]
    notices = [*base.notices, *dockerfile.notices]
    if unheard:
        where = dockerfile.file or "the Dockerfile of DCF"
        notices.append(f"build_args {', '.join(unheard)}: {where} declares no such ARG")
    digest = _digest(config, dockerfile, build_args, context)
    return ImagePlan(
        function=config.name,
        name=name,
        reference=name.with_tag(digest[:DIGEST_DIGITS]),
        digest=digest,
        base_image=base.base_image,
        build_args=build_args,
        labels={
            FORMAT_LABEL: FORMAT,
            VERSION_LABEL: __version__,
            RUNTIME_LABEL: config.runtime,
            FUNCTION_LABEL: config.name,
            CONTENT_LABEL: digest,
        },
        dockerfile=dockerfile,
        context=context,
        notices=tuple(notices),
    )


def _digest(
    config: FunctionConfig, dockerfile: Dockerfile, build_args: Mapping[str, str], context: BuildContext
) -> str:
    parts = [FORMAT, __version__, config.name, config.runtime, dockerfile.text, context.digest()]
    parts += [f"{key}={value}" for key, value in sorted(build_args.items())]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
