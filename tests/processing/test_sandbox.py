"""Templates that try to run or grow without end are stopped, and ordinary ones are not."""

import json
import subprocess
import sys

import pytest

from gemma4_mlx.errors import ChatError
from gemma4_mlx.processing.template import render

USER = [{"role": "user", "content": "Hello, hello, hello"}]

ATTACKS = {
    "nested ranges": "{% for a in range(9**5) %}{% for b in range(9**5) %}{% endfor %}{% endfor %}",
    "a range too long": "{% for i in range(10**9) %}{% endfor %}",
    "macros that double": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}"
    "{% endmacro %}{{ m(60) }}",
    "a macro for ever": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a block for ever": "{% block b %}{{ self.b() }}{% endblock %}",
    "recursive loop": "{% for x in [[]] recursive %}{{ loop([x, x]) }}{% endfor %}",
    "caller": "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}"
    "{% macro n(k) %}{% call m() %}{% if k %}{{ n(k - 1) }}{% endif %}{% endcall %}{% endmacro %}"
    "{{ n(40) }}",
    "repeated text": "{{ 'a' * 10**10 }}",
    "repeated list": "{{ ([1] * 10**10) | length }}",
    "repeated by name": "{% set n = 10**10 %}{{ n * 'a' }}",
    "a power": "{{ 10 ** (10 ** 8) }}",
    "a product": "{% set ns = namespace(x=9) %}"
    "{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "doubling by ~": "{% set ns = namespace(x='aa') %}"
    "{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubling by +": "{% set ns = namespace(x='aa') %}"
    "{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "doubling lists": "{% set ns = namespace(x=[1]) %}"
    "{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "doubling by set": "{% set x = 'aa' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60,
    "doubling by format": "{% set x = 'aa' %}" + "{% set x = '%s%s' % (x, x) %}" * 60,
    "doubling by join": "{% set x = 'aa' %}" + "{% set x = [x, x] | join %}" * 60,
    "doubling by str.join": "{% set x = 'aa' %}" + "{% set x = x.join([x, x]) %}" * 60,
    "doubling by replace": "{% set x = 'aa' %}" + "{% set x = x | replace('a', x) %}" * 9,
    "doubling by str.replace": "{% set x = 'aa' %}" + "{% set x = x.replace('a', x) %}" * 9,
    "doubling by indent": "{% set x = 'a\\n' * 999 %}" + "{% set x = x | indent(9999) %}" * 9,
    "doubling by tojson": "{% set x = '\\\\' %}" + "{% set x = x | tojson %}" * 60,
    "doubling by nesting": "{% set x = 'aaaaaaaa' * 99 %}" + "{% set x = [x, x] %}" * 40
    + "{{ x | string }}",
    "constants": "{{ 'a' | replace('', 'b' * 99999) | replace('b', 'c' * 99999) }}",
    "padding": "{{ 'x' | center(10**10) }}",
    "padding by %": "{{ '%9999999999d' % 1 }}",
    "padding by * in %": "{{ '%*d' % (10**9, 1) }}",
    "padding by str.format": "{{ '{:>9999999999}'.format('x') }}",
    "padding by str.ljust": "{{ 'x'.ljust(10**10) }}",
    "padding the time": "{{ strftime_now('%9999999Y' * 9) }}",
    "indented JSON": "{{ messages | tojson(indent=10**9) }}",
    "a batch": "{{ [1] | batch(10**9, 'x') | list }}",
    "lipsum": "{{ lipsum(n=10**7) }}",
    "much text": "{% for i in range(99999) %}" + "a" * 9999 + "{% endfor %}",
    "much text in a macro": "{% macro m() %}" + "a" * 9999 + "{% endmacro %}"
    "{% set ns = namespace(x=[]) %}"
    "{% for i in range(9999) %}{% set ns.x = ns.x + [m()] %}{% endfor %}",
    "nested brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "a rounding": "{{ 1.5 | round(10**9, 'ceil') }}",
    "another file": "{% include '/etc/passwd' %}",
    "a sum of lists": "{{ ([[1] * 999] * 999) | sum(start=[]) | length }}",
    "a list of lists": "{% set ns = namespace(x=[1]) %}"
    "{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}",
}  # fmt: skip

# Runs each template in a process of its own that may grow by 500 MB and take 20 s, and prints what
# became of it.
CHILD = """
import json, os, resource, sys
import gemma4_mlx
from gemma4_mlx.errors import ChatError
from gemma4_mlx.processing.template import render

def attempt(template):
    resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
    usage = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    before = usage()
    try:
        text = render(user, template=template).text
    except ChatError as error:
        grown = usage() - before
        return str(error) if grown < 500 else f"it took {grown:.0f} MB"
    return f"it was rendered: {len(text)} characters"

user = [{"role": "user", "content": "Hello, hello, hello"}]
render(user)
results = {}
for name, template in json.load(sys.stdin).items():
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, attempt(template).encode())
        os._exit(0)
    os.close(write)
    with open(read) as answer:
        results[name] = answer.read()
    os.wait()
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def attempts():
    if sys.platform != "linux":
        pytest.skip("the processes are bounded by Linux's limits")
    run = subprocess.run(
        [sys.executable, "-c", CHILD], input=json.dumps(ATTACKS), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_template_cannot_run_or_grow_without_end(attempts, name):
    assert "the chat template " in attempts[name]


def test_what_templates_do_goes_on_working():
    template = (
        "{%- set ns = namespace(all='', n=0) -%}"
        "{%- for m in messages -%}{%- set ns.all = ns.all ~ m.content -%}"
        "{%- set ns.n = ns.n + 1 -%}{%- endfor -%}"
        "{{ ns.all | trim | upper }}|{{ ns.n * 2 }}|{{ 123456 | string }}|{{ 2 ** 10 }}|"
        "{{ messages | map(attribute='role') | join(', ') }}|{{ '%s-%03d' % ('a', 7) }}|"
        "{{ 'a,b'.split(',') | last }}|{{ [3, 1, 2] | sort | join }}|{{ 'x' * 3 }}|"
        "{{ none_there | default(1000000) }}|{{ '{:>3}-{}'.format(1, 'b') }}|"
        "{{ messages[0].content.replace('Hello', 'Bye') }}"
    )
    assert render(USER, template=template).text == (
        "HELLO, HELLO, HELLO|2|123456|1024|user|a-007|b|123|xxx|1000000|  1-b|Bye, hello, hello"
    )


def test_a_long_conversation_is_no_attack():
    talk = [{"role": r, "content": "word " * 200} for r in ("user", "assistant")] * 1500
    assert render(talk).text.count("<|turn>") >= 3000


def test_a_filter_that_is_not_there_is_named():
    with pytest.raises(ChatError, match="center"):
        render(USER, template="{{ 'x' | center(9) }}")
