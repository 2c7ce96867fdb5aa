"""What a TensorFlow SavedModel would do, looked at before it is loaded: it may compute, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cryoem.errors import first_line

MODEL_FILE = "saved_model.pb"
CALLS = ("StatefulPartitionedCall", "PartitionedCall")
OF_VARIABLES = (
    "AssignVariableOp",
    "DisableCopyOnRead",
    "NoOp",
    "Placeholder",
    "ReadVariableOp",
    "VarHandleOp",
    "VarIsInitializedOp",
)


def check_computation(folder: Path) -> None:
    """Raise unless all that can run of a SavedModel is arithmetic on its arguments and variables.

    A SavedModel may hold any operation of TensorFlow, those that read and write files included.  Here, operations
    with side effects are those of variables alone, and nothing handles text, without which no file can be named.
    TensorFlow adds functions that save and restore variables, which do; they are let pass where nothing that is
    loaded can call them.

    Raises
    ------
    ValueError : the file is damaged, or holds something else; the operation or function is named.
    """
    from tensorflow.python.saved_model.loader_impl import parse_saved_model  # finds what the loader would

    try:
        model = parse_saved_model(str(folder))
    except Exception as error:  # TensorFlow and protobuf each raise their own kinds
        raise ValueError(f"its {folder.name}/{MODEL_FILE} is no SavedModel: {first_line(error)}") from None
    if len(model.meta_graphs) != 1:
        raise ValueError(f"its {folder.name}/{MODEL_FILE} must hold one graph, got {len(model.meta_graphs)}")
    graph = model.meta_graphs[0]
    if graph.asset_file_def:
        raise ValueError(
            f"its {folder.name}/{MODEL_FILE} must name no other files, got {len(graph.asset_file_def)} assets"
        )
    functions = {function.signature.name: function for function in graph.graph_def.library.function}
    called = set(graph.object_graph_def.concrete_functions)
    called |= {
        name for function in functions.values() for node in function.node_def for name in _callees(node)
    }
    for name in sorted(called & functions.keys()):
        _check_function(functions[name], f"its {folder.name}/{MODEL_FILE}")


def _check_function(function, where: str) -> None:
    from tensorflow.core.framework.types_pb2 import DT_STRING
    from tensorflow.python.framework import op_def_registry

    arguments = [*function.signature.input_arg, *function.signature.output_arg]
    if any(argument.type == DT_STRING for argument in arguments):
        raise ValueError(f"{where} must compute with numbers, got text in {function.signature.name}")
    for node in function.node_def:
        known = op_def_registry.get(node.op)
        if known is None or (known.is_stateful and node.op not in OF_VARIABLES + CALLS):
            raise ValueError(f"{where} must only compute, got the operation {node.op}")
        if any(DT_STRING in (value.type, *value.list.type) for value in node.attr.values()):
            raise ValueError(f"{where} must compute with numbers, got text in the operation {node.op}")


def _callees(node) -> Iterator[str]:
    """Names of the functions that a node calls, or hands to its operation."""
    for value in node.attr.values():
        if value.func.name:
            yield value.func.name
        yield from (function.name for function in value.list.func)
