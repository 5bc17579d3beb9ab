"""Kernels that LLVM optimises once, together with all that they call.

Numba compiles each function for itself: it optimises it, with everything that it calls, and makes machine code of it,
whether or not that is ever run. What lies five levels of calls below a kernel is optimised six times so. Here all
that a kernel calls, Numba's own functions among it, are its *parts*. They are only translated to LLVM's intermediate
form, and the kernel is optimised once, with all its parts.

Numba keeps what it has compiled for whoever calls it next. So a part may be wanted by a function that is no kernel; it
is then completed as Numba would have done at once.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite.binding import (
    Linkage,
    ModuleRef,
    Target,
    create_new_module_pass_manager,
    create_pass_builder,
    create_pipeline_tuning_options,
    get_process_triple,
    parse_assembly,
)
from numba.core import config
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.compiler_lock import global_compiler_lock
from numba.core.environment import lookup_environment

from pytensor_convnet.kernels.cpu.llvm import shared
from pytensor_convnet.kernels.garbage import no_garbage_collection


@functools.cache
def _optimised(name, codegen):
    """The module of a function that is `shared`, which is written as it should be: it is only tidied up."""
    module = parse_assembly(str(shared[name]))
    module.data_layout = codegen._data_layout
    _tidy(module, codegen)
    return module


def _tidy(module, codegen, whole=False):
    """Put in registers what can be there, and leave out what is needless: a fifth of what else LLVM would do.

    Of a ``whole`` kernel, functions that nothing in it calls are left out, too.
    """
    passes = create_new_module_pass_manager()
    passes.add_sroa_pass()
    passes.add_simplify_cfg_pass()
    passes.add_loop_rotate_pass()
    passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    if whole:
        passes.add_global_dead_code_eliminate_pass()
    passes.run(module, create_pass_builder(codegen._tm, create_pipeline_tuning_options()))


class _Unoptimised(JITCodeLibrary):
    """A library whose functions are not optimised one by one before they are together, and `shared` ones apart."""

    def __init__(self, codegen, name):
        super().__init__(codegen, name)
        self.apart = set()

    def create_ir_module(self, name):
        module = super().create_ir_module(name)
        module.apart = self.apart
        return module

    def _optimize_functions(self, module):
        module.data_layout = self._codegen._data_layout

    def _finalize_final_module(self):
        for name in sorted(self.apart):
            self._final_module.link_in(_optimised(name, self._codegen), preserve=True)
        super()._finalize_final_module()

    def finalize(self):
        super().finalize()
        # As Numba does for what it reads from disk: a part's environment is known to its kernels only.
        for variable in self._final_module.global_variables:
            environment = lookup_environment(variable.name)
            if environment is not None:
                self._codegen.set_env(variable.name, environment)


class _NoMachineCode:
    """Stands for Numba's code generator where it is asked to tell machine code about its environment."""

    @staticmethod
    def set_env(name, environment):
        pass


class Part(_Unoptimised):
    """The code of a part."""

    @property
    def codegen(self):
        return self._codegen if self._finalized else _NoMachineCode

    def _ensure_finalized(self):
        """Nothing: whoever wants more than the code as it is asks for that."""

    def _complete(self):
        if not self._finalized:
            with libraries_of(JITCodeLibrary, self._codegen):
                self.finalize()

    def _get_module_for_linking(self):
        self._complete()
        return super()._get_module_for_linking()

    def get_pointer_to_function(self, name):
        try:
            function = self._final_module.get_function(name)
        except NameError:
            return 0
        if function.is_declaration:
            return 0
        self._complete()
        return super().get_pointer_to_function(name)

    @classmethod
    def _unserialize(cls, codegen, state):
        # Read from disk: no part, then.
        with libraries_of(JITCodeLibrary, codegen):
            return codegen.unserialize_library(state)

    def modules(self, seen: set[Any]) -> Iterator[ModuleRef]:
        """The code of this part and of all that it calls, but for what was ``seen``; callers come first."""
        functions = [f for f in self._final_module.functions if not f.is_declaration and f.linkage == Linkage.external]
        for function in functions:
            function.linkage = "linkonce_odr"
        yield self._final_module
        for function in functions:
            function.linkage = "external"
        yield from _modules(self._linking_libraries, seen)


def _modules(libraries, seen):
    for library in libraries:
        if library in seen:
            continue
        seen.add(library)
        if isinstance(library, Part) and not library._finalized:
            yield from library.modules(seen)
        else:
            yield library._get_module_for_linking()


class _Kernel(_Unoptimised):
    """The code of a kernel and its parts."""

    alone = False
    """Whether it is reached by a pointer, and never linked into those who call it."""

    def serialize_using_object_code(self):
        if not self.alone:
            return super().serialize_using_object_code()
        # Numba keeps LLVM's form as well, which takes a tenth of the time to write, and half to read. Names will do.
        functions = (f.name for f in self._final_module.functions if not f.is_declaration)
        names = parse_assembly("\n".join(f'define void @"{name}"() {{ unreachable }}' for name in functions))
        return self.name, "object", (self._get_compiled_object(), names.as_bitcode())

    def finalize(self):
        parts: set[Any] = set()
        for module in _modules(self._linking_libraries, parts):
            self._final_module.link_in(module, preserve=True)
        self.apart.update(*(library.apart for library in parts if isinstance(library, Part)))
        self._linking_libraries.clear()
        super().finalize()

    def _optimize_final_module(self):
        """Optimise the code once, where Numba would do so twice, and leave loops as long as they are: those that matter
        are unrolled as they should be."""
        options = create_pipeline_tuning_options(speed_level=min(int(config.OPT), 1))
        options.loop_vectorization = True
        options.slp_vectorization = options.loop_unrolling = options.loop_interleaving = False
        builder = create_pass_builder(self._codegen._tm, options)
        builder.getModulePassManager().run(self._final_module, builder)


class _ThoroughKernel(_Kernel):
    """The same, optimised as Numba does."""

    _optimize_final_module = JITCodeLibrary._optimize_final_module


@functools.cache
def _quick_machine(codegen):
    """What makes machine code as LLVM does for debuggers: an instruction at a time, in a third of the time."""
    options = {"opt": 0}
    codegen._customize_tm_options(options)
    return Target.from_triple(get_process_triple()).create_target_machine(**options)


class _BriefKernel(_Kernel):
    """The code of a kernel that is passed through once a call: what makes it short is done, and no more."""

    def _optimize_final_module(self):
        _tidy(self._final_module, self._codegen, whole=True)

    def _finalize_specific(self):
        if self.apart:
            super()._finalize_specific()
            return
        # Numba's engine takes the code that lies there, as if it had been read from disk, where it goes next.
        code = self._compiled_object = _quick_machine(self._codegen).emit_object(self._final_module)
        super()._finalize_specific()
        self._compiled_object = code


@contextmanager
def libraries_of(kind: type, codegen: Any) -> Iterator[None]:
    """Let libraries that are created by Numba's ``codegen`` be of this kind."""
    with global_compiler_lock:
        before = codegen._library_class
        codegen._library_class = kind
        try:
            yield
        finally:
            codegen._library_class = before


class KernelCompiler(Compiler):
    """Numba's compiler, for a kernel and its parts."""

    _library = _Kernel

    def compile_extra(self, function):
        codegen = self.state.targetctx.codegen()
        self.state.library = self._library(codegen, function.__qualname__)
        self.state.library.alone = self.state.flags.no_cpython_wrapper
        self.state.library.enable_object_caching()
        with libraries_of(Part, codegen), no_garbage_collection():
            return super().compile_extra(function)


class ThoroughCompiler(KernelCompiler):
    """The same, for one with loops that LLVM is to unroll."""

    _library = _ThoroughKernel


class BriefCompiler(KernelCompiler):
    """The same, for one that calls those with loops and has none that count."""

    _library = _BriefKernel
