"""The learning rate as a pure function of the epoch: nothing to checkpoint."""

import math

from mmbench.settings import TrainerSettings


def lr_at(settings: TrainerSettings, epoch: int, epochs: int) -> float:
    """Return the base learning rate of ``epoch`` (from 0) in a run of ``epochs``.

    StepLR multiplies by ``lr_gamma`` after every ``round(lr_step * epochs)`` epochs, stepped after
    training as in the IPRM, OGM, MLA, PMR and AGM scripts. Cosine falls to 0 after the last epoch.
    Warm-up rises linearly and reaches the full rate at its end.
    """
    warm = round(settings.warmup * epochs)
    if epoch < warm:
        return settings.lr * (epoch + 1) / warm
    if settings.schedule == "step":
        period = max(1, round(settings.lr_step * epochs))
        return settings.lr * settings.lr_gamma ** (epoch // period)
    if settings.schedule == "cosine":
        done = (epoch - warm) / max(1, epochs - warm)
        return settings.lr * 0.5 * (1 + math.cos(math.pi * done))
    return settings.lr
