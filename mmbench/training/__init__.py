"""The shared trainer: loop, schedule, precision, checkpoints, evaluation, timing."""
