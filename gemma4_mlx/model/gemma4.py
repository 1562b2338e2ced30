"""The whole model: towers make soft tokens, soft tokens join the text, the decoder reads both.

Module names are those of MLX checkpoints (``language_model.model...``, ``vision_tower``,
``embed_vision``, ...), so loading needs little renaming, and the call follows mlx-lm's protocol,
so mlx-lm's own generation, evaluation and LoRA tuner run on it.
"""

from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..config import Gemma4Config, UnifiedVisionConfig
from ..errors import CheckpointError, GenerationError, InterventionError, MediaError
from . import ops
from .adapter import Adapter, Fingerprint, adapted
from .cache import FullKVCache, SlidingKVCache
from .decoder import LanguageModel, image_blocks
from .sizes import checked_kv_bits
from .taps import NAMES, Observer, Tap, Taps


class MultimodalEmbedder(nn.Module):
    """A tower's output (n, D) -> soft tokens (n, H): weightless norm, then a projection."""

    def __init__(self, tower_size: int, hidden_size: int, eps: float):
        super().__init__()
        self.eps = eps
        self.embedding_projection = nn.Linear(tower_size, hidden_size, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.embedding_projection(ops.rms_norm(x, self.eps))


class Model(nn.Module):
    """A Gemma 4 model.

    Attributes:
        config: the checkpoint's :class:`~gemma4_mlx.config.Gemma4Config`.
        tokenizer, generation_config, chat_template, processor_config, source, folder,
            fingerprint: what the checkpoint brings beside its weights; set by
            :func:`gemma4_mlx.load`.

    Raises:
        ConfigError: an audio tower with other attention than the released models'.
    """

    def __init__(self, config: Gemma4Config):
        super().__init__()
        self.config = config
        self.model_type = config.model_type
        self.language_model = LanguageModel(config.text)
        H = config.text.hidden_size
        self._make_towers(config, H)
        self._taps = Taps()
        self.tokenizer = None
        self.generation_config: dict = {}
        self.chat_template: str | None = None
        self.processor_config: dict = {}
        self.source = ""
        self.folder = None
        self.on_disk = None
        self._checkpoint, self._digest = "", Fingerprint()

    def _make_towers(self, config: Gemma4Config, H: int) -> None:
        vision, audio = config.vision, config.audio
        if isinstance(vision, UnifiedVisionConfig):
            from .unified import VisionEmbedder

            self.vision_embedder = VisionEmbedder(vision)
            self.embed_vision = MultimodalEmbedder(vision.mm_embed_dim, H, vision.rms_norm_eps)
            if audio is not None:
                self.embed_audio = MultimodalEmbedder(audio.audio_embed_dim, H, audio.rms_norm_eps)
            return
        if vision is not None:
            from .vision import VisionTower

            self.vision_tower = VisionTower(vision)
            self.embed_vision = MultimodalEmbedder(vision.hidden_size, H, vision.rms_norm_eps)
        if audio is not None:
            from .audio import AudioTower

            self.audio_tower = AudioTower(audio)
            self.embed_audio = MultimodalEmbedder(audio.output_proj_dims, H, audio.rms_norm_eps)

    @property
    def adapter(self) -> Adapter | None:
        """The low-rank updates beside the layers; None without any, and while they are off."""
        layers = adapted(self)
        return Adapter(self, layers) if layers else None

    @property
    def fingerprint(self) -> str:
        """What tells models apart whose caches and traces must not be mixed: of the checkpoint,
        and of the adapter in force."""
        return self._digest.of(self._checkpoint, adapted(self))

    @fingerprint.setter
    def fingerprint(self, checkpoint: str) -> None:
        self._checkpoint = checkpoint

    @property
    def layers(self) -> list[nn.Module]:
        return self.language_model.model.layers

    @property
    def dtype(self) -> mx.Dtype:
        """The type activations are computed in."""
        return self.language_model.model.norm.weight.dtype

    def __call__(
        self,
        tokens: mx.array,
        cache: list | None = None,
        *,
        features: mx.array | None = None,
        input_embeddings: mx.array | None = None,
    ) -> mx.array:
        """Next-token logits (B, n, V) in float32 for tokens (B, n).

        Args:
            tokens: token ids, positions continuing the cache's; also as a list or NumPy array.
            cache: from :meth:`make_cache`, updated in place; None computes without one.
            features: (m, H) soft tokens for the m image, video and audio placeholders among
                ``tokens``, in order of position (row by row).
            input_embeddings: (B, n, H) to use in place of the scaled token embeddings.

        An image's placeholders see each other in both directions, where the configuration asks
        for it, if one of the last two is given. Without them, tokens are text, and the call can
        be compiled.

        Raises:
            MediaError: ``features`` has another number of rows than there are placeholders.
            GenerationError: an id is outside the vocabulary. On a GPU a single token behind a
                filled cache is not looked at if it is an MLX array: while decoding that would wait
                for the token before. Or an id has no per-layer embedding.
        """
        known = not isinstance(tokens, mx.array)
        tokens = mx.array(tokens) if known else tokens
        start = cache[0].offset if cache else 0
        first = isinstance(start, int) and start == 0
        if known or first or tokens.shape[1] > 1 or ops.on_cpu():
            self._check_ids(tokens)
        return self.head(self.hidden(tokens, cache, features, input_embeddings))

    def _check_ids(self, tokens: mx.array) -> None:
        """MLX's gather does not check indices: a wrong one gives any numbers on a GPU, and ends the
        process on the CPU."""
        try:
            low, high = mx.min(tokens).item(), mx.max(tokens).item()
        except ValueError:  # inside mx.compile or mx.vmap, ids have no values yet
            return
        size = self.config.text.vocab_size
        if not 0 <= low <= high < size:
            wrong = low if low < 0 else high
            raise GenerationError(f"token {wrong} does not exist: ids go from 0 to {size - 1}")

    def _check_per_layer_ids(self, tokens: mx.array) -> None:
        """The same for checkpoints that gained tokens and no per-layer embeddings for them."""
        text = self.config.text
        try:
            high = mx.max(tokens).item()
        except ValueError:
            return
        if high >= text.vocab_size_per_layer_input:
            raise GenerationError(
                f"token {high} has no per-layer embedding: this checkpoint holds "
                f"{text.vocab_size_per_layer_input} of them for {text.vocab_size} tokens"
            )

    def hidden(
        self,
        tokens: mx.array,
        cache: list | None = None,
        features: mx.array | None = None,
        input_embeddings: mx.array | None = None,
    ) -> mx.array:
        """Hidden states after the final norm (B, n, H); arguments as in the call.

        Raises MediaError for another number of ``features`` than placeholders.
        """
        return self._decode(tokens, cache, features, input_embeddings)

    def read(self, tokens: mx.array, cache: list, features: mx.array | None = None) -> None:
        """Put the keys and values of tokens (B, n) into the cache and compute nothing else.

        The layers above the last one that owns keys and values (20 of E2B's 35) are left out, and
        so is what that one does after its keys and values. Arguments as in the call. Evaluate the
        cache entries' ``state`` afterwards. While something observes, every layer is shown.

        Raises MediaError for another number of ``features`` than placeholders.
        """
        self._decode(tokens, cache, features, None, cache_only=not self._taps.active)

    def _decode(
        self,
        tokens: mx.array,
        cache: list | None,
        features: mx.array | None,
        input_embeddings: mx.array | None,
        cache_only: bool = False,
    ) -> mx.array | None:
        decoder, config = self.language_model.model, self.config
        tokens = self._taps.at()("tokens", tokens)
        x = decoder.embed(tokens) if input_embeddings is None else input_embeddings
        if features is not None:
            x = self._place(features, tokens, x)
        blocks, media = None, features is not None or input_embeddings is not None
        if media and config.text.use_bidirectional_attention == "vision" and tokens.shape[1] > 1:
            blocks = image_blocks(tokens, (config.image_token_id, config.video_token_id))
        tokens = self.per_layer_tokens(tokens)
        if config.text.lacks_per_layer_embeddings:
            self._check_per_layer_ids(tokens)
        return decoder(tokens, x, cache, blocks, self._taps, cache_only)

    def per_layer_tokens(self, tokens: mx.array) -> mx.array:
        """The tokens (B, n) whose per-layer embeddings are looked up: padding for soft tokens."""
        config = self.config
        if config.text.hidden_size_per_layer_input and (config.vision or config.audio):
            soft = mx.zeros(tokens.shape, dtype=mx.bool_)
            for placeholder in config.soft_token_ids:
                soft = soft | (tokens == placeholder)
            tokens = mx.where(soft, config.text.pad_token_id, tokens)
        return tokens

    def head(self, hidden: mx.array) -> mx.array:
        """Normed hidden states (..., H) -> capped logits (..., V), float32."""
        return self._taps.at()("logits", self.language_model.head(hidden))

    def _soft_places(self, features: mx.array, tokens: mx.array) -> np.ndarray:
        soft = np.flatnonzero(np.isin(np.array(tokens), self.config.soft_token_ids))
        if len(soft) != features.shape[0]:
            raise MediaError(
                f"{features.shape[0]} soft tokens were given for {len(soft)} image, video and "
                "audio placeholders in the prompt"
            )
        return soft

    def _place(self, features: mx.array, tokens: mx.array, x: mx.array) -> mx.array:
        soft = self._soft_places(features, tokens)
        flat = x.reshape(-1, x.shape[-1])
        flat[mx.array(soft)] = features.astype(x.dtype)
        return flat.reshape(x.shape)

    def encode_image(self, patches: mx.array, positions: mx.array) -> mx.array:
        """One picture's patches (P, patch values in [0, 1]) at (x, y) positions (P, 2) -> soft
        tokens (n, H). Raises MediaError for a model without vision."""
        if self.config.vision is None:
            raise MediaError(f"this model has no vision tower, it cannot see ({self.source})")
        if self.config.unified:
            return self.embed_vision(self.vision_embedder(patches, positions))
        return self.embed_vision(self.vision_tower(patches, positions))

    def encode_audio(self, features: mx.array) -> mx.array:
        """One clip's log-mel frames (T, 128) (the unified 12B: samples (n, 640)) -> soft tokens
        (n, H). Raises MediaError for a model without hearing."""
        if self.config.audio is None:
            raise MediaError(f"this model has no audio tower, it cannot hear ({self.source})")
        if self.config.unified:
            return self.embed_audio(features)
        return self.embed_audio(self.audio_tower(features))

    @property
    def divided(self) -> bool:
        """Whether other machines have parts of it."""
        return False

    def need_weights(self, what: str) -> None:
        """Raises CheckpointError, for ``what`` uses weights that were left on disk."""
        if self.on_disk is not None:
            raise CheckpointError(
                f"{what} needs all weights in memory: load the model without experts='disk' or "
                "layers='disk'"
            )

    def make_cache(
        self,
        *,
        kv_bits: int | None = None,
        kv_group_size: int = 64,
        left_padding: list[int] | None = None,
    ) -> list:
        """An empty cache: one entry for each layer that owns keys and values.

        Args:
            kv_bits: 8 or 4 stores full-attention layers quantized (mlx-lm's cache); sliding
                layers are bounded by their window and stay as they are.
            left_padding: number of padding tokens in front of each row of a batch.

        Raises GenerationError for other ``kv_bits``.
        """
        text, kv_bits = self.config.text, checked_kv_bits(kv_bits)

        def entry(layer: int):
            if not text.is_full(layer):
                return SlidingKVCache(text.sliding_window, left_padding)
            if kv_bits is None:
                return FullKVCache(left_padding)
            from mlx_lm.models.cache import QuantizedKVCache

            return QuantizedKVCache(group_size=kv_group_size, bits=kv_bits)

        return [entry(layer) for layer in range(text.first_kv_shared_layer)]

    def taps(self) -> dict[str, str]:
        """Name and shape of every quantity that can be observed or replaced."""
        return dict(NAMES)

    def observe(self, *observers: Observer):
        """``with model.observe(f):`` calls ``f(name, layer, value, geometry)`` at every tap."""
        return self._taps.observing(*observers)

    def changes(self, layer: int | None = None) -> Tap:
        """The tap function of a layer (None: of the model as a whole) for a computation that is no
        run of the model: what interventions change is changed, and nothing is shown to those who
        only watch."""
        return self._taps.at(layer, watched=False)

    @property
    def interventions(self) -> tuple:
        """Keys of the interventions in force, innermost last."""
        return self._taps.interventions

    @contextmanager
    def intervene(self, *interventions):
        """Change what the model computes for the duration of a ``with`` block.

        Each intervention has ``observer(model)``, which checks it against this model and returns
        an observer, and a hashable ``key``. At one tap they apply in the order given. An
        observer's ``looks``, if it has any, is called with what all of them made of the value.
        A generation keeps to what is in force when it begins.

        Raises InterventionError for what is no intervention, or names what this model lacks.
        """
        for given in interventions:
            if not hasattr(given, "observer"):
                raise InterventionError(
                    f"a {type(given).__name__} is no intervention; give each as an argument, as in "
                    "model.intervene(Ablate(...), Steer(...))"
                )
        observers = [intervention.observer(self) for intervention in interventions]
        looking = [observer.looks for observer in observers if hasattr(observer, "looks")]
        with self._taps.changing(observers, looking, [i.key for i in interventions]):
            yield self
