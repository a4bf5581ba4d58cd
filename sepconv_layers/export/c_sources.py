"""The C++ sources of a model for TensorFlow Lite Micro."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

BYTES_PER_LINE = 16
# Names of operators that TensorFlow Lite Micro spells in its own way.
SPELLED = {"BATCH_MATMUL": "BatchMatMul", "CUMSUM": "CumSum", "PADV2": "PadV2"}

HEADER = """// The model {name} for TensorFlow Lite Micro, written by sepconv_layers.

#ifndef MODEL_H_
#define MODEL_H_

namespace model {{

// A real number is scale * (integer - zero_point). The scale is 0 where there are only integers.
struct Quantization {{
  float scale;
  int zero_point;
}};

constexpr Quantization kInputs[] = {{
{inputs}
}};
constexpr Quantization kOutputs[] = {{
{outputs}
}};{labels}

// The smallest arena that ran, on a machine with pointers of 64 bits; with 32 bits it is ample.
constexpr int kArenaBytes = {arena};

extern const unsigned char kData[];  // model.tflite
constexpr int kDataBytes = {size};

}}  // namespace model

#endif  // MODEL_H_
"""

LABELS = """

// The classes, in the order of the first output.
constexpr const char* kLabels[] = {{
{labels}
}};"""

DATA = """// model.tflite as an array.

#include "model.h"

namespace model {{

alignas(16) const unsigned char kData[] = {{
{data}
}};

}}  // namespace model
"""

MAIN = """// Runs the model once in TensorFlow Lite Micro.

#include <cstdint>
#include <cstring>

#include "model.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_log.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
{include}#include "tensorflow/lite/micro/system_setup.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace {{
alignas(16) uint8_t arena[model::kArenaBytes];
}}  // namespace

int main() {{
  tflite::InitializeTarget();

  tflite::MicroMutableOpResolver<{count}> resolver;
{resolver}

{interpreter}
  if (interpreter.AllocateTensors() != kTfLiteOk) return 1;

  // Zeros. A real number x becomes the integer round(x / scale) + zero_point.
{inputs}

  if (interpreter.Invoke() != kTfLiteOk) return 1;

{outputs}
  return 0;
}}
"""

INTERPRETER = """\
  tflite::MicroInterpreter interpreter(tflite::GetModel(model::kData), resolver, arena,
                                       model::kArenaBytes);"""

INTERPRETER_WITH_VARIABLES = """\
  // The model keeps its states, so call `Invoke` once for each chunk of a stream.
  tflite::MicroAllocator* allocator = tflite::MicroAllocator::Create(arena, model::kArenaBytes);
  tflite::MicroResourceVariables* variables =
      tflite::MicroResourceVariables::Create(allocator, {count});
  tflite::MicroInterpreter interpreter(tflite::GetModel(model::kData), resolver, allocator,
                                       variables);"""

VARIABLES = """#include "tensorflow/lite/micro/micro_resource_variable.h"
"""

ZEROS = """  std::memset(interpreter.input({index})->data.raw, model::kInputs[{index}].zero_point,
              interpreter.input({index})->bytes);"""

LARGEST = """  const TfLiteTensor* output = interpreter.output(0);
  int largest = 0;
  for (int i = 1; i < static_cast<int>(output->bytes); ++i) {{
    if (output->data.int8[i] > output->data.int8[largest]) largest = i;
  }}
  MicroPrintf({arguments});"""


def resolver_lines(operators: Iterable[str]) -> list[str]:
    """Returns the calls of a `MicroMutableOpResolver` that register operators.

    Args:
        operators: Their names in the schema of LiteRT, such as "CONV_2D".
    """
    return [f"resolver.Add{_spelled(name)}();" for name in operators]


def _spelled(name: str) -> str:
    words = SPELLED.get(name) or "".join(word.capitalize() for word in name.split("_"))
    return re.sub(r"(?<=\d)d$", "D", words).replace("Lstm", "LSTM")


def header(
    name: str,
    inputs: Sequence[Mapping[str, Any]],
    outputs: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
    arena_bytes: int,
    size: int,
) -> str:
    """Returns `model.h`.

    Args:
        name: The name of the model.
        inputs: The `name`, `shape`, `dtype`, `scale` and `zero_point` of each input.
        outputs: The same for each output.
        labels: Names of the classes; empty for none.
        arena_bytes: The size of the arena.
        size: The size of the file.
    """
    quoted = "\n".join(f"    {_literal(label)}," for label in labels)
    return HEADER.format(
        name=_comment(name),
        inputs="\n".join(map(_quantization, inputs)),
        outputs="\n".join(map(_quantization, outputs)),
        labels=LABELS.format(labels=quoted) if labels else "",
        arena=arena_bytes,
        size=size,
    )


def data(content: bytes) -> str:
    """Returns `model.cc`, which holds a file as an array."""
    starts = range(0, len(content), BYTES_PER_LINE)
    lines = (content[start : start + BYTES_PER_LINE] for start in starts)
    rows = ("    " + " ".join(f"0x{byte:02x}," for byte in line) for line in lines)
    return DATA.format(data="\n".join(rows))


def main(
    operators: Sequence[str],
    inputs: Sequence[Mapping[str, Any]],
    outputs: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
    variables: int = 0,
) -> str:
    """Returns `main.cc`, which runs the model on zeros and prints the largest output.

    Args:
        operators: The names of its operators, each once.
        inputs: The entries of `header`.
        outputs: The entries of `header`.
        labels: Names of the classes; empty for none.
        variables: The number of its variables.
    """
    shown = '"%s", model::kLabels[largest]' if labels else '"largest output: %d", largest'
    is_int8 = outputs[0]["dtype"] == "int8"
    return MAIN.format(
        count=len(operators),
        include=VARIABLES if variables else "",
        interpreter=(
            INTERPRETER_WITH_VARIABLES.format(count=variables) if variables else INTERPRETER
        ),
        resolver="\n".join(f"  {line}" for line in resolver_lines(operators)),
        inputs="\n".join(ZEROS.format(index=index) for index in range(len(inputs))),
        outputs=LARGEST.format(arguments=shown) if is_int8 else '  MicroPrintf("done");',
    )


def _quantization(entry: Mapping[str, Any]) -> str:
    scale = np.format_float_scientific(np.float32(entry["scale"]), trim="0")
    shape = " x ".join(map(str, entry["shape"]))
    comment = _comment(f"{entry['name']}: {entry['dtype']}, {shape}")
    return f"    {{{scale}f, {entry['zero_point']}}},  // {comment}"


def _comment(text: str) -> str:
    """Returns text that cannot end a comment or continue it in the next line."""
    return re.sub(r"[\x00-\x1f\\]", " ", text)


def _literal(text: str) -> str:
    """Returns text as a C string in UTF-8."""

    def escaped(match: re.Match) -> str:
        return f"\\{ord(match[0]):03o}"

    return '"' + re.sub(r'["\\?\x00-\x1f\x7f]', escaped, text) + '"'
