"""The formats of other runtimes: ONNX, torch.export, and ONNX with int8 weights. All have a dynamic batch dimension."""

import contextlib
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from steps.images.decoding import batched

ONNX, TORCH, INT8 = "onnx", "torch", "int8"
FILES = {ONNX: "model.onnx", TORCH: "model.pt2", INT8: "model.int8.onnx"}
BATCH = 32
Pixels = npt.NDArray[np.uint8]
INPUT, OUTPUTS = "pixels", ("logits", "probabilities")


def write(kind: str, folder: Path, module: nn.Module, pixels: Pixels) -> Path:
    """Write `module` (uint8 [n, 3, side, side] to logits and probabilities) in one format; return the file.

    `pixels` calibrate the ranges of int8; for the other formats they only give the shape.
    """
    target = folder / FILES[kind]
    example = torch.from_numpy(pixels[:1]).repeat(2, 1, 1, 1)  # a single picture would fix the batch size at one
    if kind == TORCH:
        torch.export.save(torch.export.export(module, (example,), dynamic_shapes=_free()), target)
    elif kind == ONNX:
        _write_onnx(target, module, example)
    else:
        plain = folder / FILES[ONNX]
        _write_onnx(plain, module, example)
        _quantise(plain, target, pixels)
        plain.unlink()
    return target


def runner(kind: str, file: Path, threads: int) -> Callable[[Pixels], npt.NDArray[np.float32]]:
    """Load an exported file; return a function from pixels to probabilities that works in batches."""
    answer = _torch_runner(file) if kind == TORCH else _onnx_runner(file, threads)
    return lambda pixels: np.concatenate([answer(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)])


def _free() -> dict[str, Any]:
    return {INPUT: {0: torch.export.Dim("n")}}


def _write_onnx(target: Path, module: nn.Module, example: torch.Tensor) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress with ticks
        torch.onnx.export(
            module,
            (example,),
            target,
            input_names=[INPUT],
            output_names=OUTPUTS,
            dynamo=True,
            verbose=False,
            dynamic_shapes=_free(),
            external_data=False,
        )
    _forget_paths(target)


def _forget_paths(target: Path) -> None:
    """Remove each node's source path: it names a folder of this machine, new at each load, and so changes the bytes."""
    import onnx

    model = onnx.load(target)
    for node in [*model.graph.node, *(node for function in model.functions for node in function.node)]:
        kept = [entry for entry in node.metadata_props if not entry.key.endswith("stack_trace")]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    onnx.save(model, target)


def _quantise(source: Path, target: Path, pixels: Pixels) -> None:
    """Quantise weights and activations of convolutions and linear layers to int8, with ranges measured on `pixels`."""
    from onnxruntime import quantization  # type: ignore[import-untyped]
    from onnxruntime.quantization.shape_inference import quant_pre_process  # type: ignore[import-untyped]

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[list[Any]] = batched(pixels, BATCH)

        def get_next(self) -> dict[str, Pixels] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: np.stack(batch)}

    ready = source.with_suffix(".ready")
    quant_pre_process(source, ready, skip_symbolic_shape=True)
    quantization.quantize_static(
        ready, target, Reader(), per_channel=True, op_types_to_quantize=["Conv", "MatMul", "Gemm"]
    )
    ready.unlink()


def _torch_runner(file: Path) -> Callable[[Pixels], npt.NDArray[np.float32]]:
    module = torch.export.load(file).module()

    def answer(pixels: Pixels) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(pixels))[1])

    return answer


def _onnx_runner(file: Path, threads: int) -> Callable[[Pixels], npt.NDArray[np.float32]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda pixels: np.asarray(session.run([OUTPUTS[1]], {INPUT: pixels})[0])
