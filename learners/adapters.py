"""What a model may have beside plain weights: small parts that no plain weights could stand in for.

A `prompt` is tokens that stand for no word, before every text (Lester et al. 2021, "The Power of Scale for
Parameter-Efficient Prompt Tuning"). A `prefix` is keys and values that the tokens of every text attend to in every
layer (Li & Liang 2021, "Prefix-Tuning"). `bottlenecks` are narrow networks, each behind a layer and added to what it
says (Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP"; here one a layer, as Pfeiffer et al. 2021
found to be enough). They are learned and served by the same lines, and need nothing but the encoder.
"""

import inspect
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from transformers import DynamicCache

from learners.errors import LearnerError

#: Spread of fresh numbers, as BERT's own layers begin.
SPREAD = 0.02


class AdapterError(LearnerError):
    """The encoder takes no adapter of this kind."""


class Sizes(BaseModel):
    """Tokens of the prompt and of the prefix, and the width of bottlenecks; 0 is none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: int = Field(default=0, ge=0)
    prefix: int = Field(default=0, ge=0)
    bottleneck: int = Field(default=0, ge=0)

    def filled_from(self, others: "Sizes") -> "Sizes":
        """These, and of what these have none, those of `others`."""
        return Sizes(**{name: size or getattr(others, name) for name, size in self})


class Bottleneck(nn.Module):
    """Adds nothing until it has learned something."""

    def __init__(self, hidden: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.down = nn.Linear(hidden, width)
        self.up = nn.Linear(width, hidden)
        with torch.no_grad():
            self.down.weight.normal_(0.0, SPREAD, generator=generator)
            for zero in (self.down.bias, self.up.weight, self.up.bias):
                zero.zero_()

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """`[batch, tokens, hidden]` in and out."""
        added: torch.Tensor = self.up(nn.functional.gelu(self.down(states)))
        return states + added

    def behind(self, _layer: nn.Module, _inputs: Any, output: Any) -> Any:
        """A forward hook: some encoders' layers say their states alone, some in a tuple."""
        return (self(output[0]), *output[1:]) if isinstance(output, tuple) else self(output)


class Adapters(nn.Module):
    """What an encoder has; of itself, nothing. `prompt` `[tokens, width]`, `prefix` `[layers, 2, heads, tokens, …]`."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt: nn.Parameter | None = None
        self.prefix: nn.Parameter | None = None
        self.bottlenecks = nn.ModuleList()

    def add(self, encoder: nn.Module, sizes: Sizes, seed: int) -> None:
        """Give `encoder` what `sizes` ask for and it has not, fresh, on its own device.

        Raises:
            AdapterError: it takes none of that kind.
        """
        generator = torch.Generator().manual_seed(seed)
        config: Any = encoder.config
        body: Any = encoder
        words: torch.Tensor = body.get_input_embeddings().weight
        if sizes.prompt and self.prompt is None:
            _refuse_without(encoder, "inputs_embeds", "prompt")
            # Real words, drawn at random, are a better start than noise (Lester et al., section 3.2).
            drawn = torch.randint(len(words), (sizes.prompt,), generator=generator).to(words.device)
            self.prompt = nn.Parameter(words.detach()[drawn].clone())
        if sizes.prefix and self.prefix is None:
            _refuse_without(encoder, "past_key_values", "prefix")
            heads = config.num_attention_heads
            shape = (config.num_hidden_layers, 2, heads, sizes.prefix, config.hidden_size // heads)
            self.prefix = nn.Parameter((SPREAD * torch.randn(shape, generator=generator)).to(words.device))
        if sizes.bottleneck and not self.bottlenecks:
            for layer in _layers(encoder):
                bottleneck = Bottleneck(config.hidden_size, sizes.bottleneck, generator).to(words.device)
                self.bottlenecks.append(bottleneck)
                layer.register_forward_hook(bottleneck.behind)

    def forward(
        self, encoder: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """The encoder's states of the text's own tokens before its first layer and after each, the last ones last.

        Each is `[batch, tokens, hidden]`; ids and mask as the encoder's.
        """
        inputs: dict[str, Any] = {"input_ids": input_ids}
        virtual = 0
        if self.prompt is not None:
            body: Any = encoder
            prompt = self.prompt.expand(len(input_ids), -1, -1)
            inputs = {"inputs_embeds": torch.cat([prompt, body.get_input_embeddings()(input_ids)], dim=1)}
            virtual = len(self.prompt)
        if self.prefix is not None:
            inputs["past_key_values"] = DynamicCache()
            for layer, (keys, values) in enumerate(self.prefix):
                batch = (len(input_ids), -1, -1, -1)
                inputs["past_key_values"].update(keys.expand(batch), values.expand(batch), layer)
        more = virtual + (0 if self.prefix is None else self.prefix.shape[3])
        mask = nn.functional.pad(attention_mask, (more, 0), value=1) if more else attention_mask
        said = encoder(**inputs, attention_mask=mask, output_hidden_states=True)
        # Some encoders normalise what their last layer says.
        layers = (*said.hidden_states[:-1], said.last_hidden_state)
        return tuple(states[:, virtual:] for states in layers)


def _refuse_without(encoder: nn.Module, argument: str, what: str) -> None:
    if argument not in inspect.signature(encoder.forward).parameters:
        raise AdapterError(f"{type(encoder).__name__} takes no {what}", "set learning.tuning: lora, or adapter")


def _layers(encoder: nn.Module) -> nn.ModuleList:
    config: Any = encoder.config
    for module in encoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == config.num_hidden_layers:
            return module
    raise AdapterError(f"the layers of {type(encoder).__name__} were not found", "set learning.tuning: lora")
