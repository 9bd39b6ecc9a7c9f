"""What a user would run otherwise: HF peft in a plain loop, or under HF Trainer, one trial a process."""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from benchmarks.work import CLASSES, Batch


class Way(NamedTuple):
    """How a plain loop computes."""

    weights: torch.dtype
    autocast: bool
    attention: Literal["sdpa", "eager"]  # bf16 scaled_dot_product_attention has a slow backward on CPUs


WAYS = {
    "peft": Way(torch.float32, False, "sdpa"),
    "peft-bf16": Way(torch.float32, True, "eager"),
    "peft-bf16-weights": Way(torch.bfloat16, False, "eager"),  # peft keeps the adapters in fp32, not the head
    "peft-bf16-sdpa": Way(torch.float32, True, "sdpa"),  # for CUDA
    "trainer": Way(torch.float32, False, "sdpa"),
}


def adapted(folder: Path, targets: str, rank: int, alpha: float, way: Way) -> PeftModel:
    """The frozen model with LoRA at the targets and a head to train, in train mode."""
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=CLASSES, dtype=way.weights, attn_implementation=way.attention
    )
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # declared int, any number will do
        target_modules=targets,
        modules_to_save=["classifier"],
    )
    return get_peft_model(model, config).train()


def stepper(model: PeftModel, rate: float, autocast: bool) -> Callable[[Batch], Tensor]:
    """One training step on a batch: its loss. AdamW as one fused kernel, no clipping, nothing logged."""
    rule = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], rate, weight_decay=0.0, fused=True)
    device = next(model.parameters()).device.type

    def step(batch: Batch) -> Tensor:
        inputs, labels = batch
        with torch.autocast(device, torch.bfloat16) if autocast else nullcontext():
            loss = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=labels).loss
        rule.zero_grad()
        loss.backward()
        rule.step()
        return loss.detach()

    return step


def arguments(folder: str, batch: int, steps: int, rate: float) -> TrainingArguments:
    """HF Trainer told to train as the loop does, and to print and save nothing."""
    return TrainingArguments(
        folder, max_steps=steps, per_device_train_batch_size=batch, learning_rate=rate, weight_decay=0.0,
        lr_scheduler_type="constant", max_grad_norm=0.0, use_cpu=True, report_to="none", save_strategy="no",
        logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip


def trainer_run(model: PeftModel, batches: Sequence[Batch], rate: float) -> Callable[[float], tuple[int, float]]:
    """Train under HF Trainer for so many seconds: steps done, seconds they took. Its loader hands out whole batches."""
    rows = [inputs | {"labels": labels} for inputs, labels in batches]

    def run(seconds: float) -> tuple[int, float]:
        clock = _Clock(seconds)
        with tempfile.TemporaryDirectory() as folder:
            asked = arguments(folder, 1, 10**9, rate)
            trainer = Trainer(model, asked, lambda one: one[0], rows, callbacks=[clock])
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return trainer.state.global_step, clock.took

    return run


class _Clock(TrainerCallback):
    """Ends the training when the time is up."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **told: Any
    ) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **told: Any) -> None:
        self.took = time.perf_counter() - self.began
        control.should_training_stop = self.took > self.seconds
