"""Runs CLArena's HAT on Split-MNIST, MLP 784-400-400, in batches of 64, one epoch for each that is asked of it.

    .venv-clarena/bin/python benchmarks/clarena_epoch.py MNIST_ROOT THREADS [usual]

`benchmarks.clarena` starts it inside CLArena's own environment; it knows nothing of hatlab. It reads "task" (begin the
next task) or "epoch" (train one epoch of it) from standard input and answers each with a line of JSON:
{"setup": seconds} or {"epoch": seconds, "steps": n}. It ends with its input.

Data set, network, algorithm, metrics and trainer are CLArena's own, put together as its pipeline does
(clarena/pipelines/cl_main_expr.py). That refuses to start without a metric, a logger and a callback: with "usual" there
are its accuracy and loss, Lightning's CSV logger, its progress bar, and Lightning's validation after each epoch.
Otherwise there are none of these, and what is timed is the training loop alone.
"""

import contextlib
import functools
import json
import logging
import sys
import tempfile
import time
import warnings

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore")

answers = sys.stdout


def ask() -> str:
    return sys.stdin.readline().strip()


def answer(**values: float) -> None:
    print(json.dumps(values), file=answers, flush=True)


def main(root: str, threads: int, usual: bool, folder: str) -> None:
    import lightning
    import torch
    from clarena.backbones import HATMaskMLP
    from clarena.callbacks import CLRichProgressBar
    from clarena.cl_algorithms import HAT
    from clarena.cl_datasets import SplitMNIST
    from clarena.heads import HeadsTIL
    from clarena.metrics import CLAccuracy, CLLoss
    from lightning.pytorch.loggers import CSVLogger

    class OnDemand(lightning.Callback):
        """Lets an epoch begin when it is asked for. The last callback: what the others do is in the time."""

        begun = 0.0

        def on_train_epoch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
            if trainer.current_epoch == 0:
                answer(setup=time.perf_counter() - self.begun)
                if ask() != "epoch":
                    raise SystemExit("a task begins with an epoch")
            self.begun = time.perf_counter()

        def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
            answer(epoch=time.perf_counter() - self.begun, steps=trainer.num_training_batches)
            trainer.should_stop = ask() != "epoch"  # "task", or the end of the input

    torch.set_num_threads(threads)
    lightning.seed_everything(0, verbose=False)
    splits = {task: [2 * task - 2, 2 * task - 1] for task in range(1, 6)}
    data = SplitMNIST(root=root, class_split=splits, validation_percentage=0.15, batch_size=64)
    data.set_cl_paradigm("TIL")
    network = HATMaskMLP(input_dim=784, hidden_dims=[400], output_dim=400, gate="sigmoid", dropout=0.5)
    hat = HAT(network, HeadsTIL(400), "hat", s_max=400, clamp_threshold=50, mask_sparsity_reg_factor=0.75)
    on_demand = OnDemand()
    others = [CLAccuracy(folder), CLLoss(folder), CLRichProgressBar()] if usual else []
    for task in splits:
        if task == 1 and ask() != "task":
            return
        on_demand.begun = time.perf_counter()
        trainer = lightning.Trainer(
            accelerator="cpu", max_epochs=-1, callbacks=[*others, on_demand], default_root_dir=folder,
            logger=CSVLogger(folder) if usual else False, enable_progress_bar=usual, enable_model_summary=False,
            enable_checkpointing=False, limit_val_batches=1.0 if usual else 0, num_sanity_val_steps=0,
        )  # fmt: skip
        data.setup_task_id(task)
        optimizer = functools.partial(torch.optim.SGD, lr=0.05)
        hat.setup_task_id(task, num_classes=2, optimizer=optimizer, lr_scheduler=None)
        trainer.fit(hat, datamodule=data)


if __name__ == "__main__":
    # whatever the libraries print is no answer
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:
        main(sys.argv[1], int(sys.argv[2]), "usual" in sys.argv[3:], folder)
