"""The commands that look at files and machines before anything is trained: `check`, `cluster` and `data`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raysweep.cli.terminal import plain_console, preparing, print_sentences, reports_errors, warner
from raysweep.storage.layout import typed
from raysweep.wording import given_as

if TYPE_CHECKING:
    from rich.console import Console

    from raysweep.data.images import Note
    from raysweep.spec.sections import SweepSpec
    from raysweep.vae.preflight import Preflight, Unpredictable


@click.command()
@click.argument("file", type=click.Path(), required=False)
@click.option(
    "--fields", is_flag=True,
    help="List every key that FILE may have, with bounds, default and meaning; FILE may be a key, such as trial.sigma.",
)  # fmt: skip
@click.option("--schema", is_flag=True, help="Print the JSON Schema of search space files, for editors.")
@reports_errors
def check(file: str | None, fields: bool, schema: bool) -> None:
    """Say what the search space FILE would run, without running it.

    FILE is a file, or the name of a shipped one, such as kld. Also at which KLD weight models are predicted to
    collapse, if the images are on this machine: it prepares them as `run` would.
    """
    if fields:
        from raysweep.cli.keys import fields_page

        click.echo(fields_page(file))
        return
    if schema:
        import json

        from raysweep.spec.schema import json_schema

        click.echo(json.dumps(json_schema(), indent=1))
        return
    if file is None:
        raise click.UsageError("Missing argument 'FILE'. To write one, type: raysweep new my.yaml")
    from raysweep.spec.loading import load_spec

    spec = load_spec(file)

    from raysweep.data.cache import describe
    from raysweep.review.earlier import gather_past
    from raysweep.review.remarks import remarks_before
    from raysweep.spec.defaults import sized
    from raysweep.spec.shipped import find_shipped
    from raysweep.terminal.views import plan_view
    from raysweep.vae.preflight import summary

    console = plain_console()
    past = gather_past(spec, file)
    description = describe(spec.data)
    spec = sized(spec, description.sizes.train)
    slots, where = _slots(spec)
    cache = _images(console, spec, description.is_present)
    prediction = _predicted_collapse(spec, cache)
    collapse = summary(prediction, spec.trial)
    shipped = f" (shipped with raysweep; for a copy to change, type: raysweep new my.yaml --from {file})"
    # Printed only now, because the images may have a fault.
    console.print(f"{file}: sound{shipped if find_shipped(file) else ''}", soft_wrap=True)
    console.print(plan_view(spec, description, collapse, slots, where, _remarks(cache), past))
    for index, remark in enumerate(remarks_before(spec, description.sizes.train, prediction)):
        if index == 0:
            console.print()
        print_sentences(console, f"warning  {remark}")
    console.print(f"\nTo run it, type: raysweep run {typed(file)}", soft_wrap=True)


def _slots(spec: SweepSpec) -> tuple[Any, str]:
    """Return what a trial takes and how many fit, and a phrase that says where."""
    from raysweep.backend.address import wanted_address
    from raysweep.backend.autoscaling import slots_of
    from raysweep.backend.connection import connected
    from raysweep.backend.inline import InlineBackend
    from raysweep.backend.resources import cluster_nodes, fit, local_nodes

    if spec.resources.backend == "inline":
        return InlineBackend().slots(spec), "in this process"
    address = wanted_address()
    if address is None:
        return fit(spec, local_nodes()), "on this machine"
    with connected():
        nodes = cluster_nodes()
        count = "1 machine" if len(nodes) == 1 else f"{len(nodes)} machines"
        return slots_of(spec), f"on the cluster at {address} ({count})"


def _images(console: Console, spec: SweepSpec, is_present: bool) -> Path | Unpredictable:
    """Return the data cache, built if the images are on this machine; otherwise the reason why there is none."""
    from raysweep.data.cache import prepare as prepare_cache
    from raysweep.errors import StorageError
    from raysweep.vae.preflight import Unpredictable

    if not is_present:
        return Unpredictable("the images are not on this machine yet")
    try:
        with preparing(console) as progress:
            return prepare_cache(spec.data, progress, lambda _: None)  # `plan_view` shows the warnings, and more
    except StorageError as error:  # a fault of this machine's disk is not a fault of the file
        return Unpredictable(str(error))


def _predicted_collapse(spec: SweepSpec, cache: Path | Unpredictable) -> Preflight | Unpredictable:
    """Predict at which KLD weight models collapse."""
    from raysweep.driver.preflight import preflight
    from raysweep.vae.preflight import unpredictable

    prediction: Preflight | Unpredictable | None = unpredictable(spec.trial)
    if prediction is None:
        prediction = preflight(spec, cache) if isinstance(cache, Path) else cache
    return prediction


def _remarks(cache: Path | Unpredictable) -> tuple[Note, ...]:
    """Return how preparing the images changed them; empty without a cache."""
    from raysweep.data.cache import open_cache

    return open_cache(cache).info.remarks if isinstance(cache, Path) else ()


@click.group()
def cluster() -> None:
    """The files that describe a cluster."""


@cluster.command("check")
@click.argument("file", type=click.Path())
@reports_errors
def check_cluster(file: str) -> None:
    """Say what is missing in a cluster FILE, before money is spent.

    FILE is one of `ray up` (AWS, Google Cloud, Azure, machines of one's own), a RayJob of Kubernetes, or a batch script
    of Slurm. It is looked at here: without a network, without credentials, and without starting anything.
    """
    from raysweep.cluster.check import check_cluster_file

    checked = check_cluster_file(file)
    click.echo(f"{file}: nothing is missing")
    for reminder in checked.reminders:
        click.echo(f"  remember: {reminder}")


@click.group()
def data() -> None:
    """The data caches on this machine."""


@data.command("list")
@reports_errors
def list_data() -> None:
    """List the data sets there are, and the caches built of them."""
    from raysweep.data.cache import cache_directory, cached_files
    from raysweep.spec.sections import BUNDLED

    click.echo(
        f"data sets    bundled: {', '.join(BUNDLED)}; fetched or from data.root: mnist, fashion_mnist, cifar10, folder"
    )
    click.echo(f"caches in    {cache_directory()}")
    for file in cached_files():
        size = f"{file.cache_bytes / 1e6:,.1f} MB"
        if file.info is None:
            click.echo(f"  {file.path.name}  {size}  {file.fault}")
        else:
            info = file.info
            shape = f"{info.channels}x{info.height}x{info.width}"
            click.echo(f"  {file.path.name}  {size}  {info.count:,} images of {shape} from {info.origin}")


@data.command()
@click.argument("name", metavar="NAME_OR_FILE")
@click.option("--root", type=click.Path(), metavar="DIR", help="Directory of the raw files.")
@click.option(
    "--image-size", type=int, metavar="PIXELS", default=32, show_default=True,
    help="Height and width after preprocessing.",
)  # fmt: skip
@reports_errors
def prepare(name: str, root: str | None, image_size: int) -> None:
    """Build the cache of a data set, or of the one a search space file names, before a sweep needs it."""
    from raysweep.data.cache import open_cache
    from raysweep.data.cache import prepare as prepare_cache
    from raysweep.spec.loading import load_spec, parse_data
    from raysweep.spec.shipped import find_shipped
    from raysweep.storage.remote import local_path, to_copy

    is_file = bool(name.endswith((".yaml", ".yml")) or find_shipped(name))
    if root is not None:
        root = str(local_path(root, "images are read from a folder of this machine", to_copy(root, "images"), "--root"))
    if is_file:
        spec = load_spec(name).data
    else:
        spec = parse_data({"dataset": name, "root": root, "image_size": image_size}, f"raysweep data prepare {name}")
    console = plain_console()
    with preparing(console) as progress, nullcontext() if is_file else given_as("data.root", "--root"):
        path = prepare_cache(spec, progress, warner(console))
    info = open_cache(path).info
    click.echo(f"{info.count:,} images of {info.channels}x{info.height}x{info.width} from {info.origin}\n{path}")
