"""The least time of a training step on a device, from its arithmetic and its memory traffic.

    python benchmarks/step_floor.py --tflops 785 --tbytes 3.0 --into docs/performance.md

Counted for ResNet-18 encoders at CREMA-D's shapes and batch 64 unless given, on tensors without
values, so that no device is needed. ``--tflops`` is a matrix product measured on the device, and
``--tbytes`` a copy, in bytes read and written per second. Each convolution, forward and towards
its input and its weights, takes what its arithmetic or its memory takes, whichever is more, and so
does what is between two convolutions, which is taken for one operation. Losses, heads, batches and
the update of the weights are not in it.
"""

from argparse import Namespace
from collections.abc import Sequence

from mmbench.settings import TrainerSettings
from mmbench.testing.command_line import Page, add_shapes, how_many, parser, positive, script, table
from mmbench.testing.speed import CREMAD, CREMAD_SAMPLES, audiovisual, step_work
from mmbench.testing.traffic import CONVOLUTIONS, NORMS, Work

CLASSES = 6
BF16 = 2  # bytes


def arguments(argv: Sequence[str] | None) -> Namespace:
    """Read the command line."""
    made = parser(__doc__, "--into")
    made.add_argument("--method", default="concat", help="(default: %(default)s)")
    made.add_argument("--tflops", type=positive, required=True, help="Tflop/s of a matrix product")
    made.add_argument("--tbytes", type=positive, required=True, help="TB/s of a copy")
    made.add_argument(
        "--batch", type=how_many, default=CREMAD[2], help="samples per step (default: %(default)s)"
    )
    add_shapes(made, CREMAD)
    return made.parse_args(argv)


def line(name: str, works: Sequence[Work], flops: float, bandwidth: float) -> tuple[str, ...]:
    """Return a row of the table."""
    arithmetic, moved = sum(w.flops for w in works), BF16 * sum(w.elements for w in works)
    times = (
        arithmetic / flops, moved / bandwidth, sum(w.seconds(flops, bandwidth, BF16) for w in works)
    )  # fmt: skip
    least = [f"{1000 * seconds:.1f}" for seconds in times]
    return name, f"{arithmetic / 1e12:.2f}", least[0], f"{moved / 1e9:.1f}", *least[1:]


def main(argv: Sequence[str] | None = None) -> None:
    """Count and print."""
    options = arguments(argv)
    page = Page(options.into, "step-floor")
    task = audiovisual(options.audio, options.visual, CLASSES)
    works = step_work(options.method, task, TrainerSettings(batch_size=options.batch))
    flops, bandwidth = options.tflops * 1e12, options.tbytes * 1e12
    kinds = {kind: [w for w in works if w.kind == kind] for kind in (CONVOLUTIONS, NORMS)}
    rows = [line(kind, some, flops, bandwidth) for kind, some in kinds.items()]
    whole = line("together", works, flops, bandwidth)
    shapes = " and ".join(" x ".join(map(str, s)) for s in (options.audio, options.visual))
    text = (
        f"A step of `{options.method}` on ResNet-18 encoders, {shapes}, batch {options.batch}, in "
        f"bf16, takes at least {whole[-1]} ms\nat {options.tflops:.0f} Tflop/s and "
        f"{options.tbytes:.1f} TB/s if norms are operations of their own, an epoch of "
        f"{CREMAD_SAMPLES:,} samples "
        f"{CREMAD_SAMPLES / options.batch * float(whole[-1]) / 1000:.2f} s.\n\n"
    ) + table(
        {
            "kind": "l", "Tflop": "r", "arithmetic (ms)": "r", "GB": "r", "memory (ms)": "r",
            "at least (ms)": "r",
        },
        [*rows, whole],
    )  # fmt: skip
    page.show(text)


if __name__ == "__main__":
    script(main)
