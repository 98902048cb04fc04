#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes template-cases.json: snippets of Jinja with what jinja2 makes of them under the settings that chat templates
are rendered with (needs the jinja2 package). `ok` is the text, `error` the kind of failure: refused is enough."""

import copy
import json
import sys
from datetime import datetime

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = "2026-11-23T09:15:56.429790"

CONTEXT = {
    "messages": [
        {"role": "system", "content": " Be brief. "},
        {"role": "user", "content": "Grüße, 世界! 🙂"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c1", "function": {"name": "get", "arguments": {"city": "Paris", "n": 2, "x": 1.5, "ok": True}}}]},
        {"role": "tool", "content": "{\"t\": 18}"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "image"}]},
    ],
    "tools": [{"type": "function", "function": {"name": "b", "items": 3, "parameters": {}}},
              {"type": "function", "function": {"name": "A", "description": "it's \"x\"\n", "parameters": {"q": [1]}}}],
    "add_generation_prompt": True,
    "bos_token": "<s>", "eos_token": "</s>",
    "n": 7, "f": 2.5, "neg": -3, "s": "Hello World", "e": "", "t": True, "no": False, "nil": None,
    "xs": [3, 1, 2], "words": ["b", "A", "c"], "d": {"b": 1, "a": [1, 2], "C": None, "items": 5},
    "nest": [[1, 2], [3], []], "html": "<a href='x'>&\"</a>", "multi": "one\n two\n\nthree\n", "u": "éàß İ ǆ ﬁ",
    "people": [{"name": "bob", "age": 30}, {"name": "Al", "age": 25}, {"name": "cy", "age": 30, "x": {"y": 1}}],
    "big": 123456789012345678901234567890, "empty": [], "ed": {},
}

EXPRESSIONS = r"""
1|1.0|1.5e3|1e16|1e15|123456789.125|0.1+0.2|1/3|10/2|7//2|-7//2|7%3|-7%3|7.5//2|-7.5%2|2**10|2**-1|2**3**2|-2**2|1e-5|0.0001
1e22|1e308*10|-0.0|0.0|100000000000000000.0|5e-324|1_000|0x1f|0b101|0o17
n+1|n-f|n*2|n/2|n//2|n%4|-n|+n|n+t|t+t|s+1|1+s|s*2|2*s|s*0|xs*2|xs+[4]|xs-1|nil+1|n+nil|[1]+(2,)|(1,)+(2,)
s ~ n ~ nil ~ t ~ f|"a" "b"|'a' ~ missing|missing + 'a'|'a' + missing|missing ~ missing|n ~ xs ~ d
1 < 2|1 < 2 < 3|3 > 2 > 2|1 == 1.0|1 == true|'a' < 'b'|'a' < 1|[1,2] < [1,3]|nil == none|none < 1|missing == missing
missing == none|1 != 2|'a' in 'abc'|1 in xs|4 not in xs|'b' in d|'z' in d|1 in 'a'|'a' in missing|missing in xs|missing in 'a'|1 in 5
not t|not e|t and 1|e or 'x'|e and 1|nil or no or 0|missing or 5|missing and 5|not missing|t and not no
1 if t else 2|1 if no else 2|1 if no|(1 if no) is defined|'x' if missing else 'y'|1 if t else 2 if no else 3
s[0]|s[-1]|s[100]|s[1:4]|s[:5]|s[-5:]|s[::-1]|s[::2]|s[5:1]|s[1:100]|xs[0]|xs[-1]|xs[5]|xs[1:]|xs[::-1]|xs[:-1]|xs['a']|xs[:1:2]|xs[3:0:-1]
messages[1].content[0]|messages[1].content[-1]|messages[1].content[7:]|messages[1].content[::-1]|messages[1].content|length
d.b|d['b']|d.items|d['items']|d.a|d.zzz|d.zzz.y|d['zzz']|d.get('b')|d.get('q')|d.get('q', 1)|d.keys()|d.values()|d.items()|d.items()|list
d.keys()|list|d|length|d|list|d|first|d.pop('b')|d.update({})|xs.append(1)|xs.append|xs.pop()|d.copy()|xs.index(1)|xs.count(3)|xs.index(99)
missing|missing.x|missing['x']|missing()|missing[0]|missing|length|missing|list|missing|upper|missing|int|missing|default('q')|missing|tojson
n|default(1)|nil|default('x')|nil|default('x', true)|e|default('x', boolean=true)|e|d('z')|no|default(1)|missing|d
s|upper|s|lower|s|title|s|capitalize|u|upper|u|lower|u|title|u|capitalize|"they're bill's"|title|"they're bill's".title()|u.upper()|u.title()|u.swapcase()|'éCole'.capitalize()
s.upper()|s.lower()|s.swapcase()|' x '.strip()|'xxaxx'.strip('x')|'  a'.lstrip()|'a  '.rstrip()|'a\n\n'.rstrip('\n')|'abcba'.strip('ab')|' x '|trim|'xax'|trim('x')|n|trim
'\u00a0x\u3000'.strip()|'\u200bx'|trim|'a,b,,c'.split(',')|'a,b,c'.split(',', 1)|' a  b '.split()|'a  b c'.split(none, 1)|'a,b,c'.rsplit(',', 1)|'a b c'.rsplit(maxsplit=1)|'abc'.split('')|''.split()|''.split(',')|' a b '.split(' ')
'</think>x</think>y'.split('</think>')[-1]|'a<b>c<b>'.split('<b>')[0].rstrip('\n').split('x')[-1]|'abc'.startswith('a')|'abc'.startswith(('x','a'))|'abc'.endswith('bc')|'abc'.startswith('b', 1)|'abc'.startswith(1)
'abcabc'.find('c')|'abcabc'.rfind('c')|'abc'.find('z')|'abc'.index('z')|'aXbX'.replace('X','-')|'aXbX'.replace('X','-',1)|'abc'.replace('','-')|'abc'|replace('b','')|'aaa'|replace('a','b',2)|n|replace('7','x')|'a'.replace('a')
'-'.join(words)|'-'.join(xs)|xs|join('-')|xs|join|people|join(', ', attribute='name')|nil|join|[1,none,'a']|join('|')|missing|join(',')
'a\nb\r\nc'.splitlines()|'a\nb\n'.splitlines(true)|'a-b-c'.partition('-')|'a-b-c'.rpartition('-')|'abc'.partition('z')|'x'.center(5)|'x'.ljust(3) ~ '|'|'x'.rjust(3,'.')|'-5'.zfill(4)|'abc'.count('b')|'aaa'.count('')
'abc'.removeprefix('a')|'abc'.removesuffix('c')|'12'.isdigit()|'ab'.isalpha()|'a1'.isalnum()|' '.isspace()|'A'.isupper()|'a'.islower()|'Ab Cd'.istitle()|''.isdigit()|'x'.foo|'x'.foo()|'x'.__class__
'%s is %d' % ('a', 5)|'%s' % 5|'%5.2f|' % 3.14159|'%r' % 'a'|'%x' % 255|'%-5s|' % 'a'|'%05d' % 42|'%s' % xs|'%s %s' % 'a'|'%d' % 'a'|'%%'|'%s%%' % 5|'%(a)s' % {'a': 1}|'%+d' % 5|'%e' % 12345.678|'%g' % 0.00001|'%s' % (1,2)|'a' % 5
'{} {}'.format(1, 'a')|'{0}{1}{0}'.format('a','b')|'{a}'.format(a=1)|'{:>5}|'.format('a')|'{:05d}'.format(42)|'{:.2f}'.format(3.14159)|'{:,}'.format(1234567)|'{{}}'.format()|'{}'.format()|'{:x}'.format(255)|'{!r}'.format('a')|'{0[a]}'.format({'a':1})|'{:^7}|'.format('ab')|'{:*<4}'.format('a')|'{:5}|'.format(3)
"%s"|format('x')|"%s-%s"|format(1,2)|"%(x)s"|format(x=1)
xs|first|xs|last|xs|length|xs|count|xs|sum|xs|min|xs|max|xs|sort|xs|sort(reverse=true)|words|sort|words|sort(case_sensitive=true)|words|min|words|max|words|unique|list|['a','A','b']|unique|list|['a','A']|unique(case_sensitive=true)|list
empty|first|empty|last|empty|max|empty|sum|empty|first|default('none')|xs|reverse|list|s|reverse|nest|map('length')|list|nest|sum(start=[])|people|sum(attribute='age')|people|sort(attribute='age')|map(attribute='name')|list
people|map(attribute='x.y')|list|people|map(attribute='x')|list|people|map(attribute='x', default=0)|list|people|map(attribute='x.y', default=0)|list|words|map('upper')|join|words|map('replace','b','z')|list|people|selectattr('age','equalto',30)|map(attribute='name')|list
people|selectattr('x')|list|length|people|rejectattr('x')|list|length|people|selectattr('x','defined')|map(attribute='name')|join|xs|select('odd')|list|xs|reject('odd')|list|xs|select|list|[0,1,'']|reject|list|xs|select('>',1)|list|xs|select('in',[1])|list|people|selectattr('age','gt',26)|list|length
xs|select('nope')|list|xs|map('nope')|list|people|groupby('age')|people|groupby('age')|map('first')|list|people|groupby('age')|length|xs|batch(2)|list|xs|batch(2,'-')|list|xs|slice(2)|list|[1,2,3,4,5]|slice(3,'x')|list
people|map(attribute='name')|length|people|map(attribute='name')[0]|(people|map(attribute='name')) is iterable|xs|map('string')|first|people|selectattr('name','in',['bob'])|first|people|sort(attribute='age,name')|map(attribute='name')|join(' ')|people|map(attribute='age')|unique|list|people|min(attribute='age')
d|dictsort|d|dictsort(true)|d|dictsort(false,'value')|{'b':2,'a':1}|dictsort(by='value')|{'b':2,'a':1}|dictsort(reverse=true)|d|items|list|nil|items|list|d|items|missing|items|list|xs|dictsort|ed|dictsort
d|tojson|tools|tojson|tools[1]|tojson(indent=2)|tools|tojson(indent=4)|d|tojson(sort_keys=true)|d|tojson(separators=(',',':'))|messages[1]|tojson|messages[1]|tojson(ensure_ascii=true)|html|tojson|nil|tojson|1.0|tojson|1e100|tojson|t|tojson|{1:2,true:3,none:4,1.5:5}|tojson|{(1,2):3}|tojson|(1,2)|tojson|empty|tojson(indent=2)|ed|tojson(indent=2)|'a\x7f\x01\u2028\t'|tojson|d.items()|tojson|range(3)|tojson|nest|tojson(indent=1)|{'a':{'b':[]}}|tojson(indent='\t')|big|tojson
n|string|f|string|nil|string|t|string|xs|string|d|string|messages[2]|string|[1.0,'a',none,true,"it's",'"',"'\"",'\n\\']|string|('a',)|string|()|string|{}|string|'é\u200b\x7f'|list|string|['🙂','\u00ad']|string|messages[1].content|list
'42'|int|'4.7'|int|'x'|int|'x'|int(5)|'0x1f'|int(0,16)|'1f'|int(base=16)|f|int|nil|int|'  7 '|int|''|int|'1_000'|int|t|int|'3.5'|float|'x'|float|n|float|nil|float(1.5)|'inf'|float|'-1e3'|float|f|round|2.567|round(2)|2.5|round|3.5|round|2.1|round(method='ceil')|2.9|round(0,'floor')|n|round|1234|round(-2)|neg|abs|'a'|abs|2.675|round(2)|big|string|big == big|big > 1|-5|abs
html|e|html|escape|html|safe|html|safe|e|(html|safe) + '<b>'|'<b>' + (html|safe)|(html|safe) ~ '<b>'|html|forceescape|[html|safe]|(html|safe)|upper|(html|safe).replace('a','<')|(html|safe)|replace('a','<')|(html|e)|length|'<%s>'|safe % '<'|(html|safe)|trim + '<'|d|tojson|safe|'<x>' + (d|tojson|safe)|(s|safe) is string|(s|safe) is escaped
multi|indent|multi|indent(2)|multi|indent(2, true)|multi|indent(2, first=true, blank=true)|multi|indent('> ')|'a'|indent|''|indent|n|indent|multi|wordcount|'foo bar baz qux'|truncate(9)|'foo bar baz qux'|truncate(9, true)|'foo bar baz qux'|truncate(11)|'foo bar baz qux'|truncate(11, false, '...', 0)|'x'|center(7)|'a b&c/ü'|urlencode
n is defined|missing is defined|missing is undefined|d.q is defined|missing.q is defined|nil is none|nil is not none|n is number|t is number|f is number|f is float|n is float|n is integer|t is integer|t is boolean|n is boolean|t is true|no is false|n is true|1 is true
s is string|n is string|d is mapping|xs is mapping|xs is sequence|s is sequence|d is sequence|n is sequence|missing is sequence|missing is iterable|n is iterable|xs is iterable|d is iterable|s is iterable|nil is iterable|range(2) is sequence|d.items() is sequence|d.items() is iterable|namespace() is mapping
n is odd|n is even|n is divisibleby 7|n is divisibleby(2)|n is eq 7|n is equalto 7|n is ne 7|n is gt 5|n is ge 7|n is lt 5|n is le 7|n is lessthan 5|n is greaterthan 5|n is in [7]|n is in(xs)|s is upper|'ABC' is upper|'abc' is lower|raise_exception is callable|n is callable|missing is callable|n is sameas n|xs is sameas xs|nil is sameas none|'upper' is filter|'zz' is filter|'odd' is test
n is not defined|not n is defined|n is defined and s is string|n is defined or 1|n is number is defined|n is nope|s|nope|n is string or n is number|x is defined if t else 5|n is number + 1|n is eq 7 and t
range(5)|range(5)|list|range(1,4)|list|range(5,0,-2)|list|range(0)|list|range(200000)|range(1,2,0)|range(3)[1]|range(10)[2:5]|range(3)|length|range('a')|range(1.5)
dict(a=1,b=2)|dict([('a',1)])|dict({'a':1}, b=2)|dict(d).b|namespace(a=1).a|namespace(a=1).b|namespace({'a':2}).a|{'a':1,'a':2}|{1:'x'}[true]|{'a':1}['a']|{}.x|[1,2,][0]|(1,)|(1)|()|(1,2)[1]|{'k': {'n': 1}}.k.n|[[]]|{[]:1}|{'a' : 1}.items()|list
messages[0]['content']|trim|messages[0].content.strip()|messages[2].content|messages[2].tool_calls[0].function.arguments|tojson|messages[2]['tool_calls'][0]['function']['name']|messages|length|messages[0].role == 'system'|messages[1:]|length|messages[-1].content[0].text|messages|map(attribute='role')|join(',')|messages|selectattr('role','equalto','user')|list|length|(messages|selectattr('role','equalto','user')|list|last).content[0].type|messages[::-1][0].role|tools|map(attribute='function')|map(attribute='name')|sort|join
tools[0].function.items|tools[0].function['items']|tools[0].function.name|messages|last|messages|first|attr('role')|d|attr('b')|s|attr('upper')|messages[99].role|messages[99]|messages['a']|messages.foo|nil.foo|nil['a']|n.foo|t.x is defined
strftime_now('%Y-%m-%d')|strftime_now('%d %b %Y')|strftime_now('%B %-d, %Y %H:%M:%S.%f')|strftime_now('%A %a %j %y %I %p %%')|strftime_now()|raise_exception('no')|raise_exception()|strftime_now("%e|%D|%F|%T")
s.split(' ')|map('lower')|list|s|list|s|length|u|length|'🙂é'|length|'abc'[1]|'a' * -1|[1] * 0|'ab' * 2 ~ 'c'|'abc' is in 'xabcx'|('a','b') == ('a','b')|[1,[2]] == [1,[2]]|{'a':1} == {'a':1.0}|xs == (3,1,2)|d == d|xs[1] + xs[2] * 2|-xs[0]|not xs|(xs|length) > 2|xs|length > 2|xs|length - 1|xs | sum / 2|n + 1 | string|'a' ~ 1 + 2|'1' ~ 2 * 3|1 ~ 2|1,2|(1,2),3
""".strip("\n")

# A bar between brackets or quotes or around a filter is no separator: snippets are split by hand where it matters.
STATEMENTS = [
    "{% for x in xs %}{{ x }}{% if not loop.last %},{% endif %}{% endfor %}",
    "{% for x in xs %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }} {% endfor %}",
    "{% for x in xs %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }};{% endfor %}",
    "{% for x in xs %}{{ loop.previtem is defined }}{{ loop.nextitem is not defined }}{% endfor %}",
    "{% for x in xs %}{{ loop.cycle('a','b') }}{% endfor %}",
    "{% for x in [1,1,2,2,1] %}{% if loop.changed(x) %}{{ x }}{% endif %}{% endfor %}",
    "{% for x in [] %}x{% else %}none{% endfor %}", "{% for x in missing %}x{% else %}none{% endfor %}",
    "{% for x in nil %}x{% endfor %}", "{% for x in 5 %}x{% endfor %}", "{% for c in s %}{{ c }}.{% endfor %}",
    "{% for k in d %}{{ k }} {% endfor %}", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in d|items %}{{ k }}={{ v }};{% endfor %}", "{% for k, v in d|dictsort %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in xs %}{{ k }}{% endfor %}", "{% for a, b in nest %}{{ a }}{% endfor %}",
    "{% for (a, b) in [(1,2),(3,4)] %}{{ a+b }} {% endfor %}", "{% for a, (b, c) in [(1,(2,3))] %}{{ a+b+c }}{% endfor %}",
    "{% for x in xs if x > 1 %}{{ x }}{{ loop.length }}{% endfor %}", "{% for x in xs if x > 9 %}{{ x }}{% else %}no{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ loop.index }}{% endfor %}",
    "{% for x in xs %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in xs %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}",
    "{% break %}", "{% for x in xs %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}",
    "{% for x in nest %}{% for y in x %}{{ y }}{{ loop.index }}{% endfor %}{{ loop.index }};{% endfor %}",
    "{% for x in nest recursive %}{% if x is iterable %}[{{ loop(x) }}]{% else %}{{ x }}{{ loop.depth }}{% endif %}{% endfor %}",
    "{% set x = 1 %}{% for y in xs %}{{ x }}{% set x = y %}{{ x }}{% endfor %}{{ x }}",
    "{% set ns = namespace(x=1) %}{% for y in xs %}{% set ns.x = ns.x + y %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace() %}{{ ns.a is defined }}{% set ns.a = 1 %}{{ ns.a }}{{ ns }}", "{% set d.x = 1 %}", "{% set q.x = 1 %}",
    "{% if t %}{% set y = 5 %}{% endif %}{{ y }}", "{% if no %}{% set n = 5 %}{% endif %}{{ n }}",
    "{% for i in xs %}{% if loop.first %}{% set n = 5 %}{% endif %}{{ n }}{% endfor %}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a, b = [1] %}", "{% set a, b = xs %}", "{% set a = 1, 2 %}{{ a }}", "{% set (a, b) = (1, 2) %}{{ b }}",
    "{% set x %}a{{ n }}b{% endset %}[{{ x }}]{{ x|length }}", "{% set x | upper %}abc{% endset %}{{ x }}", "{% set x | replace('a','z') | trim %} abc {% endset %}[{{ x }}]",
    "{% macro m(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(b=1, a=5) }} {{ m() }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(c=2) }}", "{% macro m(a) %}{{ a.x }}{% endmacro %}{{ m() }}",
    "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}", "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}",
    "{% macro m(a) %}{{ varargs|length }}{{ kwargs.q }}{% endmacro %}{{ m(1, 2, q=3) }}",
    "{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}x{{ n }}{% endcall %}",
    "{% macro m() %}<{{ caller(5) }}>{% endmacro %}{% call(q) m() %}x{{ q }}{% endcall %}", "{% macro m() %}<{{ caller() }}>{% endmacro %}{{ m() }}",
    "{% macro m() %}a{% endmacro %}{% call m() %}x{% endcall %}",
    "{% macro f(k) %}{{ k }}{% if k > 0 %}{{ f(k - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
    "{% macro m() %}{{ z }}{% endmacro %}{% set z = 1 %}{{ m() }}{% set z = 2 %}{{ m() }}", "{% for x in xs %}{% macro m() %}{{ x }}{% endmacro %}{{ m() }}{% endfor %}",
    "{% macro m() %}{{ loop }}{% endmacro %}{% for x in [1] %}{{ m() }}{% endfor %}", "{% macro m() %} a {% endmacro %}[{{ m()|trim }}]{{ m() is string }}",
    "{% macro m(x) %}{% set n = x %}{{ n }}{% endmacro %}{{ m(1) }}{{ n }}", "{{ m }}{% macro m() %}{% endmacro %}", "{% macro m() %}{% endmacro %}{{ m.name }}",
    "{% filter upper %}abc{{ s }}{% endfilter %}", "{% filter replace('a','b')|upper %}abc{% endfilter %}", "{% filter indent(2) %}a\nb{% endfilter %}",
    "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a }}", "{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q }}", "{% with a = n %}{% set n = 3 %}{{ a }}{{ n }}{% endwith %}{{ n }}",
    "{% generation %}a{{ n }}{% endgeneration %}", "{% block x %}b{{ n }}{% endblock %}", "{% block x %}b{% endblock x %}", "{% print n %}",
    "{% raw %}{{ x }}{% if %}{% endraw %}", "{%- raw -%} {{ x }} {%- endraw -%} y", "a {% raw %} b {% endraw %} c", "  {% raw %}\n x\n  {% endraw %}\n y",
    "{# c #}a{# {{ x }} #}b", "a {#- c -#} b", "a\n  {# c #}\nb", "{# a", "{{ '{{' }}{{ '%}' }}{{ \"}}\" }}", "{{ {'a':{'b':1}} }}", "{{ {'a':{'b':1}}.a.b}}",
    "  {% if t %}\n  x\n  {% endif %}\n  y", "  {%+ if t %}\n  x\n  {%- endif %}\n  y", "{% if t -%}\n\n x \n\n{%- endif %}z", "a\n{{ n }}\nb\n", "a\n\n", "\n", "", "\n\n\na",
    "  {{ n }}  ", "  {{- n -}}  x", "{% if t %}\n{% endif %}\n\nb", "{% if t +%}\nx{% endif %}", "x {% if t %} y {% endif %} z", "\t{% if t %}\t{% endif %}\n", "a\r\nb\rc{% if t %}\r\nd{% endif %}",
    "a  {%- if t %} b {%- endif -%}  c", "  {# c #}  x", "  {#- c +#}\n x", "{% if t %}a{% endif %}\n{% if t %}b{% endif %}\n", "é  {%- if t %} ü {% endif %}", "\u00a0{%- if t %}x{% endif %}",
    "x\n   {% set a = 1 %}   \ny", "x\n {{ n }} {% set a = 1 %}\ny", "{% set a = 1 %}  {% set b = 2 %}\n{{ a }}",
    "{% if n > 5 and s %}a{% elif n %}b{% else %}c{% endif %}", "{% if no %}a{% elif n == 7 %}b{% else %}c{% endif %}", "{% if missing %}a{% else %}c{% endif %}", "{% if missing.x %}a{% endif %}",
    "{% if no %}{{ missing.x }}{% endif %}ok", "{% if no %}{{ x|nope }}{% endif %}ok", "{% if t %}{{ x|nope }}{% endif %}ok", "{% for x in [] %}{{ x|nope }}{% endfor %}ok", "{{ 1 if t else (x|nope) }}", "{% if no %}{{ x is nope }}{% endif %}ok",
    "{% include 'x' %}", "{% if no %}{% include 'x' %}{% endif %}ok", "{% import 'x' as y %}", "{% nope %}", "{% if %}", "{% if t %}", "{% endif %}", "{{", "{{ }}", "{{ 1 + }}", "{{ a b }}", "{% for in x %}{% endfor %}", "{% for x xs %}{% endfor %}", "{% set %}", "{% set 1 = 2 %}", "{{ 'a }}", "{{ a. }}", "{{ a[ }}", "{{ (1 }}", "{{ 1) }}", "{{ [1,2 }}", "{{ a(b=1, 2) }}", "{% macro %}{% endmacro %}", "{% macro m(a=1, b) %}{% endmacro %}", "{% else %}", "{% if t %}{% else %}{% else %}{% endif %}", "{{ ! }}", "{{ a ? b }}", "{{ $ }}", "}}", "%}", "{ {", "{{ 'x' }", "{% for loop in xs %}{% endfor %}",
    "{% set c = cycler('a','b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.next() }}", "{% set j = joiner('|') %}{{ j() }}a{{ j() }}b{{ j() }}c",
    "{% set x = xs|map('string') %}{{ x|list }}{{ x|list }}", "{% set x = people|map(attribute='name') %}{% if x %}y{% endif %}{{ x|first }}{{ x|first }}", "{% set x = d.items() %}{{ x|list|length }}{{ x|length }}",
    "{{ dict(**{'a': 1}) }}", "{% macro m(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ m(*[1, 2]) }}{{ m(**{'a': 1, 'b': 2}) }}", "{% set f = m %}{{ f is defined }}",
    "{%- for message in messages %}{{- '<|' + message.role + '|>' }}{%- if message.content is string %}{{ message.content | trim }}{%- elif message.content is iterable and message.content is not none %}{%- for c in message.content %}{{ c.type }}{%- endfor %}{%- endif %}\n{%- endfor %}",
    "{%- if messages[0]['role'] == 'system' -%}{%- set system = messages[0]['content'] -%}{%- set loop_messages = messages[1:] -%}{%- else -%}{%- set loop_messages = messages -%}{%- endif -%}{{ system }}{{ loop_messages|length }}",
    "{%- for t in tools %}{{ t | tojson(indent=4) }}\n{% endfor -%}", "{%- set ns = namespace(idx=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.idx = loop.index0 %}{% endif %}{% endfor %}{{ ns.idx }}",
    "{%- for m in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}{{ index }}{{ m.role[0] }}{%- endfor %}", "{{ messages[0].content | default('', true) | trim ~ '!' }}", "{% set x = 'a' if t else 'b' %}{{ x }}",
    "{{- bos_token }}{%- if add_generation_prompt -%}{{ '<|assistant|>\\n' }}{%- endif -%}", "{{ '\\n\\t\\\\ \\' \\x41 \\u00e9 \\U0001f642 \\q' }}", "{{ \"a\nb\" }}", "{{ 'it''s' }}", "{{ 'a' 'b' ~ 'c' }}",
    "{% set x = [] %}{% set x = x + [1] %}{% set _ = x.append(2) %}{{ x }}", "{% set m = dict(a=1) %}{% set m = dict(m, b=2) %}{{ m }}", "{{ [1,2,3]|join(',') if xs is iterable and xs is not string else xs }}",
    "{% set content %}{% for i in range(3) %}{{ i }}{% endfor %}{% endset %}{{ content }}", "{% for i in range(3) %}{% set x %}{{ i }}{% endset %}{{ x }}{% endfor %}{{ x }}", "{{ caller }}{{ loop }}",
    "{{ loop is defined }}{% for x in [1] %}{{ loop is defined }}{% endfor %}", "{% for x in xs %}{{ loop.nope }}{% endfor %}", "{% for x in xs %}{% for y in [1] %}{% set x = 9 %}{% endfor %}{{ x }}{% endfor %}",
    "{% if s is string and s[:5] == 'Hello' and not s.endswith('x') %}y{% endif %}", "{% if 'x' not in d and d['b'] == 1 %}y{% endif %}", "{{ d['a'][0] if d['a'] is sequence }}", "{% set x = d.get('C') or 'dflt' %}{{ x }}", "{{ (n|string) + 'x' }}", "{{ 'Tool: ' + n }}",
    "{{ now is defined }}", "{{ tools is none }}{{ documents is none }}{{ documents is defined }}",
    "{% do xs.append(1) %}", "{% trans %}x{% endtrans %}", "{{ messages|map(attribute='content')|select('string')|map('length')|list }}",
    "{% set ns = namespace(found=false) %}{% for m in messages %}{% if m.role == 'tool' and not ns.found %}{% set ns.found = true %}{{ loop.index }}{% endif %}{% endfor %}{{ ns.found }}",
    "{{ namespace(items=3).items }}", "{{ xs.__len__ }}", "{{ xs['__len__'] is defined }}", "{{ ''.join(['a','b'])|upper }}", "{{ (s, n)|join('-') }}", "{% set x = {'a': xs, 'b': d} %}{{ x }}", "{{ [none, true, 1.0, 'x', missing] }}",
    "{{ 'abc'.title().lower() }}",
    "{{ messages[2].tool_calls | map(attribute='function') | map(attribute='name') | list }}",
    "{%- for tool in tools %}{{ '- ' ~ tool.function.name ~ (': ' ~ tool.function.description if tool.function.description else '') }}\n{%- endfor %}",
    "{% set x = messages | selectattr('role', 'in', ['user','tool']) | list %}{{ x|length }}",
    "{{ '%02d:%02d' | format(5, 7) }}",
    '{{ d | tojson | replace(\'"\', \'\\\'\') }}',
    '{% for k in d|sort %}{{ k }}{% endfor %}',
    "{{ (tools | first).function.keys() | list | join(',') }}",
    '{% for i in range(messages|length - 1, -1, -1) %}{{ i }}{% endfor %}',
    "{{ messages[-1]['content'] | selectattr('type', 'equalto', 'text') | map(attribute='text') | join('') }}",
    "{% if messages[-1].content is not string and messages[-1].content[0].type == 'text' %}y{% endif %}",
    "{{ 'a' if n == 7 else 'b' ~ 'c' }}",
    "{{ ['a'] + ['b'] | list }}",
    "{{ {'a': [1,2,{'b': none}]} | string }}",
    '{{ 1 if x is defined and x else 0 }}',
    '{{ ns is defined and ns.x }}',
    '{% set ns = namespace(a=[]) %}{% for x in xs %}{% set ns.a = ns.a + [x * 2] %}{% endfor %}{{ ns.a }}',
    "{{ 'x' in 'xyz' and 'q' not in 'xyz' }}",
    '{{ -5 // 2 }}{{ -5 % 3 }}{{ 5.0 // 2 }}',
    "{{ '1' + '2' | int | string }}",
    "{{ s.split()[0] }}{{ s.split('o', 1)[1] }}",
    '{{ s[-5:][::-1] }}',
    '{{ (1, 2) + (3,) }}',
    '{{ [1, 2] * 2 }}',
    '{% for a, b in zip %}{% endfor %}',
    '{{ zip(xs, words) }}',
    '{{ enumerate(xs) }}',
    '{{ len(xs) }}',
    '{{ str(5) }}',
    '{% for a in xs %}{{ a }}{% else %}{% endfor %}{% for x in d.values() %}{{ x }}{% endfor %}',
    "{{ tools[0].function.parameters or 'none' }}",
    "{{ tools[0]['function']|tojson(indent=2)|indent(4) }}",
    "{{ people|map(attribute='name')|map('capitalize')|join(' & ') }}",
    '{{ people|tojson }}',
    "{{ people|sum('age') }}",
    "{{ people|max(attribute='age') }}",
    "{{ [3,'a']|sort }}",
    '{{ [none,1]|max }}',
    '{{ d.b is number and d.b > 0 }}',
    "{{ 'a\\\\nb' }}",
    "{{ 'é'|urlencode }}",
    '{{ [1,2,3][1:]|first }}',
    "{{ 'a-b_c d'|title }}",
    "{{ xs|join(', ')|upper }}",
    '{{ 5 is in xs }}',
    "{{ ''|default('x', true) }}",
    '{{ n.__class__.__name__ }}',
    '{{ s.__class__ }}',
    '{{ [].append }}',
    '{{ xs.sort() }}',
    '{% set a = b = 1 %}',
    '{{ a = 1 }}',
    '{% set a.b.c = 1 %}',
    '{% for x in xs recursive %}{{ x }}{% endfor %}',
    "{% macro a(x) -%} {{ x }} {%- endmacro %}{{ a('q') }}",
    '{%- macro a() %}\n  hi\n{% endmacro -%}\n\n{{ a() }}|',
    '{% call(x) a() %}{% endcall %}',
    "{% if true %}\n  {{ 'x' }}\n{% endif %}\n",
    '{% for x in xs -%}\n  {{ x }}\n{%- endfor %}',
    '{%- set tools = tools if tools is defined else none -%}{{ tools|length }}',
    '{% if tools is not none and tools|length > 0 %}T{% endif %}',
    '{{ messages|length % 2 == 0 }}',
    '{{ (messages|length) is divisibleby(5) }}',
    '{{ loop }}',
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ loop.index }}{% endif %}{% endfor %}",
    "{{ raise_exception('Conversation roles must alternate') if n == 8 }}",
    "{{ messages | map(attribute='role') | unique | join('/') }}",
    "{{ {'b':1,'a':2}|dictsort|map('first')|join }}",
    "{{ {'b':1,'a':2}|items|map('last')|sum }}",
    '{{ \'{"a": 1}\' | tojson }}',
    "{{ '\\u4e16' }}",
    '{{ f|round(1)|string }}',
    '{{ 1000000.0 }}{{ 1e6|int }}',
    '{{ 3 | float }}',
    "{{ '%.3f'|format(2) }}",
    "{{ '{:.1%}'.format(0.256) }}",
    "{{ '{:e}'.format(12345.6) }}",
    "{{ '{:g}'.format(0.0001) }}",
    "{{ '{:.3}'.format(3.14159) }}",
    "{{ '{:.3}'.format('abcdef') }}",
    "{{ '{:+}'.format(5) }}",
    "{{ '{:#x}'.format(255) }}",
    "{{ '{:08.3f}'.format(3.14159) }}",
    "{{ '{a.b}'.format(a={'b':1}) }}",
    "{{ '%5s|%-5s|' % ('é','é') }}",
    "{{ '%.2s' % 'abc' }}",
    "{{ 'abc' % {} }}",
    "{{ '%s' % {} }}",
    "{{ '%s' % {'a':1} }}",
    "{{ 'x' % [] }}",
    "{{ '%i' % 3.99 }}",
    "{{ '%X' % 255 }}",
    "{{ '%#x' % 255 }}",
    "{{ '% d' % 5 }}",
    '{% filter trim %}  x {% endfilter %}',
    '{% set a %}{% endset %}[{{ a }}]',
    "{{ [[1,2],[3,4]]|map('join','-')|list }}",
    "{{ words|map('lower')|sort|first }}",
    "{{ words|select('equalto','A')|list }}",
    "{{ [1,2,3]|select('divisibleby',2)|list }}",
    "{{ people|rejectattr('age','equalto',30)|list|tojson }}",
    "{{ people|selectattr('x.y')|list|length }}",
    "{{ people|selectattr('x.y.z')|list|length }}",
    "{{ 'abc'|list|reverse|join }}",
    "{{ 'abc'|first }}{{ 'abc'|last }}",
    "{{ ''|first is defined }}",
    '{{ not not 1 }}',
    '{{ 1 and 2 or 3 }}',
    '{{ 1 == 1 == 1 }}',
    '{{ 1 in [1] in [[1]] }}',
    "{{ 'a' < 'B' }}",
    '{{ [1] < [1, 0] }}',
    '{{ true + true }}',
    '{{ +true }}',
    '{{ -true }}',
    '{{ 5 / 0 }}',
    '{{ 5 // 0 }}',
    '{{ 0.0 == -0.0 }}',
    '{{ 1e400 }}',
    '{{ 7.0|int }}',
    '{{ 7.9|int }}',
    "{{ '-7.9'|int }}",
    '{{ 1.0|tojson }}',
    '{{ 12345678.9 }}',
    '{{ 1/3*3 }}',
    '{{ 2**0.5 }}',
    '{{ 1e-7|string }}',
    '{% if a is defined %}{% elif b is defined %}{% else %}z{% endif %}',
    '{# a #}\n{# b #}\nx',
    '{#- a -#}\n x',
    '\n\n{%- if 1 %}\n\n{%- endif %}\n\n',
    '{{- 1 }}\n{{ 2 -}}\n\n3',
    "a{{ '\n' }}{{- 'b' }}",
    '  {%- set x = 1 %}\n  {%- set y = 2 %}\n{{ x }}',
    '{% raw -%}\n a\n{%- endraw %}b',
    '  {%- raw %} a{% endraw %}',
    '{%raw%}{{a}}{%endraw%}',
    '{%if 1%}a{%endif%}',
    '{%-if 1-%} a {%-endif-%} b',
    '{%+if 1%}a{%endif+%}\nb',
    "{{ x.y.z if x.y is defined else 'q' }}",
    "{{ x.y if x else 'q' }}",
    '{{ messages[0].x.y is defined }}',
    '{{ messages[0].x.y }}',
    "{{ messages[0]['x']['y'] }}",
    '{{ (messages[0].x or {}).y }}',
    "{{ (messages[0].x | default({})).y | default('z') }}",
    "{{ d['items'] }}{{ d.items is callable }}",
    '{{ tools[1].function.parameters.q[0] }}',
    '{{ tools.0.type }}',
    "{{ messages.0.role }}{{ messages.1['role'] }}",
    '{{ xs.0 }}',
    "{{ range(3)|map('string')|join }}",
    '{{ range(0, 10, 3)|list }}',
    '{{ range(3) == range(3) }}',
    '{{ range(3)|reverse|list }}',
    '{{ range(3)|tojson }}',
    '{{ 2 in range(3) }}',
    '{{ range(3)|last }}',
    '{{ d.keys()|first }}',
    '{{ d.values()|list|tojson }}',
    '{{ d.items()|tojson }}',
    '{{ d.items()|first|last }}',
    '{{ d.keys() }}',
    '{{ d.keys()[0] }}',
    '{{ d|length }}',
    '{{ d.items()|length }}',
    '{{ dict(a=1)|tojson }}',
    "{{ 'a' in d.keys() }}",
    "{{ ('a',[1,2]) in d.items() }}",
    '{{ joiner }}',
    '{{ cycler() }}',
    '{{ namespace(1) }}',
    '{{ dict([1]) }}',
    '{{ range() }}',
    '{{ xs(1) }}',
    '{{ s() }}',
    '{{ none() }}',
    '{{ d.get() }}',
    '{{ s.replace() }}',
    '{{ s.split(1) }}',
    '{{ s.join(5) }}',
    '{{ s.upper(1) }}',
    '{{ xs|first(1) }}',
    "{{ s|trim('H','x') }}",
    '{{ s|upper(x=1) }}',
    '{{ xs|join(x=1) }}',
    '{{ n is eq }}',
    '{{ n is defined(1) }}',
    '{{ n is divisibleby 0 }}',
    "{{ 'a' is divisibleby 2 }}",
    "{{ 'a' is odd }}",
    '{{ none is odd }}',
    "{{ 'a'|abs }}",
    "{{ 'a'|round }}",
    '{{ none|length }}',
    '{{ 5|length }}',
    '{{ 5|list }}',
    '{{ 5|first }}',
    '{{ 5|join }}',
    '{{ none|tojson }}',
    '{{ 5|upper }}',
    '{{ none|upper }}',
    '{{ none|trim }}',
    '{{ none|items|list }}',
    '{{ []|items|list }}',
    '{{ 5|sort }}',
    "{{ 5|map('upper')|list }}",
    "{{ none|map('upper')|list }}",
    "{{ none|selectattr('x')|list }}",
    "{{ none|default('x') }}",
    '{{ none|string|length }}',
    '{{ none|int }}',
    '{{ none|float }}',
    '{{ none|reverse }}',
    "{{ none|replace('N','n') }}",
    "{{ none ~ 'x' }}",
    '{{ none|safe }}',
    '{{ none|e }}',
    '{{ none|list }}',
    '{{ none|sum }}',
    '{{ none|dictsort }}',
    '{{ none|indent }}',
    '{{ none.x.y }}',
    '{{ none|batch(2)|list }}',
    '{{ xs|slice(0)|list }}',
    "{{ xs|sort(attribute='age') }}",
    "{{ people|sort(attribute='x.y')|map(attribute='name')|list }}",
    "{{ people|sort(attribute='zz')|map(attribute='name')|list }}",
    "{{ people|sort(attribute='age', reverse=true)|map(attribute='name')|list }}",
    "{{ [1, 2]|sort(attribute='a,b') }}",
    "{{ self.zz }}{{ self.zz is defined }}{{ self is defined }}",
    "{{ self.zz.y }}",
    "{{ self.zz() }}",
    "{{ xs|truncate(9) }}",
    "{{ xs|truncate(3, false, '', -1) }}",
    "{{ messages|truncate(0, false, '', 0) }}",
    "{{ n|truncate }}",
    "{{ ed|truncate(5) }}",
    "{{ xs.index(2, 1) }}",
    "{{ xs.index(3, 1) }}",
    "{{ xs.index(1, -2, -1) }}",
    "{{ xs.index(1, -9) }}",
    "{{ (1, 2, 1).index(1, 1) }}",
    r"{{ 'a\tbc\td\n\te'.expandtabs() }}",
    r"{{ '\ta\t'.expandtabs(4) }}",
    r"{{ 'é\tx'.expandtabs(tabsize=2) }}",
    r"{{ 'a\tb'.expandtabs(0) }}",
    "{{ '%c%c' % (65, 'é') }}",
    "{{ '%3c|' % 128578 }}",
    "{{ '%c' % 'ab' }}",
    "{{ '%c' % -1 }}",
    "{{ '%c' % 1.5 }}",
    "{{ '%a' % 'é🙂' }}",
    "{{ '%a' % ['ü'] }}",
    "{{ '{!a}'.format('é') }}",
    "{{ '{!s:>4}|'.format([1]) }}",
    "{{ '{!r:>6}|'.format('a') }}",
    "{{ '{!q}'.format(1) }}",
    "{{ '{:+}'.format('a') }}",
    "{{ '{:=5}'.format('a') }}",
    "{{ '{:05}|{:05}'.format('a', -3) }}",
    "{{ '{:,}'.format('a') }}",
    "{{ '{:#}'.format('a') }}",
    "{% macro m(a) %}{{ caller() }}{{ kwargs }}{% endmacro %}{{ m.name }}{{ m.caller }}{{ m.catch_kwargs }}",
    "{% macro m() %}{{ varargs }}{% endmacro %}{{ m.caller }}{{ m.catch_kwargs }}{{ m.catch_varargs }}{{ m.zz }}",
    "{% if no %}{{ x|nope }}{% endif %}",
    "{% if no %}{% with a = 1 %}{{ x|nope }}{% endwith %}{% endif %}",
    "{% if no %}{% set a %}{{ x|nope }}{% endset %}{% endif %}",
    "{% if no %}{% filter upper %}{{ x|nope }}{% endfilter %}{% endif %}",
]


OPERANDS = ["s", "u", "html", "''", "' x '", "'42'", "n", "f", "neg", "t", "nil", "missing", "xs", "words", "empty", "nest",
            "people", "d", "ed", "(1, 'a')", "range(3)", "messages[4].content", "[1, none, 'a', true, 1.5]", "{'a': {'b': 1}}"]
FILTERS = ["upper", "title", "capitalize", "trim", "length", "first", "last", "list", "string", "int", "float", "abs", "round",
           "sum", "min", "max", "sort", "unique|list", "reverse|list", "join", "tojson", "e", "safe|e", "items|list", "dictsort",
           "default('x')", "default('x', true)", "wordcount", "string|indent(2, true)", "replace('a', 'b')", "join('-')",
           "map('string')|list", "map('length')|list", "map(attribute='name')|list", "map(attribute='b', default=1)|list",
           "select|list", "reject('none')|list", "selectattr('name')|list", "selectattr('age', 'gt', 26)|list",
           "sort(reverse=true)", "sort(attribute='age')", "groupby('age')", "batch(2, '-')|list", "slice(2)|list",
           "tojson(indent=2)", "tojson(sort_keys=true)", "tojson(ensure_ascii=true)", "tojson(separators=(',', ':'))",
           "center(9)", "truncate(5)", "attr('name')", "round(1, 'floor')", "count is odd", "string is upper"]
OPERATORS = ["+", "-", "*", "/", "//", "%", "~", "==", "<", ">=", "in", "not in", "and", "or"]


def products():
    """Everything on everything; of the operators every fifth pair, since all of them are the same few cases."""
    for f in FILTERS:
        for o in OPERANDS:
            yield "{{ " + o + "|" + f + " }}"
    pairs = [(a, op, b) for op in OPERATORS for a in OPERANDS for b in OPERANDS]
    for a, op, b in pairs[::5]:
        yield "{{ " + a + " " + op + " " + b + " }}"


def split_expressions(text):
    """Every line holds expressions between bars. A bar that starts a filter stands before a name of FILTERS and after
    an operand; as that can't be told apart, each prefix of a line's pieces is tried both alone and joined."""
    out = []
    for line in text.split("\n"):
        pieces = line.split("|")
        for i, p in enumerate(pieces):
            out.append(p)
            for k in (2, 3, 4):
                if i + k <= len(pieces):
                    out.append("|".join(pieces[i:i + k]))
    return out


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    class Generation(jinja2.ext.Extension):
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            call = self.call_method("_support")
            return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

        def _support(self, caller):
            return caller()

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda format: datetime.fromisoformat(NOW).strftime(format)
    return env


def run(env, source):
    try:
        text = env.from_string(source).render(documents=None, **copy.deepcopy(CONTEXT))
        text.encode()
    except Exception as e:  # whatever it is, it is a refusal
        return {"template": source, "error": type(e).__name__}
    if " at 0x" in text or "<class " in text or "<function" in text or "<jinja2" in text or "<bound" in text \
            or "<built-in" in text or "Context" in text or "<Loop" in text:
        return None
    return {"template": source, "ok": text}


def main():
    env, cases, seen = environment(), [], set()
    for e in split_expressions(EXPRESSIONS):
        s = "{{ " + e + " }}"
        if s not in seen:
            seen.add(s)
            cases.append(run(env, s))
    cases += [run(env, s) for s in STATEMENTS]
    cases += [run(env, s) for s in products() if s not in seen]
    cases = [c for c in cases if c]
    # joined pieces that make no sense are refused; a few of them are enough
    few, kept = 0, []
    for c in cases:
        if c.get("error") == "TemplateSyntaxError" and c["template"].count("|"):
            few += 1
            if few > 25:
                continue
        kept.append(c)
    json.dump({"now": NOW, "context": CONTEXT}, sys.stdout, ensure_ascii=False)
    for c in kept:
        sys.stdout.write("\n" + json.dumps(c, ensure_ascii=True))
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
