"""Build a function for the process backend: a bundle.

In:   FunctionConfig, and the folder that holds all bundles.
Out:  `<bundles>/<function>/<digest>/{bundle.json,src/}`, and what the recipe of its runtime adds.
The digest is that of everything that goes into it: an unchanged function is
found again and not built. A bundle appears by one rename, whole or not at all.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from dcf.build.dockerfile import function_folder
from dcf.build.go_module import provide_module
from dcf.build.lock import locked
from dcf.build.project import FunctionConfig
from dcf.build.recipe.choose import choose_recipe
from dcf.build.recipe.contract import Recipe, Sources
from dcf.build.sources import Tree, copy_tree, digest_tree, scan
from dcf.build.steps import OnOutput
from dcf.build.venvs import VENVS
from dcf.domain.bundle import FORMAT, MANIFEST, SOURCE, BundleManifest, manifest_from_json, manifest_to_json
from dcf.domain.names import bundle_reference, parse_bundle_reference
from dcf.errors import BuildError, ImageNotFoundError

DIGEST_DIGITS = 12
_UNFINISHED = ".unfinished-"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """What a build came to."""

    function: str
    reference: str
    """What `deploy` sends as the image: `bundle:echo@0123456789ab`."""
    folder: Path | None
    """Of the bundle; None where `skip_build` left an image alone that is no bundle."""
    manifest: BundleManifest | None
    seconds: float
    reused: bool
    """Nothing had changed since an earlier build."""
    notices: tuple[str, ...]
    """What of the config does not act on the process backend, for people."""


def build_function(config: FunctionConfig, bundles: Path, *, on_output: OnOutput) -> BuildResult:
    """Build, or find what an earlier build made of the same.

    Args:
        bundles: made where it is missing.
        on_output: is given every line of output as it comes.

    Raises:
        BuildError: with the failing step and its last lines.
    """
    begun_s = time.monotonic()
    try:
        result = _left_alone(config, bundles) if config.skip_build else _build(config, bundles.absolute(), on_output)
    except OSError as error:
        name = f" {error.filename}" if error.filename else ""
        raise BuildError(f"could not build {config.name}:{name}: {error.strerror or error}") from error
    return replace(result, seconds=time.monotonic() - begun_s)


def find_built(config: FunctionConfig, bundles: Path) -> BuildResult | None:
    """The bundle of the function as it is now, None where it has to be built. Raises BuildError."""
    plan = _Plan(config, bundles.absolute())
    return plan.result(reused=True) if plan.is_built() else None


def resolve_bundle(bundles: Path, reference: str) -> tuple[BundleManifest, Path]:
    """The manifest and the absolute folder of a bundle reference.

    Raises:
        ImageNotFoundError: it is no bundle reference, or nothing whole is there.
    """
    parsed = parse_bundle_reference(reference)
    if parsed is None:
        raise ImageNotFoundError(f"{reference!r} is not a bundle: expected bundle:<function>@<12 hex digits>")
    function, digest = parsed
    folder = bundles.absolute() / function / digest
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
    except OSError as error:
        raise ImageNotFoundError(
            f"{reference} is not in {bundles}: build the function here (dcf function build)"
        ) from error
    return manifest_from_json(text), folder


class _Plan:
    """What a build of `config` would make: names and digests, nothing made yet."""

    def __init__(self, config: FunctionConfig, bundles: Path) -> None:
        if bundles.resolve().is_relative_to(config.source):
            raise BuildError(f"the bundles' folder {bundles} is inside the sources {config.source}: name another one")
        if config.name == VENVS:
            raise BuildError(f"a function cannot be called {VENVS}: the folder of that name holds what functions share")
        self.config = config
        self.bundles = bundles
        tree = scan(config.source)
        self.sources = Sources(tree=tree, digest=digest_tree(tree))
        self.recipe: Recipe = choose_recipe(config, bundles, self.sources)

    @cached_property
    def digest(self) -> str:
        config = self.config
        parts = (
            str(FORMAT), config.name, config.runtime, config.handler_file, config.handler_name,
            *self.recipe.digest_parts, self.sources.digest,
        )  # fmt: skip
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:DIGEST_DIGITS]

    @cached_property
    def manifest(self) -> BundleManifest:
        config = self.config
        return BundleManifest(
            function=config.name,
            digest=self.digest,
            runtime=config.runtime,
            command=self.recipe.command(self.folder),
            version=self.recipe.version,
            handler_file=config.handler_file,
            handler_name=config.handler_name,
        )

    @property
    def folder(self) -> Path:
        return self.bundles / self.config.name / self.digest

    def is_built(self) -> bool:
        """Whether all of it is there whole."""
        return self.is_assembled() and self.recipe.is_prepared

    def is_assembled(self) -> bool:
        """Whether the bundle's folder is there; one in a bundles folder that was moved names programs elsewhere."""
        try:
            manifest = manifest_from_json((self.folder / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ImageNotFoundError):
            return False
        return manifest == self.manifest

    def result(self, *, reused: bool) -> BuildResult:
        return BuildResult(
            function=self.config.name,
            reference=bundle_reference(self.config.name, self.digest),
            folder=self.folder,
            manifest=self.manifest,
            seconds=0.0,
            reused=reused,
            notices=_notices(self.config, self.recipe),
        )


def _build(config: FunctionConfig, bundles: Path, on_output: OnOutput) -> BuildResult:
    plan = _Plan(config, bundles)
    if config.runtime == "go":
        provide_module(function_folder(config), config.source)
    if plan.is_built():
        return plan.result(reused=True)
    plan.recipe.check(on_output)

    def on_wait() -> None:
        on_output(f"==> waiting for another build of {config.name}")

    home = bundles / config.name
    with locked(home / ".lock", on_wait=on_wait) as lock:
        if plan.is_built():
            return plan.result(reused=True)
        for leftover in home.glob(f"{_UNFINISHED}*"):  # of builds that were killed: the lock is ours
            shutil.rmtree(leftover, ignore_errors=True)
        plan.recipe.prepare(on_output)
        if plan.is_assembled():  # only what it shares was missing; replicas may run in it
            return plan.result(reused=False)
        on_output(f"==> copy {len(plan.sources.tree.files)} files")
        with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=home) as unfinished:
            _assemble(plan, Path(unfinished) / "bundle", lock, on_output)
            if plan.folder.exists():  # not whole, or of a folder that was moved
                shutil.rmtree(plan.folder)
            (Path(unfinished) / "bundle").rename(plan.folder)
    return plan.result(reused=False)


def _assemble(plan: _Plan, target: Path, lock: int, on_output: OnOutput) -> None:
    target.mkdir()
    tree = plan.sources.tree
    copy_tree(tree, target / SOURCE)
    plan.recipe.assemble(target, lock, on_output)
    copied = Tree(root=target / SOURCE, files=tree.files, folders=tree.folders)
    if digest_tree(copied) != plan.sources.digest:
        raise BuildError(f"{plan.config.source} changed while it was built: build it again")
    (target / MANIFEST).write_text(manifest_to_json(plan.manifest), encoding="utf-8")


def _left_alone(config: FunctionConfig, bundles: Path) -> BuildResult:
    if not config.image:
        raise BuildError(f"{config.name} says skip_build and names no image: name one, or set skip_build to false")
    manifest, folder = None, None
    if parse_bundle_reference(config.image) is not None:
        try:
            manifest, folder = resolve_bundle(bundles, config.image)
        except ImageNotFoundError as error:
            raise BuildError(f"{config.name} says skip_build: {error}") from error
    return BuildResult(
        function=config.name,
        reference=config.image,
        folder=folder,
        manifest=manifest,
        seconds=0.0,
        reused=True,
        notices=(f"skip_build: {config.image} is taken as it is",),
    )


def _notices(config: FunctionConfig, recipe: Recipe) -> tuple[str, ...]:
    notices = []
    if config.build_packages:
        notices.append(
            f"build_packages ({', '.join(config.build_packages)}) act in image builds; "
            "the process backend uses what this machine has"
        )
    if limited := [f"{name}: {value}" for name, value in config.limits.items() if name != "gpu"]:
        limits = ", ".join(limited)
        notices.append(f"limits ({limits}) are not enforced by the process backend")
    if others := [name for name in config.build_args if name not in recipe.acting_args]:
        notices.append(f"build_args {', '.join(others)} act in image builds")
    return (*notices, *recipe.notices)
