"""How many floating-point operations a token costs a transformer in training, and what a model says of itself.

The count is that of PaLM (Chowdhery et al. 2022, appendix B): 6 N + 12 L D S a token, of which a third is the forward
pass. N are the parameters that multiply (no embeddings), L the layers, D the width of attention (heads × size of a
head), S the length of a sequence. What recomputation (activation checkpointing) costs is not in it: MFU is about the
model's own operations.
"""

from collections.abc import Callable, Iterable
from typing import Any

from pulsetrain._run import cuda_marks, gpu_peaks


def flops_per_token(parameters: float, layers: float = 0, hidden: float = 0, sequence_length: float = 0) -> float:
    """Operations of the forward and the backward pass for one token. Without the last three, attention is left out."""
    return 6.0 * parameters + 12.0 * layers * hidden * sequence_length


def count_parameters(model: Any) -> int:
    """The parameters of a torch module that multiply: each one once, and embeddings not, for they are looked up.

    An embedding whose weight is also that of another module (a tied output layer) counts. A module that FSDP 1 has
    sharded knows its own shard only.
    """
    counted: dict[int, int] = {}
    for module in model.modules():
        if hasattr(module, "num_embeddings") and hasattr(module, "embedding_dim"):
            continue
        for parameter in module.parameters(recurse=False):
            counted[id(parameter)] = int(parameter.numel())
    return sum(counted.values())


def attention_of(model: Any) -> tuple[int, int]:
    """Layers and width of a model that has a `config` as those of transformers do; 0 where it does not say."""
    config = getattr(model, "config", None)
    return _first(config, ("num_hidden_layers", "n_layer", "n_layers")), _first(
        config, ("hidden_size", "n_embd", "dim")
    )


def dtype_of(model: Any) -> Any:
    """The format of a model's first parameter of a floating one; None where there is none."""
    parameters: Iterable[Any] = model.parameters()
    return next((it.dtype for it in parameters if getattr(it.dtype, "is_floating_point", False)), None)


def _first(config: Any, names: tuple[str, ...]) -> int:
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    return 0


class Utilisation:
    """Model FLOP/s utilisation (MFU): the operations that tokens stand for, over those that the GPUs could do.

    `tokens` are those of one process, `gpus` the GPUs that work on them: 1, but where a model is spread over several.
    The peak is a number, "auto" (by the GPU's name and the format, once a GPU is in use) or None for no MFU; where
    neither format nor model is given, bfloat16 is what is trained in.
    """

    def __init__(
        self,
        *,
        parameters: float,
        layers: float,
        hidden: float,
        sequence_length: float,
        peak: float | str | None,
        dtype: Any,
        gpus: float,
        device_name: Callable[[], str | None],
        note: Callable[[str, str], None],
    ) -> None:
        """`device_name` gives None as long as no GPU is in use; `note(kind, message)` says why there is no MFU."""
        self.dtype = dtype
        self._sequence_length = sequence_length
        self._parameters = parameters
        self._layers = layers
        self._hidden = hidden
        self._peak = peak if parameters else None
        self._gpus = gpus
        self._device_name = device_name
        self._note = note
        # Utilisation by a token a second, once it is known.
        self._share: float | None = None

    @property
    def sequence_length(self) -> float:
        """Tokens of a sequence. May be set; 0 leaves attention out."""
        return self._sequence_length

    @sequence_length.setter
    def sequence_length(self, tokens: float) -> None:
        if tokens != self._sequence_length:
            self._sequence_length, self._share = tokens, None

    def at(self, tokens_per_second: float) -> float | None:
        """MFU, 0 to 1; None where the parameters or the peak are not known."""
        if self._share is not None:
            return self._share * tokens_per_second
        if self._peak == "auto":
            self._find_peak()
        if self._peak is None or self._peak == "auto":
            return None
        operations = flops_per_token(self._parameters, self._layers, self._hidden, self._sequence_length)
        self._share = operations / (self._gpus * float(self._peak))
        return self._share * tokens_per_second

    def _find_peak(self) -> None:
        dtype = gpu_peaks.dtype_name(self.dtype or "bfloat16")
        try:
            name = self._device_name()
            if name is None:
                return
            peak = gpu_peaks.peak_flops(name, dtype)
            if dtype == "float32" and cuda_marks.uses_tfloat32():
                peak = gpu_peaks.peak_flops(name, "tfloat32") or peak
        except Exception as error:  # noqa: BLE001 - whatever the driver says
            name, peak = repr(error), None
        if peak is None:
            self._note("peak", f"no MFU: what {name} can do in {dtype} is not known; say it with peak_flops=")
        self._peak = peak
