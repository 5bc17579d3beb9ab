"""Numba compilers that translate a function (`translation`) where Numba would compile it.

What they make is a function in Numba's convention. So it, and functions that Numba compiles, call each other.
"""

from types import SimpleNamespace
from typing import ClassVar

from numba import types
from numba.core.bytecode import FunctionIdentity
from numba.core.compiler import Compiler, PassManager, compile_result
from numba.core.compiler_machinery import LoweringPass, register_pass
from numba.core.environment import Environment
from numba.core.funcdesc import PythonFunctionDescriptor
from numba.core.typing import signature

from pytensor_convnet.kernels.cpu.instructions import Value
from pytensor_convnet.kernels.cpu.linking import BriefCompiler, KernelCompiler, Part
from pytensor_convnet.kernels.cpu.structures import Builder, drop_unused
from pytensor_convnet.kernels.cpu.translation import Translator


@register_pass(mutates_CFG=True, analysis_only=False)
class _Translation(LoweringPass):
    """All of a compilation: Numba's function, but that its instructions come from `Translator`."""

    _name = "pytensor_convnet_translation"

    def __init__(self):
        LoweringPass.__init__(self)

    def run_pass(self, state):
        names = state.func_id.arg_names
        if state.library is None:
            state.library = state.targetctx.codegen().create_library(state.func_id.func_qualname)
            state.library.enable_object_caching()
        library = state.library
        description = PythonFunctionDescriptor.from_specialized_function(
            SimpleNamespace(func_id=state.func_id, arg_names=names),
            {f"arg.{name}": type_ for name, type_ in zip(names, state.args)}, types.none, {},
            mangler=state.targetctx.mangler, inline=False, noalias=False, abi_tags=[state.flags.get_mangle_string()],
        )  # fmt: skip
        environment = Environment.from_fndesc(description)
        context = state.targetctx.subtarget(environment=environment, fndesc=description)
        with context.push_code_library(library):
            module = library.create_ir_module(description.unique_name)
            if not isinstance(library, Part):
                context.declare_env_global(module, context.get_env_name(description))
            function = context.declare_function(module, description)
            builder = Builder(function.append_basic_block("entry"))
            values = context.call_conv.decode_arguments(builder, state.args, function)
            translator = Translator(state.typingctx, context, builder, library, state.func_id.func, state.return_type)
            translator.translate(map(Value, state.args, values))
            drop_unused(function)
            description.restype = translator.returned or types.none
            if state.flags.nrt:
                context.post_lowering(module, library)
            library.add_ir_module(module)
            if not state.flags.no_cpython_wrapper:
                context.create_cpython_wrapper(library, description, environment, None)
            if not state.flags.no_cfunc_wrapper:
                context.create_cfunc_wrapper(library, description, environment, None)
            entry = context.get_executable(library, description, environment)
            context.insert_user_function(entry, description, [library])
        state.cr = compile_result(
            typing_context=state.typingctx, target_context=context, entry_point=entry, library=library,
            typing_error=None, type_annotation=None, call_helper=None, objectmode=False, lifted=(),
            signature=signature(description.restype, *state.args), fndesc=description, environment=environment,
            metadata=state.metadata, reload_init=[],
        )  # fmt: skip
        return True


class PartTranslator(Compiler):
    """The compiler of a part that is translated."""

    of_kernels: ClassVar[dict] = {}
    """Those that translate a kernel, by those that would let Numba compile it."""

    def define_pipelines(self):
        passes = PassManager("translation")
        passes.add_pass(_Translation, "translation")
        passes.finalize()
        return [passes]

    def compile_extra(self, function):
        """As Numba's, which would look at bytecode first."""
        self.state.func_id = FunctionIdentity.from_function(function)
        self.state.lifted, self.state.lifted_from = (), None
        return self._compile_bytecode()


class KernelTranslator(KernelCompiler, PartTranslator):
    """The compiler of a kernel that is translated."""


class BriefTranslator(BriefCompiler, PartTranslator):
    """The same, for one that calls those with loops."""


PartTranslator.of_kernels.update({KernelCompiler: KernelTranslator, BriefCompiler: BriefTranslator})
