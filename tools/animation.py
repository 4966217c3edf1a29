"""Draw docs/_static/filling.gif: a small network filling up while it learns five tasks of two digits each.

    python tools/animation.py

One square per gated unit, in the colour of the task that used it first; pale: open in the task that is being learnt,
and used by none before. Beside it capacity usage, as in Fig. 5. It plays once.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import hatlab
from hatlab.experiments import style
from hatlab.support.paths import checkout

CONFIG = hatlab.RunConfig(dataset="digits", widths=(60, 60), dropout=(0.0, 0.0), batch_size=16, max_epochs=40, c=0.75)
EVERY = 2  # epochs from one picture to the next
COLUMNS = 10
HOLD = 12  # pictures' worth of time that the last one stays


class Watch(hatlab.Callback):
    """Keeps the mask of the task after each epoch: (task, epoch, {layer: (units,)})."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, dict[str, np.ndarray]]] = []

    def after_epoch(self, config: hatlab.RunConfig, network: hatlab.HATNetwork, task: int, epoch: int) -> None:
        parts = network.split(network.mask(task, config.s_max).detach())
        self.seen.append((task, epoch, {name: mask.numpy().copy() for name, mask in parts.items()}))


def pictures(watch: Watch, usage: list[float]) -> Iterator[Figure]:
    """Yield a figure for every `EVERY`th epoch and each task's last."""
    colors, layers = style.task_colors(5), list(watch.seen[0][2])
    first = {name: np.full(len(mask), -1) for name, mask in watch.seen[0][2].items()}  # -1: used by none so far
    for k, (task, epoch, mask) in enumerate(watch.seen):
        last = k + 1 == len(watch.seen) or watch.seen[k + 1][0] > task
        if epoch % EVERY == 0 or last:
            with style.styled():
                figure, axes = plt.subplots(
                    1, 3, figsize=(7.1, 2.4), layout="constrained", gridspec_kw={"width_ratios": [1, 1, 1.7]}
                )
                for panel, name in zip(axes, layers, strict=False):
                    cells = np.ones((len(mask[name]), 3))
                    fresh = (first[name] < 0) & (mask[name] > 0.5)
                    cells[fresh] = 0.45 * colors[task][:3] + 0.55
                    cells[first[name] >= 0] = colors[first[name][first[name] >= 0]][:, :3]
                    grid = cells.reshape(-1, COLUMNS, 3)
                    panel.imshow(grid)
                    panel.set_xticks(np.arange(-0.5, COLUMNS), [])
                    panel.set_yticks(np.arange(-0.5, len(grid)), [])
                    panel.grid(color="0.85", linewidth=0.8)
                    panel.tick_params(length=0)
                    panel.set_title(f"{name}: {len(cells)} units")
                axes[2].plot(range(k + 1), usage[: k + 1], color="black")
                axes[2].plot(k, usage[k], "o", color=colors[task])
                axes[2].set_xlim(0, len(usage))
                axes[2].set_xlabel("Epoch, over all tasks")
                axes[2].set_ylabel("Capacity usage (%)")
                style.share_axis(axes[2])
                axes[2].set_title(f"learning task {task + 1} of 5")
            yield figure
        if last:
            for name in layers:
                first[name][(first[name] < 0) & (mask[name] > 0.5)] = task


def main() -> None:
    """Do what the module's text says."""
    plt.switch_backend("agg")
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        run = hatlab.run(CONFIG, results=folder, device="cpu", callbacks=[watch])
    total = run.capacity[(run.capacity["layer"] == "total") & (run.capacity["epoch"] >= 0)]
    frames = []
    for figure in pictures(watch, (100 * total["weights_used"] / total["weights"]).tolist()):
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=100)
        plt.close(figure)
        frames.append(Image.open(buffer).convert("RGB").quantize(64, dither=Image.Dither.NONE))
    path = Path(checkout() / "docs" / "_static" / "filling.gif")
    times = [120] * (len(frames) - 1) + [120 * HOLD]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=times, optimize=True)
    print(f"{path}: {len(frames)} pictures, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
