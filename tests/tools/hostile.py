"""Snippets that try to get out, to stay, or to be too much, and what must come of each.

`expected` is a code of failure, or words of the traceback, or "" for a snippet that does nothing to fear.
{read} is a file that must not be read, {write} one that must not appear.
"""

from dataclasses import dataclass

LATE = "python_out_of_time"
LARGE = "python_out_of_memory"


@dataclass(frozen=True)
class Hostile:
    name: str
    code: str
    expected: str


_NO_MODULE = "ModuleNotFoundError"
_NO_NAME = "NameError"
_NO_ATTRIBUTE = "AttributeError"
_NO_FILE = "PermissionError"
_DEEP = "Source is too deeply nested"
_MISSING = "does not yet support"

HOSTILE = [
    Hostile(*row)
    for row in (
        # Modules that reach the machine.
        ("import-subprocess", "import subprocess\nsubprocess.run(['touch', '{write}'])", _NO_MODULE),
        ("import-ctypes", "import ctypes\nctypes.CDLL(None).system(b'touch {write}')", _NO_MODULE),
        ("import-socket", "import socket\nsocket.create_connection(('127.0.0.1', 80))", _NO_MODULE),
        ("import-urllib", "from urllib.request import urlopen\nurlopen('file://{read}')", _NO_MODULE),
        ("import-importlib", "import importlib\nimportlib.import_module('os')", _NO_MODULE),
        ("import-builtins", "import builtins\nbuiltins.open('{read}')", _NO_MODULE),
        ("import-pickle", "import pickle\npickle.loads(b'cos\\nsystem\\n.')", _NO_MODULE),
        ("import-gc", "import gc\ngc.get_objects()", _NO_MODULE),
        ("import-inspect", "import inspect\ninspect.currentframe().f_back", _NO_MODULE),
        ("import-threading", "import threading\nthreading.Thread(target=print).start()", _NO_MODULE),
        ("import-multiprocessing", "import multiprocessing", _NO_MODULE),
        ("import-signal", "import signal\nsignal.raise_signal(9)", _NO_MODULE),
        ("import-tempfile", "import tempfile\ntempfile.mkstemp()", _NO_MODULE),
        ("import-host-library", "import pydantic_monty", _NO_MODULE),
        ("import-the-product", "from cartrita import settings\nsettings.SECRET_KEY", _NO_MODULE),
        ("import-main", "import __main__\n__main__.run", _NO_MODULE),
        ("import-star", "from os import *\nsystem('touch {write}')", "not supported"),
        ("os-system", "import os\nos.system('touch {write}')", _NO_ATTRIBUTE),
        ("os-popen", "import os\nos.popen('cat {read}').read()", _NO_ATTRIBUTE),
        ("os-fork", "import os\nwhile True: os.fork()", _NO_ATTRIBUTE),
        ("os-kill", "import os\nos.kill(os.getppid(), 9)", _NO_ATTRIBUTE),
        ("os-exec", "import os\nos.execv('/bin/sh', ['sh'])", _NO_ATTRIBUTE),
        ("sys-modules", "import sys\nsys.modules['os'].system('touch {write}')", _NO_ATTRIBUTE),
        ("sys-getframe", "import sys\nsys._getframe().f_globals", _NO_ATTRIBUTE),
        ("sys-exit", "import sys\nsys.exit(1)", _NO_ATTRIBUTE),
        ("sys-settrace", "import sys\nsys.settrace(print)", _NO_ATTRIBUTE),
        # Files and descriptors.
        ("open-read", "open('{read}').read()", _NO_FILE),
        ("open-write", "with open('{write}', 'w') as f:\n    f.write('x')", _NO_FILE),
        ("open-append", "open('{write}', 'a')", _NO_FILE),
        ("open-relative", "open('../../../../../../..{read}').read()", _NO_FILE),
        ("open-bytes", "open(b'{read}', 'rb').read()", _NO_FILE),
        ("open-descriptor", "open(0).read()", "TypeError"),
        ("open-descriptor-1", "open(1, 'w').write('{\"ended\": \"\"}')", "TypeError"),
        ("open-proc", "open('/proc/self/environ').read()", _NO_FILE),
        ("open-dev", "open('/dev/fd/0').read()", _NO_FILE),
        ("open-opener", "open('x', opener=lambda path, flags: 0).read()", "TypeError"),
        ("path-read", "from pathlib import Path\nPath('{read}').read_text()", _NO_FILE),
        ("path-write", "from pathlib import Path\nPath('{write}').write_text('x')", _NO_FILE),
        ("path-glob", "from pathlib import Path\nlist(Path('/').iterdir())", _NO_FILE),
        ("os-listdir", "import os\nos.listdir('/')", _NO_FILE),
        ("os-mkdir", "import os\nos.mkdir('{write}')", _NO_FILE),
        ("os-remove", "import os\nos.remove('{read}')", _NO_FILE),
        ("os-rename", "import os\nos.rename('{read}', '{write}')", _NO_FILE),
        ("os-symlink", "import os\nos.symlink('{read}', '{write}')", _NO_ATTRIBUTE),
        ("os-open", "import os\nos.open('{read}', 0)", _NO_ATTRIBUTE),
        ("os-read", "import os\nos.read(0, 100)", _NO_ATTRIBUTE),
        ("os-dup", "import os\nos.dup2(0, 1)", _NO_ATTRIBUTE),
        # The environment.
        ("environ", "import os\ndict(os.environ)", "not supported"),
        ("getenv", "import os\nos.getenv('CARTRITA_CANARY')", "not supported"),
        ("urandom", "import os\nos.urandom(10)", "not supported"),
        ("input", "input()", _NO_NAME),
        ("stdin", "import sys\nsys.stdin.read()", _NO_ATTRIBUTE),
        # Names and attributes behind the scenes.
        ("dunder-import", "__import__('os').system('touch {write}')", _NO_NAME),
        ("dunder-builtins", "__builtins__['open']('{read}')", _NO_NAME),
        ("compile", "exec(compile('import os', 'x', 'exec'))", _NO_NAME),
        ("eval", "eval(\"__import__('os').system('touch {write}')\")", _NO_NAME),
        ("exec", "exec(\"import os\\nos.system('touch {write}')\")", _NO_ATTRIBUTE),
        ("eval-globals", "eval('open', {'__builtins__': {}})('{read}')", _NO_FILE),
        ("globals", "globals()['__builtins__']", _NO_NAME),
        ("subclasses", "().__class__.__mro__[1].__subclasses__()", _NO_ATTRIBUTE),
        ("type-subclasses", "type(()).__mro__[-1].__subclasses__()", _NO_ATTRIBUTE),
        ("mro", "type(1).mro()[-1]", _NO_ATTRIBUTE),
        ("getattr", "getattr((), '__cl' + 'ass__')", _NO_ATTRIBUTE),
        ("function-globals", "def f(): pass\nf.__globals__['__builtins__']", _NO_ATTRIBUTE),
        ("function-code", "def f(): pass\nf.__code__ = print.__code__", _NO_ATTRIBUTE),
        ("builtin-self", "print.__self__", _NO_ATTRIBUTE),
        ("method-func", "''.join.__func__", _NO_ATTRIBUTE),
        ("generator-frame", "(x for x in [1]).gi_frame.f_back.f_globals", _NO_ATTRIBUTE),
        ("generator-yield", "def g():\n    yield g.gi_frame.f_back\nlist(g())", _MISSING),
        (
            "coroutine-frame",
            "async def f(): pass\nc = f()\nc.cr_frame.f_globals",
            _NO_ATTRIBUTE,
        ),
        (
            "traceback-frame",
            "try:\n    1 / 0\nexcept Exception as e:\n    e.__traceback__.tb_frame.f_globals",
            _NO_ATTRIBUTE,
        ),
        ("exception-context", "try:\n    1 / 0\nexcept Exception as e:\n    e.__context__", _NO_ATTRIBUTE),
        ("format-attribute", "'{0.__class__.__mro__}'.format(())", _NO_ATTRIBUTE),
        ("format-globals", "def f(): pass\n'{0.__globals__}'.format(f)", _NO_ATTRIBUTE),
        ("format-map", "'{x.__init__.__globals__}'.format_map({'x': print})", _NO_ATTRIBUTE),
        ("f-string", "f'{().__class__.__base__}'", _NO_ATTRIBUTE),
        ("reduce", "(1).__reduce_ex__(2)", _NO_ATTRIBUTE),
        ("metaclass", "class M(type):\n    pass", _MISSING),
        ("class-body", "class A:\n    while True: pass", "class bodies"),
        ("decorator", "@eval\n@lambda f: \"open('{read}')\"\ndef f(): pass", _NO_FILE),
        ("property", "class A:\n    @property\n    def p(self): return self.__class__\nA().p", _MISSING),
        ("del", "del print", _MISSING),
        (
            "hostile-str",
            "class E:\n    def __str__(self):\n        raise ValueError('no')\nprint(E())",
            "ValueError: no",
        ),
        (
            "hostile-repr",
            "class E:\n    def __repr__(self):\n        while True: pass\nE()",
            "",
        ),
        (
            "hostile-error",
            "class E(Exception):\n    def __str__(self): return 'x' * 10**9\nraise E",
            _MISSING,
        ),
        ("system-exit", "raise SystemExit(3)", "RuntimeError"),
        ("keyboard-interrupt", "raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("forged-limit", "raise TimeoutError('feed limit exceeded')", LATE),
        # Time.
        ("endless", "while True: pass", LATE),
        (
            "endless-caught",
            "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
            LATE,
        ),
        ("endless-sum", "sum(range(10**12))", LATE),
        ("endless-async", "import asyncio\nasync def f():\n    while True: pass\nasyncio.run(f())", LATE),
        ("endless-digits", "x = 10**5000\nfor _ in range(40): x = x * x", LATE),
        ("endless-hash", "import hashlib\nhashlib.pbkdf2_hmac('sha256', b'a', b'b', 10**9)", LATE),
        ("sleep", "import time\ntime.sleep(100)", LATE),
        ("sleep-caught", "import time\ntry:\n    time.sleep(100)\nexcept BaseException: pass", LATE),
        ("sleep-often", "import time\nwhile True: time.sleep(0.01)", LATE),
        ("sleep-for-nothing", "import time\nwhile True: time.sleep(0)", "suspension limit"),
        ("sleep-async", "import asyncio\nasync def f(): await asyncio.sleep(100)\nasyncio.run(f())", LATE),
        (
            "run-then-sleep",
            "import time\nend = time.time() + 0.9\nwhile time.time() < end: pass\ntime.sleep(0.95)",
            LATE,
        ),
        ("regex-bomb", "import re\nre.match('(a+)+$', 'a' * 5000 + 'b')", ""),
        ("regex-backtracking", "import re\nre.match('(x+x+)+y(?=z)', 'x' * 5000)", "backtracking"),
        ("regex-size", "import re\nre.compile('((a{1000}){1000}){1000}')", "PatternError"),
        ("print-flood", "while True: print('x' * 1000)", LATE),
        ("print-tiny", "while True: print('', end='')", LATE),
        # Memory.
        ("recursion", "def f(n): return f(n + 1)\nf(0)", "RecursionError"),
        (
            "recursion-caught",
            "def f():\n    try:\n        f()\n    except RecursionError:\n        f()\nf()",
            LATE,
        ),
        ("power", "10**10**8", LARGE),
        ("shift", "1 << 10**10", LARGE),
        ("string", "'a' * 10**10", LARGE),
        ("string-caught", "try:\n    'a' * 10**10\nexcept BaseException: pass", LARGE),
        ("string-doubled", "s = 'a'\nwhile True: s += s", LARGE),
        ("string-returned", "'a' * (100 << 20)", LARGE),
        ("string-format", "'{:>10000000000}'.format(1)", LARGE),
        ("string-replace", "('a' * 10**5).replace('a', 'b' * 10**5)", LARGE),
        ("bytes", "b'a' * 10**10", LARGE),
        ("list", "[0] * 10**9", LARGE),
        ("list-grown", "x = []\nwhile True: x.append('x' * 1000)", LARGE),
        ("list-returned", "[[i] for i in range(10**6)]", LARGE),
        ("dict", "{i: str(i) for i in range(10**8)}", LARGE),
        ("set", "set(range(10**8))", LARGE),
        ("product", "import itertools\nlist(itertools.product(range(100), repeat=8))", LARGE),
        ("comprehension", "[[[0] * 100 for _ in range(1000)] for _ in range(1000)]", LARGE),
        ("counter", "from collections import Counter\nCounter(range(10**8))", LARGE),
        ("arguments", "print(*range(10**8))", LARGE),
        ("json-depth", "import json\njson.loads('[' * 100000)", "recursion limit"),
        ("deep-value", "x = []\nfor _ in range(100000): x = [x]\nx", ""),
        ("deep-equal", "a = []\nb = []\na.append(b)\nb.append(a)\na == b", "RecursionError"),
        # Source.
        ("deep-parentheses", "(" * 20_000 + ")" * 20_000, _DEEP),
        ("deep-literal", "x = " + "[" * 20_000 + "]" * 20_000, _DEEP),
        ("deep-minus", "-" * 40_000 + "1", _DEEP),
        ("deep-plus", "1+" * 20_000 + "1", _DEEP),
        ("deep-attributes", "a" + ".b" * 20_000, _DEEP),
        ("deep-lambda", "lambda:" * 7000 + "1", _DEEP),
        ("deep-eval", "eval('(' * 10**6)", _DEEP),
        ("deep-blocks", "\n".join(" " * i + "if 1:" for i in range(300)) + "\n" + " " * 300 + "pass", _DEEP),
        ("wide-source", "x = [" + "1," * 24_000 + "]\nlen(x)", ""),
        ("many-parameters", "def f(" + ",".join(f"a{i}" for i in range(7000)) + "): pass", ""),
        ("syntax", "def (", "SyntaxError"),
        ("nul", "x = 1\0", "SyntaxError"),
        ("byte-order-mark", "\ufeff1", ""),
        ("bidi", "x = '\u202e' # \u2066\nx", ""),
    )
]
