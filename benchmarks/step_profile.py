"""Where a step of MLP 784-2000-2000 spends its time, by operation: the profile behind the row sgemm_2_threads.

python -m benchmarks.step_profile [THREADS]
"""

import sys

import torch
from torch.profiler import ProfilerActivity, profile

import hatlab
from hatlab.training.engine import ReplicaGroup
from hatlab.training.runs import trainers

torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
config = hatlab.RunConfig(dataset="mnist", task_order="fixed", validation=0.9, n_tasks=2)
(run,) = trainers([config], "cpu")
run.task, run.cumulative = 1, run.network.mask(0, config.s_max).detach()
group = ReplicaGroup([run])
group.train_epoch()
steps = -(-len(run.split.train) // config.batch_size)
with profile(activities=[ProfilerActivity.CPU]) as profiled:
    group.train_epoch()
events = sorted(profiled.key_averages(), key=lambda event: -event.self_cpu_time_total)
total = sum(event.self_cpu_time_total for event in events)
print(f"{torch.get_num_threads()} threads, {total / steps / 1e3:.1f} ms a step")
for event in events[:8]:
    of_step = event.self_cpu_time_total
    print(f"{event.key[:24]:24} {of_step / steps / 1e3:6.2f} ms  {of_step / total:4.0%}")
