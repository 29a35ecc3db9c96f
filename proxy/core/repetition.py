"""Learn what repeats, then compare: one idea, used wherever the hot path would parse the same bytes again and again.

A client repeats its request head, an upstream its answer's head and the frame around each event's text. To parse one costs 10 to 100
times what it costs to compare it with the last one. So a parser keeps the *shape* of what it parsed: the bytes left and right of the
part that varies. The next piece is compared with the shape first:

- If it fits, and the part that varies is valid by itself, the old result is taken with the new part in its place.
- If not, it is parsed as if nothing had been learnt, and its own shape replaces the old one.

Three rules make that safe. A shape is learnt only from bytes that leave a parser no choice, so equal frames mean equal results. The
part that varies is checked on its own each time. And learning is bounded: a peer whose bytes differ each time (a trace id in each
head, a time in each event) costs a few lessons and is then only parsed.

| who learns | the shape | the part that varies |
|---|---|---|
| `edge/receiver.py`, `edge/repetition.py` | a request's head | digits of its Content-Length |
| `upstream/http1/head.py` | an answer's head | its date, its ids, its length |
| `core/chat/tap.py`, `exchange/stream.py` | a stream's event | the text that it carries |

They share this page and these limits, and no code: what varies is of another kind in each, and one call of a common function on each
piece would cost as much as the comparison.
"""

LESSONS_MAX = 8
"""Shapes learnt in a row without one that came again, before none is learnt any more; of a stream or a connection."""
SHAPE_BYTES_MAX = 8_192
"""Longer pieces leave no shape: it would be held for as long as its stream or connection is open, which may ask for no key."""
